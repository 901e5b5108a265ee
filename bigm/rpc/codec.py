"""Values to segments and back: pickle protocol 5, with big buffers out of band.

Not here: frames (`wire`). Pickles are only ever read from a verified peer.

A payload is a list of segments. The first is a pickle; the others are the memory of arrays and the like, sent from
where they lie and rebuilt on the memory they were received into. Exceptions travel as text that needs no unpickling,
and beside it as a pickle which is tried by the receiver.

Functions and classes travel by their import path. What has none, or one that means nothing elsewhere, travels by value:
that and the search for what cannot be pickled at all are imported when needed, and no part of the agent's zip, which
sends nothing but records.
"""

from __future__ import annotations

import io
import json
import pickle
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

from bigm.errors import BigmError, ServiceError, WireError
from bigm.rpc.wire import MAX_SEGMENTS, Buffer, method_name

OUT_OF_BAND = 16 * 1024  # bytes; smaller buffers are copied into the pickle, which is cheaper than a segment
_EMPTY = pickle.dumps(((), {}), 5)
_MAX_TEXT = 1 << 20  # characters of a message or traceback that travel
_MAIN = b"\x8c\x08__main__"  # in every pickle that names something of `__main__`, and in some that only say so

_main_by_value = False


def send_main_by_value() -> None:
    """From now on, what this process defined in its `__main__` travels by value: machines cannot import that module.

    For good: by value is never wrong, and another cluster of this process may have an importable `__main__` (`%run`).
    """
    global _main_by_value
    _main_by_value = True


def main_is_importable() -> bool:
    """Whether machines find what this process defined in its `__main__` by name."""
    return not _main_by_value


class RemoteTraceback(Exception):
    """The traceback of an exception on another machine: the `__cause__` of that exception here.

    Args:
        machine: whose traceback it is.
        text: the traceback, as Python printed it there.

    Source: `concurrent.futures.process._RemoteTraceback`.
    """

    def __init__(self, machine: str, text: str) -> None:
        super().__init__(machine, text)
        self.machine = machine
        self.text = text

    def __str__(self) -> str:
        return f'on {self.machine}:\n"""\n{self.text}"""'


def dumps_call(method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Buffer]:
    """The arguments of a call as segments.

    Raises:
        NotPicklable: names the argument and the path to what cannot be pickled.
        ProtocolError: the method's name is too long.
    """
    method_name(method)
    if not args and not kwargs:
        return [_EMPTY]
    try:
        return pickled((args, dict(kwargs)))
    except Exception as e:
        from bigm.rpc import unpicklable

        raise unpicklable.explained(f"cannot call {method}", unpicklable.arguments(args, kwargs), e) from e


def dumps(value: Any, what: str) -> list[Buffer]:
    """Any value as segments; *what* names it in the error ("service 'PI'").

    Raises:
        NotPicklable: names the path to what cannot be pickled.
    """
    try:
        return pickled(value)
    except Exception as e:
        from bigm.rpc import unpicklable

        raise unpicklable.explained(f"cannot send {what}", [(what, value)], e) from e


def dumps_bytes(value: Any, what: str) -> bytes:
    """As `dumps`, in one piece that `pickle.loads` reads, with all buffers inside.

    Raises:
        NotPicklable: names the path to what cannot be pickled.
    """
    try:
        return bytes(pickled(value, out_of_band=False)[0])
    except Exception as e:
        from bigm.rpc import unpicklable

        raise unpicklable.explained(f"cannot send {what}", [(what, value)], e) from e


def dumps_reply(method: str, value: Any) -> list[Buffer]:
    """A method's result as segments. Raises NotPicklable as `dumps` does."""
    if value is None:
        return [_NONE]
    try:
        return pickled(value)
    except Exception as e:
        from bigm.rpc import unpicklable

        raise unpicklable.explained(f"cannot return from {method}", [("the result", value)], e) from e


_NONE = pickle.dumps(None, 5)


class Home:
    """Whose a value becomes that is rebuilt: a handle of a machine is one of the process that got it.

    Args:
        cluster: the cluster's id.
        dial: makes a handle from an address.
        worker: it is a worker's, not the driver's.
    """

    def __init__(self, cluster: str, dial: Callable[[str], Any], *, worker: bool) -> None:
        self.cluster = cluster
        self.dial = dial
        self.worker = worker
        self.shared: Any = None  # what finds objects that are shared


class Reader(threading.local):
    """Whose values this thread rebuilds: in one process there may be a driver and several workers."""

    home: Optional[Home] = None


reader = Reader()


def loads(segments: Sequence[Buffer], home: Optional[Home] = None) -> Any:
    """The value of segments; arrays lie in the segments' memory, nothing is copied.

    Args:
        home: whose it becomes, as what this thread rebuilds later, until another one is given; None: as before.
    """
    if home is not None:
        reader.home = home
    if len(segments) == 1:
        return pickle.loads(segments[0])
    return pickle.loads(segments[0], buffers=segments[1:])


