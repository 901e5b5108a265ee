"""The protocol without sockets: bytes in, events out. Everything here is pure; `docs/protocol.md` tells it in words.

Not here: TLS (`connection`), pickling (`codec`), who calls whom (`client`, `server`).

Every frame is a head of 16 bytes, a header whose form depends on the frame's type, and, for the types that carry a
payload, its segments one after another. The header says how long each segment is, so that a big one can be received
straight into the memory it will live in. A payload's first segment is what must be read first (a pickle), the others
are its out-of-band buffers.

    head    type u8 | flags u8 | load u16 | length of the header u32 | call u64         (network byte order)

Source: h11 `_state.py` and `_events.py` for the shape (no I/O, named limits).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Optional, Union

from bigm.errors import PayloadTooLarge, ProtocolError

Buffer = Union[bytes, bytearray, memoryview, mmap.mmap]

MAGIC = b"bigm"
VERSION = 2

# Types of frames. 16 to 31 are those of streams: `bigm.rpc.streamwire`.
HELLO = 1  # server to client, first thing on every connection
CALL = 2  # client to server, with payload
REPLY = 3  # server to client, with payload
ERROR = 4  # server to client, with payload
PARKED = 5  # server to client: the reply is big; fetch it on another connection
FETCH = 6  # client to server: send the parked reply on this connection
CANCEL = 7  # client to server: nobody waits for that call any more
GOODBYE = 8  # either way: nothing more will follow; tells the last call that was started

# Flags of CALL.
DIRECT = 1  # this connection carries big payloads: reply here whatever the size
STREAMS = 2  # arguments of this call are streams

# Codes of ERROR. Those below STARTED say that the method was not started.
BUSY = 1
NO_SUCH_METHOD = 2
NOT_ALLOWED = 3
BAD_ARGUMENTS = 4  # the payload could not be rebuilt there
EXPIRED = 5  # the deadline had passed before the method's turn came
GONE = 6  # FETCH of a reply that is not there (any more)
STARTED = 16
RAISED = 16  # the method raised; the payload tells what
BAD_REPLY = 17  # the method returned what cannot be pickled
TOO_LARGE = 18  # the reply is above the limit

MAX_HEADER = 16 * 1024  # bytes; room for MAX_SEGMENTS lengths and a method's name
MAX_SEGMENTS = 1024  # per payload; what is beyond travels inside the pickle
MAX_METHOD = 1024  # bytes of "Service.method" in UTF-8
MAX_REASON = 4096  # bytes of the text of a GOODBYE
MAX_LOAD = 0xFFFF  # the head's load field saturates
CHUNK = 256 * 1024  # bytes read at once; the longest frame that is received through the common buffer
BULK = 128 * 1024  # bytes; bigger payloads travel on connections of their own, so that small calls never wait for them

_HEAD = struct.Struct("!BBHIQ")
_CALL = struct.Struct("!dHH")  # seconds left (inf: no deadline) | length of the method's name | number of segments
_HELLO = struct.Struct("!4sHIQ")  # magic | version | calls in flight accepted | bytes of payload accepted
_ERROR = struct.Struct("!BH")  # code | number of segments
_COUNT = struct.Struct("!H")
_U64 = struct.Struct("!Q")
_ONE_REPLY = struct.Struct("!BBHIQHQ")  # head and header of a reply of one segment: nearly all are
_ONE_CALL = struct.Struct("!BBHIQdHHQ")  # the same for a call

HEAD_SIZE = _HEAD.size
_ONE_REPLY_HEADER = _ONE_REPLY.size - HEAD_SIZE
_ONE_CALL_HEADER = _ONE_CALL.size - HEAD_SIZE
_SHORT_HEADER = 256  # bytes; a longer one takes the general way


@dataclass(frozen=True)
class Limits:
    """What one side accepts.

    Args:
        in_flight: calls accepted and not yet answered, over all connections of a server; above it callers get Busy.
        payload: bytes of one call's arguments or one reply.
        queued: bytes waiting to be sent on one connection; above it the server reads no more calls from that
            connection, and a client's `submit` waits.
        stall: seconds for a frame's head and header to arrive in full, and between two pieces of a payload.
        handshake: seconds for a connection's TLS handshake, seen from the server.
        handshakes: connections in their handshake at once; more wait in the kernel's queue.
        idle_threads: threads a server keeps when they have nothing to do.
        log_payload: bytes; bigger payloads are logged, at most one line in `log_every` seconds.
        log_every: seconds.
    """

    in_flight: int = 8192
    payload: int = 64 << 30
    queued: int = 32 << 20
    stall: float = 120.0
    handshake: float = 60.0
    handshakes: int = 64
    idle_threads: int = 8
    log_payload: int = 64 << 20
    log_every: float = 10.0


class Hello(NamedTuple):
    """The server is ready: calls may be sent."""

    version: int
    in_flight: int
    payload: int
    name: str


class Call(NamedTuple):
    """A call: `timeout` in seconds from now (inf: none), `segments` its arguments."""

    id: int
    flags: int
    method: str
    timeout: float
    segments: list[Buffer]


class Reply(NamedTuple):
    """A method's result. `load` is the number of calls in flight at the server."""

    id: int
    load: int
    segments: list[Buffer]


