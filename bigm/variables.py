"""Variables that a program keeps on machines and reads on the driver: counters, gauges, and functions.

Each worker has its own values. Where several workers are threads of one process, on `inprocess`, whose call a thread
runs tells which of them is meant: what a module or a thread of a service's own does outside of calls is nobody's there.

This module travels: standard library alone.

Source: expvar of Go's standard library, which bigmachine publishes its machines' variables by.
"""

from __future__ import annotations

import functools
import numbers
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional, TypeVar, Union

from bigm.errors import ConfigError, NotPicklable
from bigm.rpc import codec
from bigm.rpc.codec import Home, reader

Number = Union[int, float]
_PLAIN = (int, float, str, bool, type(None))


class Failed(NamedTuple):
    """Stands where a value would: the function of a variable raised, or what it returned cannot be sent.

    Args:
        text: what happened.
    """

    text: str

    def __repr__(self) -> str:
        return f"<failed: {self.text}>"


class Counter:
    """Counts what happens on a worker. Made by `bigm.counter`."""

    __slots__ = ("_counts", "_lock", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._counts: dict[Optional[Home], Number] = {}

    def __repr__(self) -> str:
        return f"<Counter {self.name}: {self.value}>"

    def __reduce__(self) -> Any:
        return counter, (self.name,)

    def add(self, n: Number = 1) -> None:
        """Count *n* more. Any thread; costs a lock."""
        home = reader.home
        with self._lock:
            self._counts[home] = self._counts.get(home, 0) + n

    @property
    def value(self) -> Number:
        """What this worker has counted."""
        return self._read(reader.home)

    def _read(self, home: Optional[Home]) -> Number:
        return self._counts.get(home, 0)

    def _forget(self, home: Home) -> None:
        with self._lock:
            self._counts.pop(home, None)


class Gauge:
    """Holds what a worker last measured. Made by `bigm.gauge`."""

    __slots__ = ("_values", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._values: dict[Optional[Home], Any] = {}

    def __repr__(self) -> str:
        return f"<Gauge {self.name}: {self.value}>"

    def __reduce__(self) -> Any:
        return gauge, (self.name,)

    def set(self, value: Any) -> None:
        """Hold *value* from now on. Any thread.

        Args:
            value: a number, which can be summed, or anything else that pickles.
        """
        self._values[reader.home] = value

    @property
    def value(self) -> Any:
        """What this worker holds; 0 before the first `set`."""
        return self._read(reader.home)

    def _read(self, home: Optional[Home]) -> Any:
        return self._values.get(home, 0)

    def _forget(self, home: Home) -> None:
        self._values.pop(home, None)


class _Function:
    """A variable whose value is what a function returns when it is asked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.functions: dict[Optional[Home], Callable[[], Any]] = {}

    def _read(self, home: Optional[Home]) -> Any:
        function = self.functions.get(home) or self._shared()
        if function is None:
            return _MISSING
        try:
            value = function()
            if type(value) not in _PLAIN:
                codec.dumps(value, f"variable {self.name!r}")
        except NotPicklable as error:
            return Failed(error.message)
        except Exception as error:  # noqa: BLE001  # a user's function; the other variables have their turn
            return Failed(f"{codec.type_name(type(error))}: {codec.text_of(error)}".rstrip(": "))
        return value

    def _shared(self) -> Optional[Callable[[], Any]]:
        """What a module has made, which all workers of a process share."""
        found = self.functions.copy()  # others may add theirs meanwhile
        return next((found[home] for home in found if home is None or not home.worker), None)

    def _forget(self, home: Home) -> None:
        self.functions.pop(home, None)


_MISSING = object()

Variable = Union[Counter, Gauge, _Function]
V = TypeVar("V", Counter, Gauge, _Function)

_all: dict[str, Variable] = {}  # of this process, by name
_lock = threading.Lock()


def counter(name: str) -> Counter:
    """A counter of this worker's, always the same one for a name.

    Make it at the top of a module or in a service, and count with `add`; the driver reads it by `Cluster.variables`. In
    the driver it counts too, for nobody.

    Args:
        name: what it is called; one name is one kind of variable.
    Raises:
        ConfigError: the name is none, or that of a gauge or function.
    Example:
        HITS = bigm.counter("hits")
        ...
        HITS.add()
    """
    return _one(name, Counter)


def gauge(name: str) -> Gauge:
    """A gauge of this worker's: holds what it was last `set` to. As `counter` in all else."""
    return _one(name, Gauge)


def variable(name: str, function: Callable[[], Any]) -> None:
    """A variable whose value is what *function* returns whenever the driver asks.

    Args:
        name: what it is called. Given again, by the same worker, it is the new function's.
        function: quick; runs in a thread of its own call. What it raises is shown in place of a value.
    Raises:
        ConfigError: the name is none, or that of a counter or gauge; or *function* cannot be called.
    """
    if not callable(function):
        raise ConfigError(f"variable {name!r} needs a function, not {function!r:.200}")
    _one(name, _Function).functions[reader.home] = function


def read(home: Optional[Home]) -> dict[str, Any]:
    """The values of the worker that *home* belongs to, by name."""
    with _lock:
        found = list(_all.values())
    values = {each.name: each._read(home) for each in found}
    return {name: value for name, value in values.items() if value is not _MISSING}


def forget(home: Home) -> None:
    """The worker that *home* belongs to has ended."""
    with _lock:
        for each in _all.values():
            each._forget(home)


def total(values: Iterable[tuple[str, Any]]) -> Any:
    """What values come to together.

    Args:
        values: each with the name of where it is from.
    Returns:
        the sum of numbers; where one failed, that; None where they cannot be summed.
    """
    found = list(values)
    failed = next((Failed(f"{where}: {value.text}") for where, value in found if isinstance(value, Failed)), None)
    if failed is not None:
        return failed
    if all(isinstance(value, numbers.Number) for _, value in found):
        try:
            return functools.reduce(lambda a, b: a + b, (value for _, value in found))
        except TypeError:  # numbers of two worlds, as Decimal and float
            return None
    return None


def totals(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """For each name what all that have it come to together; names whose values cannot be summed are left out."""
    names = dict.fromkeys(name for values in parts.values() for name in values)
    sums = {name: total((where, values[name]) for where, values in parts.items() if name in values) for name in names}
    return {name: value for name, value in sums.items() if value is not None}


def of_workers(workers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A machine's values from those of its workers: their sums, and of what cannot be summed the tuple of them all."""
    if len(workers) == 1:
        return dict(workers[0])
    sums = totals({f"worker {proc}": values for proc, values in enumerate(workers)})
    names = dict.fromkeys(name for values in workers for name in values)
    return {
        name: sums[name] if name in sums else tuple(values[name] for values in workers if name in values)
        for name in names
    }


def _one(name: str, kind: type[V]) -> V:
    if not isinstance(name, str) or not name or not name.isprintable():
        raise ConfigError(f"a variable cannot be called {name!r:.200}", hint="give a text of printable characters")
    with _lock:
        found = _all.setdefault(name, kind(name))
    if not isinstance(found, kind):
        known = type(found).__name__.strip("_").lower()
        raise ConfigError(f"variable {name!r} is a {known} already", hint="take another name")
    return found
