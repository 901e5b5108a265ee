"""What of a service can be called, and what a server has learnt of each method."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Callable, Optional

SLOW = 0.0003  # seconds; a run that takes longer is a slow one
SLOW_RUNS = 2  # in a row, after which a method's calls each get a thread of their own
QUICK_RUNS = 8  # in a row, after which they do no longer


class Method:
    """One public method of a registered service."""

    __slots__ = ("function", "quick_runs", "slow", "slow_runs")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.slow = False
        self.slow_runs = 0  # in a row
        self.quick_runs = 0  # in a row

    def took(self, seconds: float) -> None:
        """Learn from a run. One slow run says little: on a busy computer any method is kept waiting now and then."""
        if seconds > SLOW:
            self.quick_runs = 0
            self.slow_runs += 1
            self.slow = self.slow or self.slow_runs >= SLOW_RUNS
        else:
            self.slow_runs = 0
            self.quick_runs += 1
            self.slow = self.slow and self.quick_runs < QUICK_RUNS


def methods_of(service: object, names: Optional[Iterable[str]] = None) -> dict[str, Method]:
    """The public methods of *service*, or those called *names*; properties are none."""
    table: dict[str, Method] = {}
    for name in names if names is not None else [each for each in dir(service) if not each.startswith("_")]:
        if isinstance(inspect.getattr_static(service, name, None), property):
            continue
        function = getattr(service, name, None)
        if callable(function):
            table[name] = Method(function)
    return table


def no_such_method(services: Mapping[str, Mapping[str, Method]], service: str, name: str) -> tuple[str, str]:
    """Message and hint for a method that is not there: near matches, or what there is."""
    import difflib  # here, since it is seldom needed and costs every worker's start

    if service in services:
        known, text = list(services[service]), f"service {service!r} has no public method {name!r}"
        near = [f"{service}.{each}" for each in difflib.get_close_matches(name, known)]
    else:
        known, text = list(services), f"there is no service {service!r}"
        having = [each for each in known if name in services[each]]
        near = [f"{each}.{name}" for each in (difflib.get_close_matches(service, known) if service else having)]
    if near:
        return text, f"did you mean {' or '.join(near)}?"
    return text, f"there {'are' if len(known) != 1 else 'is'} {', '.join(sorted(known)) or 'none'}"
