"""The sending end of a stream: items in, frames out, as far as the reader has room for them.

Small items are sent together when they come in quick succession: the writer leaves the sending to the thread that
writes for all (`Side.soon`), which takes what has come together until then. An item after a pause leaves at once.
"""

from __future__ import annotations

import pickle
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Optional

from bigm.errors import DeadlineExceeded, NotPicklable, ProtocolError
from bigm.rpc import codec, streamwire, wire
from bigm.rpc.calls import NEVER
from bigm.rpc.streams import Side, alarm, as_bytes
from bigm.rpc.wire import Buffer

if TYPE_CHECKING:
    import asyncio

TOGETHER = 32 * 1024  # bytes; small items are sent together up to this size
SMALL = 16 * 1024  # bytes; a bigger item is sent alone
_BESIDE = 8  # bytes; pickling small items together adds at most this to each of them
_AROUND = 64  # bytes; and this to all, on either side of it
PAUSE = 0.0002  # seconds since the last sending after which an item leaves at once

_ATOMS = frozenset({int, float, bool, str, bytes, type(None)})  # pickled in one step, nothing in them out of band


class Stopped(Exception):
    """Nobody reads this stream any more. Never leaves this package."""


class Writer:
    """The sending end of a stream. `put` and `end` by one thread or coroutine, `deliver` by the connection's reader.

    Args:
        side: the connection.
        id: the call.
        stream: the number of the stream in it.
        name: of this process, for tracebacks.
        what: names an item in messages: "an item of S.squares".
        room: bytes that may be sent before the reader promises more.
        deadline: monotonic time after which nobody waits for items, or NEVER.
        binary: every item is bytes, and is sent as such, so that what the reader has taken is counted in bytes.
    """

    def __init__(
        self,
        side: Side,
        id: int,
        stream: int,
        *,
        name: str,
        what: str,
        room: int,
        deadline: float = NEVER,
        binary: bool = False,
    ) -> None:
        self.id = id
        self.stream = stream
        self.seekable = False  # the other side's method takes an `offset`; known from the first credit on
        self.taken = 0  # bytes that the reader has taken, as far as it has said
        self.on_first_room: Optional[Callable[[], None]] = None
        self.needs_reader = True
        self._side = side
        self._name = name
        self._what = what
        self._deadline = deadline
        self._binary = binary
        self._room = room
        self._stopped = False
        self._changed = threading.Condition()
        self._alarm: Optional[Callable[[], None]] = None  # of a coroutine that waits for room
        self._batch: list[bytes] = []
        self._size = 0
        self._flushed = 0.0
        self._asked = False

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else f"{self._room} bytes of room"
        return f"<Writer of {self._what}, stream {self.stream} of call {self.id}: {state}>"

    # By the connection's reader.

    def deliver(self, event: streamwire.StreamEvent) -> None:
        """Take a frame: room, or the reader's wish for no more. Never waits."""
        if isinstance(event, streamwire.Credit):
            with self._changed:
                if self.on_first_room is None:
                    self.taken += event.size
                self._room += event.size
                self._changed.notify_all()
            self.seekable = self.seekable or event.seekable
            begin, self.on_first_room = self.on_first_room, None
            if begin is not None:
                begin()
            self._ring()
        elif isinstance(event, streamwire.Stop):
            self.stop()
        else:
            raise ProtocolError(f"a frame to the writer of {self._what} that only its reader can take")

    def stop(self) -> None:
        """Nobody reads any more: whoever puts an item is told. Any thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._ring()

    # By whoever has the items.

    def put(self, item: Any) -> None:
        """Send an item, or wait until there is room for it.

        Raises:
            Stopped: nobody reads any more.
            NotPicklable: the item cannot be pickled; names the path to what cannot.
            DeadlineExceeded: the call's time is over.
        """
        self._await_room()
        big = self._pack(item)
        if big is not None:
            self.flush()
            self._await_room()
            self._side.send_waiting(self._charged(*big))
            self._flushed = time.monotonic()

    async def aput(self, item: Any) -> None:
        """The same for a coroutine. Sends without waiting for the socket: room bounds what is queued."""
        await self._sleep_until_room()
        big = self._pack(item)
        if big is not None:
            self.flush()
            await self._sleep_until_room()
            self._side.enqueue(self._charged(*big))
            self._side.flush()
            self._flushed = time.monotonic()

    def flush(self) -> None:
        """Send the small items that have come together. Any thread; never waits."""
        self._asked = False
        with self._changed:
            if not self._batch:
                return
            batch, self._batch = self._batch, []
            how, pickled = (streamwire.ONE, batch[0]) if len(batch) == 1 else (streamwire.MANY, pickle.dumps(batch, 5))
            self._room += self._size - len(pickled)  # what the reader counts
            self._size = 0
            self._side.enqueue(streamwire.items(self.id, self.stream, how, [pickled]))
        self._side.flush()
        self._flushed = time.monotonic()

    def end(self, error: Optional[BaseException] = None) -> None:
        """Send the end, behind all items: clean, or with *error*."""
        self.flush()
        if error is None:
            frames = streamwire.end(self.id, self.stream)
        elif isinstance(error, NotPicklable):
            frames = streamwire.end(self.id, self.stream, wire.BAD_REPLY, codec.refusal(error.message, error.hint))
        elif isinstance(error, DeadlineExceeded):
            frames = streamwire.end(self.id, self.stream, wire.EXPIRED, codec.refusal(error.message, error.hint))
        else:
            frames = streamwire.end(self.id, self.stream, wire.RAISED, codec.dumps_error(error, self._name))
        if wire.size_of(frames) > SMALL:
            self._side.send_waiting(frames)
        else:
            self._side.enqueue(frames)
            self._side.flush()
        self._side.forget(self)

    def _pack(self, item: Any) -> Optional[tuple[int, list[Buffer]]]:
        """Put a small item to its neighbours; a big one as it is to be sent."""
        kind = type(item)
        if self._binary:
            return streamwire.BYTES, [bytes(as_bytes(item))]
        if kind is memoryview or (kind is bytes and len(item) > SMALL):
            return streamwire.BYTES, [bytes(item)]  # no copy of what is bytes
        if kind in _ATOMS:
            segments: list[Buffer] = [pickle.dumps(item, 5)]
        else:
            segments = [_kept(segment) for segment in codec.dumps(item, self._what)]
        if len(segments) > 1 or len(segments[0]) > SMALL:
            return streamwire.ONE, segments
        self._add(bytes(segments[0]))
        return None

    def _charged(self, how: int, segments: list[Buffer]) -> list[Buffer]:
        """The frame of a big item, for which the room is taken."""
        with self._changed:
            self._room -= wire.size_of(segments)
        return streamwire.items(self.id, self.stream, how, segments)

    def _add(self, pickled: bytes) -> None:
        """Have a small item sent with its neighbours.

        Its room is taken now, a little more than it will need: if only `flush` took it, in whatever thread, the next
        item could be put before that and leave when there is no room.
        """
        with self._changed:
            size = len(pickled) + (_BESIDE if self._batch else _AROUND)
            self._batch.append(pickled)
            self._size += size
            self._room -= size
        if self._size >= TOGETHER or time.monotonic() - self._flushed > PAUSE:
            self.flush()
        elif not self._asked:
            self._asked = True
            self._side.soon(self.flush)

    def _await_room(self) -> None:
        if self._room > 0 and not self._stopped:
            return
        self.flush()
        left = self._deadline - time.monotonic()
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or self._room > 0, None if left == NEVER else max(0.0, min(left, 1e6))
            )
            if self._stopped:
                raise Stopped
            if self._room <= 0:
                raise DeadlineExceeded("its deadline passed while its reader took nothing")

    async def _sleep_until_room(self) -> None:
        while self._room <= 0 or self._stopped:
            if self._stopped:
                raise Stopped
            self.flush()
            import asyncio

            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            self._alarm = alarm(loop, waiter)
            if self._room <= 0 and not self._stopped:
                await waiter  # ends with the task, which the end of the call cancels

    def _ring(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm()


def _kept(segment: Buffer) -> Any:
    """A segment that stays as it is though the generator changes the array it yielded."""
    return segment if isinstance(segment, bytes) or memoryview(segment).readonly else bytes(segment)
