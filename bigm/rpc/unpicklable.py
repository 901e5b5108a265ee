"""What cannot be pickled, and where in a value it is. Needed only when something cannot be.

Plain pickle's errors name a type; a user wants to know which attribute of which argument holds it.
"""

from __future__ import annotations

import inspect
import io
import types
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from bigm.errors import NotPicklable
from bigm.rpc import codec

_FILE = "a file is streamed when it stands beside the other arguments; a service opens it in `setup`"
_DEPTH = 32  # levels of attributes that the search goes down

Parts = list[tuple[str, Any]]


def arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Parts:
    """The arguments of a call, with what they are called in messages."""
    named = [(f"argument {i + 1}", value) for i, value in enumerate(args)]
    return named + [(f"argument {name!r}", value) for name, value in kwargs.items()]


def explained(attempt: str, roots: Sequence[tuple[str, Any]], error: BaseException) -> NotPicklable:
    """The error to raise for *error*, which pickling gave.

    Args:
        attempt: "cannot call S.f".
        roots: what was pickled, in parts, each with its name.
        error: why it could not be.
    """
    for name, value in roots:
        failure = _failure(value)
        if failure is not None:
            path, part, reason = _search(name, value, failure)
            return NotPicklable(f"{attempt}: {path}: {_said(reason)}", hint=_FILE if _is_file(part) else "")
    return NotPicklable(f"{attempt}: {_said(error)}")


def _is_file(value: Any) -> bool:
    return isinstance(value, io.IOBase)


def _search(path: str, value: Any, failure: BaseException) -> tuple[str, Any, BaseException]:
    """Follow what cannot be pickled down to the innermost part that cannot: its path, itself, and why."""
    seen = {id(value)}
    for _ in range(_DEPTH):
        if isinstance(failure, NotPicklable) and "__reduce__" in vars(type(value)):
            break  # it refuses by itself, and says why
        for name, part in _parts(value):
            if id(part) in seen:
                continue  # a function that calls itself, a list in itself
            reason = _failure(part)
            if reason is not None:
                path, value, failure = path + name, part, reason
                seen.add(id(part))
                break
        else:
            break
    return path, value, failure


def _parts(value: Any) -> Parts:
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{i}]", part) for i, part in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [(f"{{{part!r}}}", part) for part in value]
    if isinstance(value, types.FunctionType):
        return _variables(value)
    if isinstance(value, type):
        return [(f".{name}", part) for name, part in vars(value).items() if name not in _OF_ALL_CLASSES]
    if getattr(value, "__func__", None) is not None:
        return [(".__self__", value.__self__)]
    return _attributes(value)


def _variables(function: types.FunctionType) -> Parts:
    """What a function takes along when it travels by value."""
    found = inspect.getclosurevars(function)
    variables = {**found.nonlocals, **found.globals}
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [(f", its variable {name!r}", value) for name, value in variables.items()] + [
        (", a default of its arguments", value) for value in defaults
    ]


_OF_ALL_CLASSES = frozenset(vars(type("_", (), {})))


def _attributes(value: Any) -> Parts:
    attributes = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, slot):
                attributes.setdefault(slot, getattr(value, slot))
    parts = [(f".{name}", part) for name, part in attributes.items()]
    return [*parts, (f", its class {type(value).__qualname__}", type(value))]


def _said(error: BaseException) -> str:
    return codec.text_of(error) or codec.type_name(type(error))


def _failure(value: Any) -> Optional[BaseException]:
    try:
        codec.pickled(value)
    except Exception as e:  # noqa: BLE001  # whatever a user's __reduce__ raises is the reason looked for
        return e
    return None
