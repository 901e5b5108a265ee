"""Streams among the arguments of a call: found, replaced by a mark in what is pickled, and sent when the method runs.

Streamed are iterators (generators, files of text, a `Stream` on its way on), binary files, asynchronous iterators in
`acall`, and what `streamed` marks. Each is read by a thread of its own, which begins when the method runs and ends with
the call, or by a task of the caller's event loop.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from bigm.errors import CallError
from bigm.rpc.calls import Pending
from bigm.rpc.iterables import aclose_quietly, close_quietly, is_async, is_binary_file, pieces
from bigm.rpc.streams import Side
from bigm.rpc.writers import Stopped, Writer

if TYPE_CHECKING:
    import asyncio

    from bigm.rpc.channel import Channel


class _Claims:
    """What is being sent just now, so that two calls do not each get half of one iterator."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: set[int] = set()

    def claim(self, made: Any) -> bool:
        with self._lock:
            free = id(made) not in self._ids
            self._ids.add(id(made))
            return free

    def release(self, made: Any) -> None:
        with self._lock:
            self._ids.discard(id(made))


_claims = _Claims()


class streamed:
    """Marks an argument that is to be streamed, made anew whenever its call is sent again.

    Args:
        make: returns an iterator, a binary file, or (for `acall`) an asynchronous iterator; called when the call is
            made, and again for each retry.
    Example:
        machine.options(idempotent=True).call("Store.load", bigm.streamed(lambda: open("big.csv", "rb")))
    Source: bigmachine rpc/client.go, an argument of type func() io.Reader.
    """

    is_streamed = True
    binary = False  # the method gets a binary file whatever is made
    again = True  # may be made while the last one is still being read

    def __init__(self, make: Callable[[], Any]) -> None:
        if not callable(make):
            raise CallError(f"bigm.streamed takes a function that makes the stream, not {make!r}")
        self.make = make
        self.writer: Optional[Writer] = None  # of the last attempt
        self.sender: Optional[threading.Thread] = None  # its thread

    def __repr__(self) -> str:
        return f"streamed({self.make!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a streamed argument can stand beside the others only, not inside of one")


class Mark(NamedTuple):
    """Stands for a stream in the pickled arguments: its number, and whether the method gets it as a binary file."""

    stream: int
    binary: bool


def is_source(value: Any) -> bool:
    """Whether an argument is streamed. A BytesIO is not: it is in memory already, and pickles."""
    cls = type(value)
    if hasattr(cls, "getbuffer"):
        return False
    return issubclass(cls, streamed) or hasattr(cls, "__next__") or hasattr(cls, "__anext__") or is_binary_file(value)


class _Source:
    """One argument that is a stream."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self._made: Any = None if isinstance(given, streamed) else given
        self.used = False  # an item may have been taken
        self.writer: Optional[Writer] = None
        self.open()
        self.binary = is_binary_file(self._made) or (isinstance(given, streamed) and given.binary)
        if not (self.binary or hasattr(type(self._made), "__next__") or is_async(self._made)):
            raise CallError(f"{given!r} made {self._made!r}, which is no iterator and no binary file")

    def open(self) -> bool:
        """Make it, or use what was given for the first time; False when that is used up."""
        if isinstance(self._given, streamed) and (self._given.again or not self.used):
            if self._made is None or self.used:
                self._made = self._given.make()
                self.used = False
            return True
        return not self.used

    def take(self) -> Any:
        """What to send; from now on it is used."""
        self.used = True
        return self._made


class Sources:
    """The streams among one call's arguments, in the order of their numbers.

    Args:
        method: "Service.method", for messages.
        loop: the event loop of `acall`; asynchronous iterators need it.
    """

    def __init__(self, method: str, loop: Optional[asyncio.AbstractEventLoop] = None) -> None:
        self._method = method
        self._loop = loop
        self._sources: list[_Source] = []

    def __repr__(self) -> str:
        return f"<{len(self._sources)} streams to {self._method}>"

    def replace(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with a mark for each stream.

        Raises:
            CallError: the same iterator stands there twice, or an asynchronous one outside of `acall`.
        """
        return tuple(map(self._mark, args)), {name: self._mark(value) for name, value in kwargs.items()}

    def _mark(self, value: Any) -> Any:
        if not is_source(value):
            return value
        if any(source._given is value for source in self._sources):
            raise CallError(f"cannot call {self._method}: the same stream stands twice in its arguments")
        source = _Source(value)
        if self._loop is None and is_async(source._made):
            raise CallError(
                f"cannot call {self._method}: {value!r} is an asynchronous iterator", hint="await acall instead"
            )
        self._sources.append(source)
        return Mark(len(self._sources), source.binary)

    def attach(self, channel: Channel, call: Pending) -> None:
        """The call is about to be sent on *channel*."""
        side = channel.side()
        for number, source in enumerate(self._sources, 1):
            what = f"an item for {self._method}"
            source.writer = Writer(side, call.id, number, name="the caller", what=what, room=0, binary=source.binary)
            source.writer.on_first_room = self._beginner(source)
            if isinstance(source._given, streamed):
                source._given.writer = source.writer
            channel.streams[call.id, number] = source.writer

    def detach(self, side: Side) -> None:
        """The call is over, or its connection: whoever sends is to stop."""
        for source in self._sources:
            if source.writer is not None:
                source.writer.stop()
                side.forget(source.writer)

    def rewind(self) -> bool:
        """Make ready to be sent once more; False when an iterator was begun that cannot be made anew."""
        return all(source.open() for source in self._sources)

    def _beginner(self, source: _Source) -> Callable[[], None]:
        """What the first promise of room starts: the method runs."""

        def begin() -> None:
            writer, made = source.writer, source.take()
            assert writer is not None
            if not _claims.claim(made):
                writer.end(CallError(f"cannot call {self._method}: {made!r} is being sent by another call already"))
            elif is_async(made):
                import asyncio  # whoever has a loop has it already

                assert self._loop is not None
                asyncio.run_coroutine_threadsafe(_asend(writer, made, self._method), self._loop)
            else:
                args = (writer, made, self._method)
                sender = threading.Thread(target=_send, args=args, name="bigm-stream", daemon=True)
                if isinstance(source._given, streamed):
                    source._given.sender = sender
                sender.start()

        return begin


def _send(writer: Writer, made: Any, method: str) -> None:
    """Send a stream to its end, in a thread of its own."""
    iterator: Iterator[Any] = pieces(made) if is_binary_file(made) else made
    try:
        for item in iterator:
            writer.put(item)
        writer.end()
    except Stopped:
        close_quietly(iterator, method)
    except BaseException as e:  # noqa: BLE001  # the caller's iterator raised, or SystemExit: its method is told
        writer.end(e)
    finally:
        _claims.release(made)


async def _asend(writer: Writer, made: AsyncIterator[Any], method: str) -> None:
    """The same as a task of the caller's loop."""
    try:
        async for item in made:
            await writer.aput(item)
        writer.end()
    except Stopped:
        await aclose_quietly(made, method)
    except Exception as e:  # noqa: BLE001  # as above
        writer.end(e)
    except BaseException as e:  # the loop ends, or this task of it
        writer.end(e)
        raise
    finally:
        _claims.release(made)
