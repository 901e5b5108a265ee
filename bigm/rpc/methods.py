"""What of a service can be called, and what a server has learnt of each method."""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Callable, Optional, TypeVar

SLOW = 0.0003  # seconds; a run that takes longer is a slow one
SLOW_RUNS = 2  # in a row, after which a method's calls each get a thread of their own
QUICK_RUNS = 8  # in a row, after which they do no longer


class Queue:
    """Lets one call at a time run: what `serial` asks for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: deque[Any] = deque()

    def enter(self, job: Any) -> bool:
        """Whether *job* may run now; else `leave` gives it out when its turn has come."""
        with self._lock:
            if self._busy:
                self._waiting.append(job)
                return False
            self._busy = True
            return True

    def leave(self) -> Any:
        """The job that is next, or None."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._busy = False
            return None


class Method:
    """One public method of a registered service."""

    __slots__ = ("_seekable", "function", "queue", "quick_runs", "slow", "slow_runs")

    def __init__(self, function: Callable[..., Any], queue: Optional[Queue] = None) -> None:
        self.function = function
        self.queue = queue
        self._seekable: Optional[bool] = None
        self.slow = False
        self.slow_runs = 0  # in a row
        self.quick_runs = 0  # in a row

    @property
    def seekable(self) -> bool:
        """Whether it takes an `offset`, so that its stream can be opened again in the middle."""
        if self._seekable is None:
            try:
                self._seekable = "offset" in inspect.signature(self.function).parameters
            except (TypeError, ValueError):  # built in, without a signature
                self._seekable = False
        return self._seekable

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


_SERIAL = "__bigm_serial__"
T = TypeVar("T")


def serial(cls_or_method: T) -> T:
    """Mark a service's class, or some of its methods, as not made for several calls at once: they run one at a time.

    The others wait in their order, holding no thread; a stream counts until it has ended. Each worker has its own
    instance, and so its own queue. A serial method that calls its own service back, over whatever machines, waits for
    itself: give such calls a timeout.

    Example:
        @bigm.serial
        class Ledger: ...
    """
    setattr(cls_or_method, _SERIAL, True)
    return cls_or_method


def methods_of(service: object, names: Optional[Iterable[str]] = None) -> dict[str, Method]:
    """The public methods of *service*, or those called *names*; properties are none."""
    table: dict[str, Method] = {}
    queue = Queue()
    whole = getattr(type(service), _SERIAL, False)
    for name in names if names is not None else [each for each in dir(service) if not each.startswith("_")]:
        if isinstance(inspect.getattr_static(service, name, None), property):
            continue
        function = getattr(service, name, None)
        if callable(function):
            table[name] = Method(function, queue if whole or getattr(function, _SERIAL, False) else None)
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
