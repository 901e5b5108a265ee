"""Results that take their time: generators, which stream, and coroutines, which run on the server's event loop.

A method that returns an iterator, a binary file, an asynchronous iterator or an awaitable has only begun. A stream's
items leave on the connection for big payloads; when the call came on the other one its stream is *parked*, like a big
reply, until the client asks for it where it may flow. Each plain generator has a thread to itself until it ends (it
may hold a lock or a database cursor, which insist on their thread); everything asynchronous shares one.

Not for agents, which have neither: this module is imported at the first such result.
"""

from __future__ import annotations

import asyncio
import functools
import io
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable

from bigm.errors import Unreachable
from bigm.rpc import streamwire, wire
from bigm.rpc.bytestreams import StreamReader
from bigm.rpc.current import running
from bigm.rpc.iterables import aclose_quietly, close_quietly, is_async, is_binary_file, pieces
from bigm.rpc.sides import ServerSide
from bigm.rpc.sources import Mark
from bigm.rpc.streams import Incoming, Stream
from bigm.rpc.streamwire import WINDOW
from bigm.rpc.wire import BULK
from bigm.rpc.writers import Stopped, Writer

if TYPE_CHECKING:
    from bigm.rpc.caller import Caller
    from bigm.rpc.server import Job, Server

_NEVER = float("inf")
_END = 2.0  # seconds for what runs on the loop to end with its server


# Arguments that are streams.


