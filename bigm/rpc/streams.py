"""Streams: items on their way in one direction of a call, each leaving as soon as it is there.

Theory of operation. Stream 0 of a call is its result, streams from 1 on are arguments. Each has a `Writer` on one side
and an `Incoming` on the other, which the connection's reader hands the frames of that stream; it never waits for
either, so an unread stream stops nobody else. What bounds memory is *credit*: a writer sends while the reader has
promised room, WINDOW bytes of it and at most one frame more, and then waits. An argument begins without credit: its
first byte leaves when the method runs, so that a call which was refused has not touched the caller's iterator.

Not for agents, which stream nothing: this module is imported when the first stream is opened.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional, Protocol, Union

from bigm.errors import BigmError, CallError, DeadlineExceeded, NotPicklable, ProtocolError
from bigm.rpc import codec, interrupts, streamwire, wire
from bigm.rpc.calls import NEVER, Outcome, WaitingCall
from bigm.rpc.streamwire import WINDOW
from bigm.rpc.wire import Buffer

if TYPE_CHECKING:
    import asyncio

    from bigm.rpc.writers import Writer

_NOTHING = object()
_CLOSED = streamwire.End(0, 0, streamwire.CLEAN, [])  # by its reader


class Side(Protocol):
    """One side of a connection, as the streams on it see it."""

    @property
    def home(self) -> Optional[codec.Home]:
        """Whose the items become that arrive here."""

    def enqueue(self, frames: Sequence[Buffer]) -> None:
        """Queue a frame; `flush` follows. Never waits."""

    def flush(self) -> None:
        """Send what is queued as far as the socket takes it. Never waits."""

    def send_waiting(self, frames: Sequence[Buffer]) -> None:
        """Send a big frame from this thread."""

    def soon(self, function: Callable[[], None]) -> None:
        """Have a quick function called by the thread that writes for all. Takes no lock: a finalizer may call it."""

    def wait(self, incoming: Incoming) -> None:
        """Wait until *incoming* has an outcome, or its deadline has passed."""

    def want(self, incoming: Incoming) -> None:
        """A coroutine waits for *incoming*: see to it that the connection is read."""

    def abandon(self, incoming: Incoming) -> None:
        """Nobody reads *incoming* any more: tell the writer, and forget it."""

    def forget(self, stream: Union[Incoming, Writer]) -> None:
        """The stream has ended."""


class Incoming(WaitingCall):
    """The reading end of a stream, as the connection's reader sees it.

    Its `outcome` is not the call's but a mark that there is something to take.

    Args:
        side: the connection.
        id: the call.
        stream: the number of the stream in it.
        method: "Service.method", for messages.
        deadline: monotonic time after which reading fails, or NEVER.
        seekable: the method takes an `offset`.
        room: bytes the writer was promised.
    """

    def __init__(
        self,
        side: Side,
        id: int,
        stream: int,
        method: str,
        deadline: float,
        *,
        seekable: bool = False,
        room: int = WINDOW,
    ) -> None:
        super().__init__(method, (b"",), deadline, False)
        self.id = id
        self.stream = stream
        self.side = side
        self.seekable = seekable
        self.on_end: Optional[Callable[[], None]] = None
        self.needs_reader = False  # whoever waits for a frame does not read the connection
        self._granted = room  # bytes in all; changed by whoever reads the stream
        self._received = 0  # of those; changed by the connection's reader: with one counter for both, one would be lost
        self._owed = 0
        self._events: deque[Union[streamwire.Items, streamwire.End, BaseException]] = deque()
        self._alarm: Optional[Callable[[], None]] = None  # of a coroutine that waits

    def __repr__(self) -> str:
        return f"<Incoming {self.method}, stream {self.stream} of call {self.id}: {len(self._events)} frames to take>"

    def deliver(self, event: streamwire.StreamEvent) -> None:
        """Take a frame. The connection's reader only; never waits.

        Raises:
            ProtocolError: the other side sent more than there was room for.
        """
        if isinstance(event, streamwire.Items):
            if self._received >= self._granted:
                raise ProtocolError(f"items of {self.method} for which there was no room")
            self._received += wire.size_of(event.segments)
        elif not isinstance(event, streamwire.End):
            raise ProtocolError(f"a frame to the reader of {self.method} that only its writer can take")
        self._put(event)

    def settle(self, outcome: Outcome) -> None:
        """The stream has ended with an error of this side: nothing follows."""
        assert isinstance(outcome, BaseException)
        self._put(outcome)

    def cut(self, end: Union[streamwire.End, BaseException]) -> None:
        """The stream is over whatever has come of it: reading finds *end* from now on."""
        self._events.clear()
        self._put(end)

    def take(self) -> Union[streamwire.Items, streamwire.End, BaseException]:
        """The next frame, waited for.

        Raises:
            DeadlineExceeded: the call's time is over.
        """
        while True:
            try:
                return self._events.popleft()
            except IndexError:
                self.outcome = None
            if self._events:  # it came between the two lines above
                continue
            self._check_deadline()
            self.side.wait(self)

    async def atake(self) -> Union[streamwire.Items, streamwire.End, BaseException]:
        """The same for a coroutine."""
        while not self._events:
            await self._sleep()
        return self._events.popleft()

    def consumed(self, size: int) -> None:
        """Say that the reader has taken so many bytes out of what came; the writer is told now and then."""
        self._owed += size
        if self._owed >= WINDOW // 2:
            owed, self._owed = self._owed, 0
            self._granted += owed
            self.side.enqueue([streamwire.credit(self.id, self.stream, owed)])
            self.side.flush()

    def _put(self, event: Union[streamwire.Items, streamwire.End, BaseException]) -> None:
        self._events.append(event)
        self.needs_reader = False
        self.outcome = event  # type: ignore[assignment]  # only a mark; see above
        self.wake()
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm()

    async def _sleep(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._alarm = alarm(loop, waiter)
        if self._events:
            return
        self._check_deadline()
        self.side.want(self)
        left = self.deadline - time.monotonic()
        await asyncio.wait([waiter], timeout=None if left == NEVER else max(0.0, left))

    def _check_deadline(self) -> None:
        if time.monotonic() >= self.deadline:
            waited = time.monotonic() - self.started
            raise DeadlineExceeded(f"{self.method}: its stream had not ended within {waited:.3g} s")


def alarm(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None]) -> Callable[[], None]:
    """Wakes a coroutine of *loop*, from any thread."""

    def ring() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(ring)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    return wake


class Stream:
    """Items from the other side of a call: an iterator, for `for` and for `async for`.

    Items arrive in order, an error of the writer's behind those before it. Reading waits only when nothing has come.
    Whoever stops reading early closes it, by `close`, by leaving a `with` block, or by letting go of it; the writer's
    generator is then closed too. For one reader at a time.
    """

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._batch: Iterator[bytes] = iter(())
        self._done = False

    def __repr__(self) -> str:
        return f"<Stream of {self._incoming.method} {'ended' if self._done else 'open'}>"

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Any:
        """The next item.

        Raises:
            StopIteration: there are no more.
            Exception: the writer's own, as itself.
            MayHaveRun: the connection was lost.
            MachineStopped: the machine ended, with its cause.
            DeadlineExceeded: the call's timeout, which is the whole stream's, is over.
        """
        for pickled in self._batch:
            return codec.loads((pickled,), self._incoming.side.home)
        while not self._done:
            with interrupts.deferred():
                value = self._value(self._taken())
            if value is not _NOTHING:
                return value
        raise StopIteration

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        """The next item; errors as of `__next__`, StopAsyncIteration at the end."""
        for pickled in self._batch:
            return codec.loads((pickled,), self._incoming.side.home)
        while not self._done:
            try:
                event = await self._incoming.atake()
            except DeadlineExceeded:
                self.close()
                raise
            value = self._value(event)
            if value is not _NOTHING:
                return value
        raise StopAsyncIteration

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """Read no more: the writer is told to stop. Any thread; whoever waits for an item finds the end.

        Idempotent; never waits.
        """
        if not self._done:
            self._end()
            self._incoming.cut(_CLOSED)  # for a thread or coroutine that waits for an item just now
            with interrupts.deferred():
                self._incoming.side.abandon(self._incoming)

    async def aclose(self) -> None:
        """The same, for `contextlib.aclosing`."""
        self.close()

    def __del__(self) -> None:
        self.drop()

    def drop(self) -> None:
        """As `close`, but for finalizers, which may come while this thread holds any lock: others tell the writer."""
        if not self._done:
            self._done = True
            incoming = self._incoming
            incoming.side.soon(lambda: _let_go(incoming))

    @property
    def seekable(self) -> bool:
        """Whether the method takes an `offset`, so that the stream can be opened again in the middle."""
        return self._incoming.seekable

    def consumed(self, size: int) -> None:
        """Tell the writer that so many bytes were taken, which `next_bytes` was told not to say."""
        if not self._done:
            self._incoming.consumed(size)

    def next_bytes(self, *, consume: bool = True) -> Optional[Buffer]:
        """The next item of a stream of bytes, where it was received, without a copy; None at the end.

        Args:
            consume: say so to the writer; else `consumed` does later.
        Raises:
            CallError: the item is not bytes.
        """
        for pickled in self._batch:
            return as_bytes(pickle.loads(pickled))  # nothing but bytes is wanted
        while not self._done:
            with interrupts.deferred():
                event = self._taken()
                if isinstance(event, streamwire.Items) and event.how == streamwire.BYTES:
                    if consume:
                        self._incoming.consumed(wire.size_of(event.segments))
                    return event.segments[0]
                value = self._value(event)
            if value is not _NOTHING:
                return as_bytes(value)
        return None

    def _taken(self) -> Union[streamwire.Items, streamwire.End, BaseException]:
        try:
            return self._incoming.take()
        except DeadlineExceeded:
            self.close()
            raise

    def _value(self, event: Union[streamwire.Items, streamwire.End, BaseException]) -> Any:
        """What a frame says: an item, _NOTHING at a clean end; raises the error it carries."""
        if self._done:  # closed while this was waited for
            return _NOTHING
        if isinstance(event, streamwire.Items):
            self._incoming.consumed(wire.size_of(event.segments))
            if event.how == streamwire.BYTES:
                return bytes(event.segments[0])
            if event.how == streamwire.ONE:
                return codec.loads(event.segments, self._incoming.side.home)
            self._batch = iter(pickle.loads(event.segments[0]))
            return codec.loads((next(self._batch),), self._incoming.side.home)
        self._end()
        self._incoming.side.forget(self._incoming)
        if isinstance(event, BaseException):
            raise event
        if event.code == streamwire.CLEAN:
            return _NOTHING
        raise end_error(event, self._incoming.method, self._incoming.side.home)

    def _end(self) -> None:
        self._done = True
        self._batch = iter(())
        if self._incoming.on_end is not None:
            self._incoming.on_end()


def _let_go(incoming: Incoming) -> None:
    if incoming.on_end is not None:
        incoming.on_end()
    incoming.side.abandon(incoming)


def end_error(event: streamwire.End, method: str, home: Optional[codec.Home]) -> BaseException:
    """What the reader raises at an END that is not a clean one."""
    if event.code == wire.RAISED:
        return codec.loads_error(event.segments, home)
    text, hint = codec.read_refusal(event.segments)
    kind: type[BigmError] = {wire.BAD_REPLY: NotPicklable, wire.EXPIRED: DeadlineExceeded}.get(
        event.code, ProtocolError
    )
    return kind(f"{method}: {text}", hint=hint)


def as_bytes(value: Any) -> Buffer:
    """An item of a stream of bytes. Raises CallError when it is none."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return value
    raise CallError(
        f"a stream of bytes has an item of type {codec.type_name(type(value))}",
        hint="yield bytes, or return a binary file; `stream` takes items of any type",
    )