def dumps_error(error: BaseException, machine: str) -> list[Buffer]:
    """An exception as segments: its text as JSON, and its pickle when it has one that may be raised in the caller.

    Not raised there as themselves: SystemExit and its like, which would end the caller; and errors of the wire, which
    would be mistaken for an error of the caller's own connection.
    """
    info = {
        "type": type_name(type(error)),
        "text": text_of(error),
        "traceback": "".join(traceback.format_exception(type(error), error, _own_frames(error)))[-_MAX_TEXT:],
        "machine": machine,
        "hint": error.hint if isinstance(error, BigmError) else "",
    }
    segments: list[Buffer] = [json.dumps(info).encode()]
    if isinstance(error, Exception) and not isinstance(error, WireError):
        try:
            segments.append(_dumps_exception(error))
        except Exception:  # noqa: BLE001, S110  # whatever a user's __reduce__ does; the text is enough
            pass
    return segments


def refusal(text: str, hint: str = "") -> list[Buffer]:
    """The payload of an ERROR frame that is no exception of the user's: a message and what to try."""
    return [json.dumps({"text": text, "hint": hint}).encode()]


def read_refusal(segments: Sequence[Buffer]) -> tuple[str, str]:
    """Message and hint of `refusal`."""
    info = _info(segments)
    return info.get("text", ""), info.get("hint", "")


def loads_error(segments: Sequence[Buffer], home: Optional[Home] = None) -> BaseException:
    """What to raise for a method's exception: the exception itself, else a ServiceError with its text.

    Either has the remote traceback as its `__cause__`.
    """
    info = _info(segments)
    error: Optional[BaseException] = None
    why = ""
    if len(segments) > 1:
        try:
            error = loads(segments[1:2], home)
        except Exception as e:  # noqa: BLE001  # a class that is not here, or that cannot be rebuilt
            why = f"it cannot be rebuilt here: {type_name(type(e))}: {text_of(e)}"
    if not isinstance(error, Exception):
        error = ServiceError(
            info.get("type", "an exception"), info.get("text", ""), info.get("traceback", ""), hint=why
        )
    error.__cause__ = RemoteTraceback(info.get("machine", ""), info.get("traceback", ""))
    return error


def type_name(cls: type[Any]) -> str:
    """A class's name as tracebacks print it."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def pickled(value: Any, out_of_band: bool = True) -> list[Buffer]:
    """*value* as segments. Raises whatever pickling raises: `dumps` and its like say where in a value it was."""
    segments: list[Buffer] = [b""]

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if not out_of_band or len(raw) < OUT_OF_BAND or len(segments) >= MAX_SEGMENTS:
            return True
        segments.append(raw)
        return False

    try:
        data = pickle.dumps(value, 5, buffer_callback=keep_inside)
    except Exception:  # noqa: BLE001  # by value it may work; if not, that raises too
        del segments[1:]
        from bigm.rpc import byvalue

        data = byvalue.dumps(value, keep_inside)
    else:
        if _main_by_value and _MAIN in data:
            del segments[1:]
            from bigm.rpc import byvalue

            data = byvalue.dumps(value, keep_inside, otherwise=data)
    segments[0] = data
    return segments


def _info(segments: Sequence[Buffer]) -> dict[str, str]:
    try:
        info = json.loads(bytes(segments[0]))
    except ValueError:
        return {"text": "an error that cannot be read"}
    return info if isinstance(info, dict) else {}


def text_of(error: BaseException) -> str:
    """What an exception says, whatever a `__str__` of the user's does."""
    try:
        return str(error)[:_MAX_TEXT]
    except Exception:  # noqa: BLE001  # a user's __str__
        return "<its message cannot be printed>"


def _own_frames(error: BaseException) -> Any:
    """The traceback from the user's method on: the server's own frame above it says nothing to anyone."""
    return error.__traceback__.tb_next if error.__traceback__ is not None else None


# Exceptions.


class _ExceptionPickler(pickle.Pickler):
    """Pickles exceptions so that they are rebuilt without calling `__init__`.

    BaseException's own reduction calls the class with `args`, which fails for every class whose `__init__` wants
    something else (a required keyword, another number of arguments).
    """

    def reducer_override(self, value: Any) -> Any:
        return reduce_exception(value)


def reduce_exception(value: Any) -> Any:
    """How pickle is to take *value* apart when it is an exception without a reduction of its own."""
    if isinstance(value, BaseException) and _reduces_as_base(type(value)):
        return _rebuild_exception, (type(value), value.args, value.__dict__)
    return NotImplemented


def _dumps_exception(error: BaseException) -> bytes:
    stream = io.BytesIO()
    try:
        _ExceptionPickler(stream, 5).dump(error)
    except Exception:  # noqa: BLE001, S110  # its class has no import path, perhaps
        pass
    else:
        pickled = stream.getvalue()
        if not (_main_by_value and _MAIN in pickled):
            return pickled
    from bigm.rpc import byvalue

    return byvalue.dumps(error)


def _reduces_as_base(cls: type[BaseException]) -> bool:
    return (
        cls.__reduce__ is BaseException.__reduce__
        and cls.__reduce_ex__ is object.__reduce_ex__
        and getattr(cls, "__getstate__", None) is getattr(BaseException, "__getstate__", None)
    )


def _rebuild_exception(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    builtin = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    error: BaseException = builtin.__new__(cls, *args)
    builtin.__init__(error, *args)  # type: ignore[misc]  # the nearest built-in one, on purpose
    error.__dict__.update(state)
    return error