class Error(NamedTuple):
    """A call without a result; see the codes above."""

    id: int
    load: int
    code: int
    segments: list[Buffer]


class Parked(NamedTuple):
    """The result of call `id` is `size` bytes and waits under `token`."""

    id: int
    load: int
    token: int
    size: int


class Fetch(NamedTuple):
    """Send what is parked under `token` as the reply to `id`."""

    id: int
    token: int


class Cancel(NamedTuple):
    """Nobody waits for call `id` any more."""

    id: int


class Goodbye(NamedTuple):
    """The end of a connection: calls above `last` were not started."""

    last: int
    reason: str


Event = Union[Hello, Call, Reply, Error, Parked, Fetch, Cancel, Goodbye, Any]  # and those of streams


def hello(limits: Limits, name: str) -> bytes:
    """The first frame of a server. *name* is for messages only; identity is the certificate's business."""
    text = name.encode()[:MAX_REASON]
    return frame(HELLO, 0, 0, 0, _HELLO.pack(MAGIC, VERSION, limits.in_flight, limits.payload) + text)


def call(id: int, method: str, timeout: float, segments: Sequence[Buffer], *, flags: int = 0) -> list[Buffer]:
    """A call as buffers to send in this order; *timeout* in seconds, inf for none."""
    name = method_name(method)
    count = len(segments)
    if count == 1:
        size = len(segments[0])
        head = _ONE_CALL.pack(CALL, flags, 0, 20 + len(name), id, timeout, len(name), 1, size)
        return joined(head + name, segments)
    header = _CALL.pack(timeout, len(name), count) + pack_lengths(segments) + name
    return joined(frame(CALL, flags, 0, id, header), segments)


def method_name(method: str) -> bytes:
    """The name of a method as it travels. Raises ProtocolError when it is too long."""
    name = method.encode()
    if len(name) > MAX_METHOD:
        raise ProtocolError(f"a method's name of {len(name)} bytes; at most {MAX_METHOD} are allowed")
    return name


def reply(id: int, load: int, segments: Sequence[Buffer]) -> list[Buffer]:
    """A result as buffers to send in this order."""
    if len(segments) == 1:
        head = _ONE_REPLY.pack(REPLY, 0, min(load, MAX_LOAD), 10, id, 1, len(segments[0]))
        return joined(head, segments)
    header = _COUNT.pack(len(segments)) + pack_lengths(segments)
    return joined(frame(REPLY, 0, min(load, MAX_LOAD), id, header), segments)


def error(id: int, load: int, code: int, segments: Sequence[Buffer]) -> list[Buffer]:
    """A refusal or a raised exception as buffers to send in this order."""
    header = _ERROR.pack(code, len(segments)) + pack_lengths(segments)
    return joined(frame(ERROR, 0, min(load, MAX_LOAD), id, header), segments)


