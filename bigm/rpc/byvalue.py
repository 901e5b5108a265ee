"""Functions and classes by value: what has no import path, or one that means nothing on the other side.

    a plain pickle of a call of `_load`: (which Python made it; the pickle that cloudpickle made; its buffers)

Bytecode belongs to one minor version of Python, so the receiver compares that before it reads the inner pickle. What
cloudpickle takes along is the function's code, its closure, and the globals it names, as they are at that moment.

A class keeps its identity. cloudpickle gives each class that it sends a name of its own, under which the receiver makes
it once and later finds it again, so that an instance which comes back is one of the sender's own class. Different from
cloudpickle: a class that is complete here is left as it is. There, every arrival sets all its attributes again, which
would give the classes of a prompt methods that see a copy of its globals, and undo what a machine keeps on its class.

Library: cloudpickle, which dask, ray, joblib and pyspark use for the same. Not needed, nor imported, for anything else.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Sequence
from typing import Any, Callable, Optional

from bigm.errors import NotPicklable
from bigm.rpc import codec

_HINT = "or define it in a module that both sides import"
_lock = threading.RLock()
_complete: weakref.WeakSet[type] = weakref.WeakSet()  # classes sent or received by value that need nothing more


def dumps(
    value: Any,
    keep_inside: Callable[[pickle.PickleBuffer], bool] = lambda buffer: True,
    otherwise: Optional[bytes] = None,
) -> bytes:
    """Pickle *value*, with functions and classes by value where they have no import path.

    Args:
        keep_inside: whether a buffer is to be copied into the pickle; where it says no it has taken the buffer, and
            the receiver gives it to `pickle.loads`.
        otherwise: what to return when it turns out that no function or class had to go by value.
    Raises:
        NotPicklable: cloudpickle is not installed here.
        Exception: whatever the pickling of something raises.
    """
    outside: list[pickle.PickleBuffer] = []

    def taken(buffer: pickle.PickleBuffer) -> bool:
        if keep_inside(buffer):
            return True
        outside.append(buffer)
        return False

    stream = io.BytesIO()
    pickler = _pickler()(stream, 5, buffer_callback=taken)
    pickler.dump(value)
    if otherwise is not None and not pickler.by_value:
        return otherwise
    # The buffers were taken already, in this order: the outer pickle only has to refer to them.
    return pickle.dumps(_Sent(stream.getvalue(), outside), 5, buffer_callback=lambda buffer: False)


class _Sent:
    """Pickles as a call of `_load`."""

    def __init__(self, pickled: bytes, outside: list[pickle.PickleBuffer]) -> None:
        self._pickled = pickled
        self._outside = outside

    def __reduce__(self) -> Any:
        return _load, (_python(), self._pickled, self._outside)


def _load(python: str, pickled: bytes, buffers: Sequence[Any]) -> Any:
    """What `dumps` was given. Reads nothing that another Python has made."""
    if python != _python():
        raise NotPicklable(
            f"a function or class was sent by value by Python {python}, and this is Python {_python()}: bytecode is "
            "not portable between them",
            hint=f"use the same minor version, {_HINT}",
        )
    _cloudpickle()
    return pickle.loads(pickled, buffers=buffers)


def _complete_class(cls: type, setter: tuple[Callable[[type, Any], Any], Any]) -> None:
    """Give a class that has just arrived its attributes, unless it is complete."""
    function, state = setter
    with _lock:  # another thread may be completing the same class: it must not be used half done
        if cls not in _complete:
            function(cls, state)
            _complete.add(cls)


@functools.cache
def _pickler() -> Any:
    cloudpickle = _cloudpickle()

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc, name-defined]  # imported when needed
        by_value = False  # some function or class had to be

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, BaseException):
                return codec.reduce_exception(value)
            of_main = isinstance(value, (type, types.FunctionType)) and value.__module__ == "__main__"
            if of_main and _has_import_path(value):  # cloudpickle would send it by value all the same
                return value.__qualname__
            if isinstance(value, functools._lru_cache_wrapper) and not _has_import_path(value):
                self.by_value = True
                return _cached, (value.__wrapped__, *value.cache_parameters().values())
            reduced = super().reducer_override(value)
            self.by_value |= reduced is not NotImplemented
            if isinstance(value, type) and isinstance(reduced, tuple) and len(reduced) == _WITH_SETTER:
                with _lock:
                    _complete.add(value)
                function, args, state, _, _, setter = _with_slots(value, reduced)
                return function, args, (setter, state), None, None, _complete_class
            return reduced

    return Pickler


def _with_slots(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Let a class that has slots be made with them.

    cloudpickle makes it without, so that its instances have a `__dict__` there, and cannot come back to where they have
    none.
    """
    function, args, (state, slots), *rest = reduced
    if not state.get("__slots__") or len(args) != _SKELETON or not isinstance(args[_KEYWORDS], dict):
        return reduced  # a NamedTuple's are empty, and it refuses to be given them
    args = (*args[:_KEYWORDS], {**args[_KEYWORDS], "__slots__": cls.__dict__["__slots__"]}, *args[_KEYWORDS + 1 :])
    made = ("__slots__", "__weakref__")
    kept = {
        name: each
        for name, each in state.items()
        if name not in made and not isinstance(each, types.MemberDescriptorType)
    }
    return (function, args, (kept, slots), *rest)


_SKELETON = 6  # arguments of cloudpickle's function that makes an empty class
_KEYWORDS = 3  # which of them is the class's first content
_WITH_SETTER = 6  # entries in what a reducer returns, when it says how the state is set


def _cached(function: Callable[..., Any], maxsize: Optional[int], typed: bool) -> Any:
    """What `functools.lru_cache` makes of *function*: with its cache empty."""
    return functools.lru_cache(maxsize, typed)(function)


def _has_import_path(value: Any) -> bool:
    """Whether machines find *value* by its name."""
    if value.__module__ == "__main__" and not codec.main_is_importable():
        return False
    found: Optional[Any] = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is value


def _cloudpickle() -> Any:
    try:
        import cloudpickle  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise NotPicklable(
            f"functions and classes without an import path need cloudpickle, which {sys.executable} has not",
            hint=f"install cloudpickle there, {_HINT}",
        ) from error
    return cloudpickle


def _python() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"
