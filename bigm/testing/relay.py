"""Carries connections between two sockets, under conditions that a test may change while they live.

asyncio, which nothing else of bigm's own runs on: holding back, delaying and cutting some hundreds of connections is
exactly what it has ready, on one thread, and no machine pays for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

_PIECE = 64 << 10  # bytes carried at once
_PIECES = 16  # of one direction that may be under way: more wait where they are, as on a full network
_END = 5.0  # seconds for the thread to end


class Wire:
    """One connection.

    Args:
        near: the end whose other end somebody here dialled.
        far: connected to what was dialled.
        delay: seconds that each piece takes, in either direction.
        left: bytes after which it is cut; None: as many as there are.
        twin: a second connection, which is sent the first bytes of this one and then nothing.
    """

    def __init__(
        self,
        near: socket.socket,
        far: socket.socket,
        *,
        delay: float = 0.0,
        left: int | None = None,
        twin: socket.socket | None = None,
    ) -> None:
        self.delay = delay
        self.left = left
        self.ended = False
        self._near = near
        self._far = far
        self._twin = twin
        self._sockets = [near, far, *([twin] if twin is not None else [])]
        self._held = False
        self._open = asyncio.Event()
        self._open.set()
        for end in self._sockets:
            end.setblocking(False)

    def __repr__(self) -> str:
        return f"<Wire{' held' * self._held}{' ended' * self.ended}, delay {self.delay:g} s, {self.left} bytes left>"

    def cut(self) -> None:
        """End it at once, in both directions. Any thread."""
        for end in self._sockets:
            with contextlib.suppress(OSError):  # ended already
                end.shutdown(socket.SHUT_RDWR)

    # on the relay's thread

    def hold(self, held: bool) -> None:
        """Let nothing through, or let it through again."""
        self._held = held
        if held:
            self._open.clear()
        else:
            self._open.set()

    async def carry(self) -> None:
        """Carry until both directions have ended, or it is cut."""
        there = asyncio.ensure_future(self._one_way(self._near, self._far, self._twin))
        back = asyncio.ensure_future(self._one_way(self._far, self._near))
        try:
            await asyncio.gather(there, back)
        except OSError:
            pass  # an end is gone
        finally:
            await _cancelled(there, back)  # before their descriptors are given to others
            self.ended = True
            for end in self._sockets:
                end.close()

    async def _one_way(self, source: socket.socket, target: socket.socket, twin: socket.socket | None = None) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_PIECES)
        reading = asyncio.ensure_future(self._read(source, pieces))
        try:
            while True:
                due, data = await pieces.get()
                await self._pass(due)
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                if self.left is not None:
                    data, self.left = data[: self.left], max(0, self.left - len(data))
                loop = asyncio.get_running_loop()
                if twin is not None:
                    with contextlib.suppress(OSError):
                        await loop.sock_sendall(twin, data)
                    twin = None
                await loop.sock_sendall(target, data)
                if self.left == 0:
                    self.cut()
        finally:
            await _cancelled(reading)

    async def _read(self, source: socket.socket, pieces: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        data = b"more"
        while data:
            try:
                data = await loop.sock_recv(source, _PIECE)
            except OSError:
                data = b""
            await pieces.put((loop.time() + self.delay, data))

    async def _pass(self, due: float) -> None:
        late = due - asyncio.get_running_loop().time()
        if late > 0:
            await asyncio.sleep(late)  # that is the delay
        await self._open.wait()


async def _cancelled(*tasks: asyncio.Future[None]) -> None:
    """Cancel *tasks*, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Relay:
    """One thread that carries wires."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._carried: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Relay: {len(self._carried)} wires>"

    def carry(self, wire: Wire, *, held: bool = False) -> None:
        """Carry *wire* from now on. Any thread."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="bigm-relay", daemon=True)
                self._thread.start()
            self._loop.call_soon_threadsafe(self._begin, wire, held)

    def hold(self, wire: Wire, held: bool) -> None:
        """Let nothing through *wire*, or let it through again. Any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(wire.hold, held)

    def close(self) -> None:
        """End all wires and the thread."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(self._end(), loop).result(_END)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_END)
            loop.close()

    def _begin(self, wire: Wire, held: bool) -> None:
        wire.hold(held)
        task = asyncio.ensure_future(wire.carry())
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)

    async def _end(self) -> None:
        for task in list(self._carried):
            task.cancel()
        await asyncio.gather(*self._carried, return_exceptions=True)