def parked(id: int, load: int, token: int, size: int) -> bytes:
    """The announcement of a big result."""
    return frame(PARKED, 0, min(load, MAX_LOAD), id, _U64.pack(token) + _U64.pack(size))


def fetch(id: int, token: int) -> bytes:
    """Ask for a big result on this connection."""
    return frame(FETCH, 0, 0, id, _U64.pack(token))


def cancel(id: int) -> bytes:
    """Give a call up."""
    return frame(CANCEL, 0, 0, id, b"")


def goodbye(last: int, reason: str) -> bytes:
    """The last frame of a connection; *last* is the highest call that was started (0: none)."""
    return frame(GOODBYE, 0, 0, 0, _U64.pack(last) + reason.encode()[:MAX_REASON])


def size_of(segments: Sequence[Buffer]) -> int:
    """Bytes of a payload."""
    if len(segments) == 1:
        return len(segments[0])
    return sum(len(segment) for segment in segments)


def allocate(size: int) -> Buffer:
    """Memory to receive *size* bytes into, writable, and never cleared by Python while it holds the GIL."""
    if size < CHUNK:
        return bytearray(size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel built without huge pages
            pass
    return memory


class Decoder:
    """Turns received bytes into events.

    Put bytes into `buffer()` and say with `received` how many; or hand small amounts to `feed`.

    Args:
        limits: what is accepted.
        accepts: the types of frames that the other side may send, and what reads their headers.
    """

    def __init__(self, limits: Limits, accepts: Readers, allocate: Callable[[int], Buffer] = allocate) -> None:
        self._limits = limits
        self._accepts = accepts
        self._allocate = allocate
        self._memory = mmap.mmap(-1, CHUNK)  # not a bytearray, which would touch every page of it
        self._view = memoryview(self._memory)
        self._start = 0
        self._end = 0
        self._bulk: Optional[_Bulk] = None

    def __repr__(self) -> str:
        return f"<Decoder {self._end - self._start} bytes of a frame, {self._bulk or 'no payload'}>"

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._bulk is not None or self._end > self._start

    @property
    def receiving_bulk(self) -> bool:
        """Whether a big payload is being received into its own memory."""
        return self._bulk is not None

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._bulk is not None:
            return self._bulk.room()
        return self._view[self._end :]

    def feed(self, data: Buffer) -> list[Event]:
        """`buffer` and `received` for bytes that lie elsewhere."""
        events: list[Event] = []
        view = memoryview(data)
        while len(view):
            room = self.buffer()
            size = min(len(room), len(view))
            room[:size] = view[:size]
            events += self.received(size)
            view = view[size:]
        return events

    def received(self, size: int) -> list[Event]:
        """The events that *size* more bytes in `buffer` complete.

        Raises:
            ProtocolError: the other side does not speak this protocol; the connection is of no use any more.
            PayloadTooLarge: a payload above the limit; likewise.
        """
        bulk = self._bulk
        if bulk is not None:
            if not bulk.received(size):
                return []
            self._bulk = None
            return [bulk.event]
        self._end += size
        return self._parse()

    def _parse(self) -> list[Event]:
        events: list[Event] = []
        start, end, view = self._start, self._end, self._view
        while end - start >= HEAD_SIZE:
            kind, flags, load, length, id = _HEAD.unpack_from(view, start)
            if kind not in self._accepts:
                raise ProtocolError(f"a frame of type {kind}, which is not allowed here")
            if kind == REPLY and length == _ONE_REPLY_HEADER and end - start >= _ONE_REPLY.size:
                # Nearly all replies have one small segment: the same as below, in fewer steps.
                *_, count, size = _ONE_REPLY.unpack_from(view, start)
                body = start + _ONE_REPLY.size
                if count == 1 and size <= BULK and size <= self._limits.payload:
                    if end - body < size:
                        break
                    events.append(Reply(id, load, [bytes(view[body : body + size])]))
                    start = body + size
                    continue
            if kind == CALL and length < _SHORT_HEADER and end - start >= _ONE_CALL.size:
                # The same for calls.
                *_, timeout, named, count, size = _ONE_CALL.unpack_from(view, start)
                body = start + HEAD_SIZE + length
                if count == 1 and named == length - _ONE_CALL_HEADER and size <= BULK and timeout == timeout:
                    if size > self._limits.payload:
                        raise PayloadTooLarge(f"a payload of {size} bytes; at most {self._limits.payload} are accepted")
                    if end - body < size:
                        break
                    try:
                        method = str(view[body - named : body], "utf-8")
                    except UnicodeDecodeError as e:
                        raise ProtocolError(f"a malformed header in a frame of type {kind}: {e}") from e
                    events.append(Call(id, flags, method, timeout, [bytes(view[body : body + size])]))
                    start = body + size
                    continue
            if length > MAX_HEADER:
                raise ProtocolError(f"a header of {length} bytes; at most {MAX_HEADER} are allowed")
            body = start + HEAD_SIZE
            if end - body < length:
                break
            header = self._memory[body : body + length]
            body += length
            try:
                event, lengths = self._accepts[kind](header, flags, load, id)
            except (struct.error, UnicodeDecodeError) as e:
                raise ProtocolError(f"a malformed header in a frame of type {kind}: {e}") from e
            if lengths:
                total = sum(lengths)
                if total > self._limits.payload:
                    raise PayloadTooLarge(f"a payload of {total} bytes; at most {self._limits.payload} are accepted")
                if total > BULK:
                    start = self._begin_bulk(event, lengths, body)
                    if self._bulk is None:
                        events.append(event)
                        continue
                    break
                if end - body < total:
                    break
                segments = event.segments  # type: ignore[union-attr]  # only frames with payloads have lengths
                segments.append(bytes(view[body : body + lengths[0]]))
                body += lengths[0]
                for size in lengths[1:]:
                    segments.append(bytearray(view[body : body + size]))  # arrays expect to be writable
                    body += size
            events.append(event)
            start = body
        self._compact(start, end)
        return events

    def _compact(self, start: int, end: int) -> None:
        """Move what is left of an unfinished frame to the front; a whole small frame always fits behind it."""
        left = end - start
        if start and left and self._bulk is None:
            self._memory[:left] = self._memory[start:end]
            start, end = 0, left
        self._start, self._end = (start, end) if left else (0, 0)

    def _begin_bulk(self, event: Event, lengths: Sequence[int], body: int) -> int:
        """Go over to receiving a payload into memory of its own, beginning with what is already here."""
        segments = [self._allocate(size) for size in lengths]
        event.segments.extend(segments)  # type: ignore[union-attr]  # as above
        bulk = _Bulk(event, segments)
        while body < self._end:
            room = bulk.room()
            size = min(len(room), self._end - body)
            room[:size] = self._view[body : body + size]
            body += size
            if bulk.received(size):
                return body
        self._bulk = bulk
        return body


class _Bulk:
    """A payload on its way into its own memory."""

    def __init__(self, event: Event, segments: Sequence[Buffer]) -> None:
        self.event = event
        self._rooms = [memoryview(segment) for segment in segments if len(segment)]
        self._rooms.reverse()

    def __repr__(self) -> str:
        return f"{sum(len(room) for room in self._rooms)} bytes of a payload to come"

    def room(self) -> memoryview:
        return self._rooms[-1]

    def received(self, size: int) -> bool:
        """Take *size* bytes off the room; whether the payload is complete."""
        rest = self._rooms[-1][size:]
        if len(rest):
            self._rooms[-1] = rest
        else:
            self._rooms.pop()
        return not self._rooms


Read = tuple[Event, Sequence[int]]


def _read_hello(header: bytes, flags: int, load: int, id: int) -> Read:
    magic, version, in_flight, payload = _HELLO.unpack_from(header)
    if magic != MAGIC:
        raise ProtocolError(f"a greeting that begins with {magic!r}, not with {MAGIC!r}")
    if version != VERSION:
        raise ProtocolError(f"the other side speaks version {version} of the protocol, this one {VERSION}")
    return Hello(version, in_flight, payload, header[_HELLO.size :].decode()), ()


def _read_call(header: bytes, flags: int, load: int, id: int) -> Read:
    timeout, length, count = _CALL.unpack_from(header)
    lengths = unpack_lengths(header, _CALL.size, count)
    name = header[_CALL.size + 8 * count :]
    if len(name) != length or length > MAX_METHOD or not count:
        raise ProtocolError("a call whose header does not add up")
    if timeout != timeout:
        raise ProtocolError("a call whose deadline is not a number")
    return Call(id, flags, name.decode(), timeout, []), lengths


def _read_reply(header: bytes, flags: int, load: int, id: int) -> Read:
    (count,) = _COUNT.unpack_from(header)
    if len(header) != _COUNT.size + 8 * count or not count:
        raise ProtocolError("a reply whose header does not add up")
    return Reply(id, load, []), unpack_lengths(header, _COUNT.size, count)


def _read_error(header: bytes, flags: int, load: int, id: int) -> Read:
    code, count = _ERROR.unpack_from(header)
    if len(header) != _ERROR.size + 8 * count or not count:
        raise ProtocolError("an error whose header does not add up")
    return Error(id, load, code, []), unpack_lengths(header, _ERROR.size, count)


def _read_parked(header: bytes, flags: int, load: int, id: int) -> Read:
    return Parked(id, load, *struct.unpack("!QQ", header)), ()


def _read_fetch(header: bytes, flags: int, load: int, id: int) -> Read:
    return Fetch(id, *_U64.unpack(header)), ()


def _read_cancel(header: bytes, flags: int, load: int, id: int) -> Read:
    if header:
        raise ProtocolError("a cancellation whose header does not add up")
    return Cancel(id), ()


def _read_goodbye(header: bytes, flags: int, load: int, id: int) -> Read:
    (last,) = _U64.unpack_from(header)
    return Goodbye(last, header[_U64.size :].decode(errors="replace")), ()


Readers = Mapping[int, Callable[[bytes, int, int, int], Read]]
_READERS: Readers = {
    HELLO: _read_hello,
    CALL: _read_call,
    REPLY: _read_reply,
    ERROR: _read_error,
    PARKED: _read_parked,
    FETCH: _read_fetch,
    CANCEL: _read_cancel,
    GOODBYE: _read_goodbye,
}
FROM_SERVER = {kind: _READERS[kind] for kind in (HELLO, REPLY, ERROR, PARKED, GOODBYE)}
FROM_CLIENT = {kind: _READERS[kind] for kind in (CALL, FETCH, CANCEL, GOODBYE)}


def frame(kind: int, flags: int, load: int, id: int, header: bytes) -> bytes:
    """Head and header of a frame."""
    return _HEAD.pack(kind, flags, load, len(header), id) + header


def pack_lengths(segments: Sequence[Buffer]) -> bytes:
    """The lengths of a payload's segments, as they stand in a header. Raises ProtocolError when there are too many."""
    if len(segments) > MAX_SEGMENTS:
        raise ProtocolError(f"a payload of {len(segments)} segments; at most {MAX_SEGMENTS} are allowed")
    return struct.pack(f"!{len(segments)}Q", *[len(segment) for segment in segments])


def unpack_lengths(header: bytes, offset: int, count: int) -> Sequence[int]:
    """What `pack_lengths` packed. Raises ProtocolError or struct.error when the header does not hold that."""
    if count > MAX_SEGMENTS:
        raise ProtocolError(f"a payload of {count} segments; at most {MAX_SEGMENTS} are allowed")
    if count == 1:
        return _U64.unpack_from(header, offset)
    return struct.unpack_from(f"!{count}Q", header, offset)


def joined(head: bytes, segments: Sequence[Buffer]) -> list[Buffer]:
    """One buffer when all is small, so that one write sends it; else nothing is copied."""
    if len(segments) == 1 and len(segments[0]) <= 4096:
        return [head + segments[0]]
    return [head, *[segment for segment in segments if len(segment)]]