def receive(job: Job, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with a stream for each mark; its writer may begin: the method is about to run."""
    arrived = functools.partial(_arrived, job)
    return tuple(map(arrived, args)), {name: arrived(value) for name, value in kwargs.items()}


def _arrived(job: Job, value: Any) -> Any:
    if type(value) is not Mark:
        return value
    side, call, current = ServerSide(job.peer), job.call, job.current
    deadline = _NEVER if current.deadline is None else current.deadline
    incoming = Incoming(side, call.id, value.stream, call.method, deadline)
    job.peer.streams[call.id, value.stream] = incoming
    job.incoming.append(incoming)
    gone = functools.partial(incoming.settle, Unreachable(f"{call.method}: the caller of this method has gone"))
    current._on_cancel(gone)
    side.enqueue([streamwire.credit(call.id, value.stream, WINDOW, seekable=job.method.seekable)])
    side.flush()
    stream = Stream(incoming)
    return io.BufferedReader(StreamReader(stream)) if value.binary else stream


def release(job: Job) -> None:
    """The call is over: whoever still sends arguments is to stop, whoever still reads them is told."""
    side = ServerSide(job.peer)
    for incoming in job.incoming:
        side.abandon(incoming)
        incoming.cut(Unreachable(f"{job.call.method}: its call has ended, and its streams with it"))


# Results that are streams, and awaitables.


def go_on(server: Server, job: Job, result: Any, *, own_thread: bool) -> None:
    """See a job to its end that has returned such a result.

    Args:
        own_thread: this thread has nothing else to do.
    """
    if is_async(result) or hasattr(type(result), "__await__"):
        server.coroutines().start(job, result)
    elif not job.call.flags & wire.DIRECT:
        _Parked(server, job, result).announce()
    elif own_thread:
        produce(server, job, result)
    else:
        server.run_in_thread(lambda: produce(server, job, result))


class _Parked:
    """A stream that waits for its client to ask for it on the connection where it may flow."""

    def __init__(self, server: Server, job: Job, result: Any) -> None:
        self._server = server
        self._job = job
        self._result = result
        self._lock = threading.Lock()
        self._taken = False
        self._token = int.from_bytes(os.urandom(8), "big") | 1

    def announce(self) -> None:
        """Tell the client."""
        self._server.park(self._job.peer, self._job.call.id, self._token, self.fetched)
        self._job.current._on_cancel(self._abandoned)
        frame = wire.parked(self._job.call.id, self._server.in_flight - 1, self._token, 0)
        self._job.peer.connection.send([frame])

    def fetched(self, peer: Caller, id: int) -> None:
        """The client asks for it, by call *id* on *peer*. In a thread of its own."""
        if self._take():
            self._server.move(self._job, peer, id)
            go_on(self._server, self._job, self._result, own_thread=True)

    def _abandoned(self) -> None:
        if self._take():
            self._server.run_in_thread(self._close)

    def _close(self) -> None:
        if is_async(self._result):
            self._server.coroutines().close_iterator(self._result, self._job.call.method)
        else:
            close_quietly(self._result, self._job.call.method)
        self._server.finish(self._job, [])

    def _take(self) -> bool:
        with self._lock:
            taken, self._taken = self._taken, True
            return not taken


def produce(server: Server, job: Job, result: Any) -> None:
    """Stream an iterator or a binary file to its end."""
    writer = _open(server, job)
    iterator: Iterator[Any] = pieces(result) if is_binary_file(result) else result
    token = running.set(job.current)
    try:
        for item in iterator:
            writer.put(item)
        writer.end()
        job.failed = False
    except Stopped:
        close_quietly(iterator, job.call.method)
    except BaseException as e:  # noqa: BLE001  # the generator's own, SystemExit and KeyboardInterrupt too
        close_quietly(iterator, job.call.method)
        writer.end(e)
    finally:
        if iterator is not result:
            close_quietly(result, job.call.method)
        running.reset(token)
    _end(server, job, writer)


def _open(server: Server, job: Job) -> Writer:
    """The writer of a job's result, which is announced."""
    side, call = ServerSide(job.peer), job.call
    deadline = _NEVER if job.current.deadline is None else job.current.deadline
    what = f"an item of {call.method}"
    writer = Writer(side, call.id, 0, name=server.name, what=what, room=WINDOW, deadline=deadline)
    job.peer.streams[call.id, 0] = writer
    side.enqueue([streamwire.opened(call.id, server.in_flight - 1, job.method.seekable)])
    side.flush()
    job.current._on_cancel(writer.stop)
    return writer


def _end(server: Server, job: Job, writer: Writer) -> None:
    ServerSide(job.peer).forget(writer)
    job.seconds = time.monotonic() - job.started
    server.finish(job, [])


class Coroutines:
    """The event loop of a server, in a thread of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: list[tuple[Job, list[wire.Buffer]]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"bigm-async {server.name}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Coroutines of {self._server.name}: {len(self._tasks)} tasks>"

    def start(self, job: Job, result: Any) -> None:
        """See an awaitable or an asynchronous iterator to its end. Any thread; never waits."""
        self._soon(self._begin, job, result)

    def close_iterator(self, iterator: Any, method: str) -> None:
        """Close an asynchronous iterator of which nothing was read."""
        self._soon(lambda: self._keep(self._loop.create_task(aclose_quietly(iterator, method))))

    def close(self) -> None:
        """Cancel what runs, and end the loop."""
        self._soon(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(_END)

    def _soon(self, function: Callable[..., object], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed, and with it the server
            pass

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)  # with those that services made
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=_END))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def _keep(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _begin(self, job: Job, result: Any) -> None:
        if is_async(result) and not job.call.flags & wire.DIRECT:
            _Parked(self._server, job, result).announce()
            return
        task = self._keep(self._loop.create_task(self._see_to_its_end(job, result)))
        job.current._on_cancel(functools.partial(self._soon, task.cancel))

    async def _see_to_its_end(self, job: Job, result: Any) -> None:
        running.set(job.current)
        if is_async(result):
            await self._produce(job, result)
            return
        try:
            value = await result
        except asyncio.CancelledError as e:
            self._answer(job, [] if job.current.cancelled else self._server.raised(job, e))
            return
        except BaseException as e:  # noqa: BLE001  # SystemExit and KeyboardInterrupt too: the loop lives on
            self._answer(job, self._server.raised(job, e))
            return
        finally:
            job.seconds = time.monotonic() - job.started
        if takes_time(value):  # a coroutine that returned a generator
            go_on(self._server, job, value, own_thread=False)
            return
        self._answer(job, self._server.returned(job, value))

    async def _produce(self, job: Job, iterator: Any) -> None:
        writer = _open(self._server, job)
        try:
            async for item in iterator:
                await writer.aput(item)
            writer.end()
            job.failed = False
        except (Stopped, asyncio.CancelledError):
            if not job.current.cancelled:
                writer.end(asyncio.CancelledError("the method was cancelled"))
        except BaseException as e:  # noqa: BLE001  # as above
            writer.end(e)
        finally:
            await aclose_quietly(iterator, job.call.method)
        _end(self._server, job, writer)

    def _answer(self, job: Job, frames: list[wire.Buffer]) -> None:
        """Send an answer with those that come in the same turn of the loop."""
        if wire.size_of(frames) > BULK:
            self._server.run_in_thread(lambda: self._server.finish(job, frames))
            return
        self._done.append((job, frames))
        if len(self._done) == 1:
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        done, self._done = self._done, []
        peers = {job.peer: None for job, _ in done}
        for job, frames in done:
            if frames:
                job.peer.connection.enqueue(frames)
        for peer in peers:
            peer.connection.flush()
            peer.check_queue()
        for job, _ in done:
            self._server.finish(job, [])


def takes_time(value: Any) -> bool:
    """Whether a method that returned *value* has only begun. BytesIO and StringIO are in memory already, and pickle."""
    cls = type(value)
    if hasattr(cls, "getvalue"):
        return False
    return hasattr(cls, "__next__") or hasattr(cls, "__anext__") or hasattr(cls, "__await__")
