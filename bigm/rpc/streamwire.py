"""The frames of streams: `bigm.rpc.wire` continued, pure as that. Not for agents, which stream nothing.

A call has a stream for its result, number 0, and one for each argument that is streamed, from 1 on. `docs/protocol.md`
tells how they flow.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, Union

from bigm.errors import ProtocolError
from bigm.rpc import wire
from bigm.rpc.wire import MAX_LOAD, Buffer, Read, Readers, frame, joined, pack_lengths, unpack_lengths

# Types of frames.
OPENED = 16  # server to client: the method's result is a stream, whose items follow here
ITEMS = 17  # either way, with payload: items of a stream
CREDIT = 18  # either way: the reader has room for so many more bytes
END = 19  # either way, with payload: the stream has ended, well or with an error
STOP = 20  # server to client: the method reads no more of that argument

# Flag of OPENED and CREDIT.
SEEKABLE = 1  # the method takes an `offset`: its stream can be opened again where it broke

# How ITEMS carries them.
BYTES = 0  # one item, the payload itself
ONE = 1  # one item, pickled, with its out-of-band buffers
MANY = 2  # a pickled list of pickles

# Code of END; others are those of ERROR.
CLEAN = 0  # the stream ended well

WINDOW = 4 << 20  # bytes of a stream that its writer may be ahead of its reader, and one frame more

_ITEMS = struct.Struct("!HBH")  # stream | how it carries them | number of segments
_CREDIT = struct.Struct("!HQ")  # stream | bytes
_END = struct.Struct("!HBH")  # stream | code | number of segments
_STOP = struct.Struct("!H")  # stream


class Opened(NamedTuple):
    """The result of call `id` is a stream, number 0 of that call. `seekable`: its method takes an `offset`."""

    id: int
    load: int
    seekable: bool


class Items(NamedTuple):
    """Items of stream number `stream` of call `id`: 0 is its result, from 1 its arguments; `how`: see BYTES."""

    id: int
    stream: int
    how: int
    segments: list[Buffer]


class Credit(NamedTuple):
    """The reader of a stream has room for `size` bytes more."""

    id: int
    stream: int
    size: int
    seekable: bool


class End(NamedTuple):
    """The end of a stream: CLEAN and no segments, or an error's code and its payload as in `Error`."""

    id: int
    stream: int
    code: int
    segments: list[Buffer]


class Stop(NamedTuple):
    """The method reads no more of this stream."""

    id: int
    stream: int


StreamEvent = Union[Items, Credit, End, Stop]


def opened(id: int, load: int, seekable: bool) -> bytes:
    """The announcement of a stream as a call's result."""
    return frame(OPENED, SEEKABLE if seekable else 0, min(load, MAX_LOAD), id, b"")


def items(id: int, stream: int, how: int, segments: Sequence[Buffer]) -> list[Buffer]:
    """Items of a stream as buffers to send in this order."""
    header = _ITEMS.pack(stream, how, len(segments)) + pack_lengths(segments)
    return joined(frame(ITEMS, 0, 0, id, header), segments)


def credit(id: int, stream: int, size: int, *, seekable: bool = False) -> bytes:
    """Room for *size* more bytes of a stream."""
    return frame(CREDIT, SEEKABLE if seekable else 0, 0, id, _CREDIT.pack(stream, size))


def end(id: int, stream: int, code: int = CLEAN, segments: Sequence[Buffer] = ()) -> list[Buffer]:
    """The end of a stream as buffers to send in this order."""
    header = _END.pack(stream, code, len(segments)) + pack_lengths(segments)
    return joined(frame(END, 0, 0, id, header), segments)


def stop(id: int, stream: int) -> bytes:
    """Ask for no more of an argument."""
    return frame(STOP, 0, 0, id, _STOP.pack(stream))


def _read_opened(header: bytes, flags: int, load: int, id: int) -> Read:
    return Opened(id, load, bool(flags & SEEKABLE)), ()


def _read_items(header: bytes, flags: int, load: int, id: int) -> Read:
    stream, how, count = _ITEMS.unpack_from(header)
    if len(header) != _ITEMS.size + 8 * count or not count or how > MANY:
        raise ProtocolError("items whose header does not add up")
    return Items(id, stream, how, []), unpack_lengths(header, _ITEMS.size, count)


def _read_credit(header: bytes, flags: int, load: int, id: int) -> Read:
    stream, size = _CREDIT.unpack(header)
    return Credit(id, stream, size, bool(flags & SEEKABLE)), ()


def _read_end(header: bytes, flags: int, load: int, id: int) -> Read:
    stream, code, count = _END.unpack_from(header)
    if len(header) != _END.size + 8 * count or bool(code) != bool(count):
        raise ProtocolError("the end of a stream whose header does not add up")
    return End(id, stream, code, []), unpack_lengths(header, _END.size, count)


def _read_stop(header: bytes, flags: int, load: int, id: int) -> Read:
    return Stop(id, *_STOP.unpack(header)), ()


FROM_SERVER: Readers = {
    **wire.FROM_SERVER,
    OPENED: _read_opened,
    ITEMS: _read_items,
    CREDIT: _read_credit,
    END: _read_end,
    STOP: _read_stop,
}
FROM_CLIENT: Readers = {**wire.FROM_CLIENT, ITEMS: _read_items, CREDIT: _read_credit, END: _read_end}
