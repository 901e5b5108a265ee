"""The one thread that reads and writes for whoever does not wait in a call of its own.

It writes what `submit` and `acall` queue (all that has accumulated goes out in one piece), reads connections whose
callers do not read for themselves, watches idle ones for their end, and keeps the deadlines of futures. It never runs
user code and never unpickles.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from typing import Callable, Optional, Protocol

from bigm.rpc.poller import WRITE, Poller

TICK = 0.02  # seconds; a connection nobody has used for one to two ticks is watched for its end
_FOREVER = float("inf")

logger = logging.getLogger("bigm.rpc")


class Watched(Protocol):
    """What the I/O thread asks of a connection's owner."""

    fd: int

    def on_readable(self) -> None:
        """There is something to read, or the end; read it if nobody else does."""

    def on_writable(self) -> None:
        """There is room again for what `Connection.on_blocked` was called for."""

    def flush(self) -> None:
        """Write what is queued."""

    def watch_if_idle(self) -> bool:
        """Have the end of the connection noticed, if nobody has used it since the last time; whether that is so."""

    def expire(self, now: float) -> float:
        """Fail what is past its deadline; the next deadline (monotonic), or inf."""


class IOThread:
    """A daemon thread, started when first needed. Usually the process has one: `shared()`."""

    def __init__(self, name: str = "bigm-io") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self.poller = Poller()
        self._channels: dict[int, Watched] = {}
        self._dirty: deque[Watched] = deque()
        self._posted: deque[Callable[[], None]] = deque()
        self._unwatched: set[Watched] = set()
        self._next_deadline = _FOREVER
        self._thread: Optional[threading.Thread] = None
        self._ticking = False

    def __repr__(self) -> str:
        return f"<IOThread {self._name}, {len(self._channels)} connections>"

    def add(self, channel: Watched) -> None:
        """Take a connection on; it is not read until its owner asks for that (`poller.set`)."""
        self._channels[channel.fd] = channel
        self.poller.set(channel.fd, 0)
        self._start()

    def remove(self, channel: Watched) -> None:
        """Let a connection go, before its socket is closed."""
        if self._channels.get(channel.fd) is channel:
            del self._channels[channel.fd]
            self.poller.remove(channel.fd)
        self._unwatched.discard(channel)

    def want_flush(self, channel: Watched) -> None:
        """Have `flush` called soon. Any thread."""
        self._dirty.append(channel)
        self.poller.wake()

    def post(self, function: Callable[[], None]) -> None:
        """Run a quick function of this package soon. Any thread."""
        self._posted.append(function)
        self._start()
        self.poller.wake()

    def unwatch(self, channel: Watched) -> None:
        """The connection's caller reads by itself from now on; look now and then whether it still does."""
        self._unwatched.add(channel)
        if not self._ticking:
            self.poller.wake()

    def deadline(self, when: float) -> None:
        """Have `expire` called at *when* (monotonic) or soon after. Any thread."""
        if when < self._next_deadline:
            self._next_deadline = when
            self.poller.wake()

    def _start(self) -> None:
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            ready = self.poller.wait(self._timeout())
            for fd, mask in ready:
                channel = self._channels.get(fd)
                if channel is None:
                    continue
                if mask & WRITE:
                    self._guarded(channel.on_writable)
                if mask & ~WRITE:
                    self._guarded(channel.on_readable)
            while self._posted:
                self._guarded(self._posted.popleft())
            while self._dirty:
                self._guarded(self._dirty.popleft().flush)
            if self._unwatched:
                self._tick()
            if self._next_deadline <= time.monotonic():
                self._expire()

    def _guarded(self, step: Callable[[], None]) -> None:
        """A fault in one connection's handling must not end all others."""
        try:
            step()
        except Exception:
            logger.exception("bigm: the I/O thread met a bug in %r", step)

    def _timeout(self) -> float:
        self._ticking = bool(self._unwatched)
        if self._next_deadline != _FOREVER:
            left = max(0.0, self._next_deadline - time.monotonic())
            return min(left, TICK) if self._ticking else left
        return TICK if self._ticking else -1.0

    def _tick(self) -> None:
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + TICK
        for channel in list(self._unwatched):
            if channel.watch_if_idle():
                self._unwatched.discard(channel)

    _next_tick = 0.0

    def _expire(self) -> None:
        self._next_deadline = _FOREVER
        now = time.monotonic()
        later: list[float] = [channel.expire(now) for channel in list(self._channels.values())]
        self.deadline(min(later, default=_FOREVER))

    def _disown(self) -> None:
        """In a forked child: the thread is not there, and the poller is the parent's."""
        self.poller.disown()
        self._lock = threading.Lock()
        self._reset()


_all: weakref.WeakSet[IOThread] = weakref.WeakSet()
_shared: list[IOThread] = []
_shared_lock = threading.Lock()


def shared() -> IOThread:
    """The process's own I/O thread."""
    with _shared_lock:
        if not _shared:
            _shared.append(IOThread())
        return _shared[0]


def _after_fork() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    for io in list(_all):
        io._disown()


os.register_at_fork(after_in_child=_after_fork)
