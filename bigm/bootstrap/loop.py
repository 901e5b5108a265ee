"""The agent's one thread of its own: descriptors, timers, ended children, and what other threads ask of it.

Everything here runs on the thread that called `run`, the process's main thread. It lives as long as the agent, which
matters: the kernel ends a worker when the *thread* that forked it ends (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import signal
import socket
import threading
import time
from collections import deque
from typing import Any, Callable, Optional

from bigm.errors import BigmError

_IDLE = 3600.0  # seconds to sleep when no timer is set


class Loop:
    """A small event loop. Callbacks must not block; one that raises ends the agent, which is then a bug shown."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._asked: deque[Callable[[], None]] = deque()
        self._running = True
        self._thread: Optional[threading.Thread] = None
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self.watch(self._wake_out.fileno(), self._woken)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call *callback* whenever *fd* is readable or at its end."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def unwatch(self, fd: int) -> None:
        """Forget *fd*, before it is closed."""
        self._selector.unregister(fd)

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call *callback* once, *seconds* from now. Not cancelled: a callback looks whether it still holds."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), callback))

    def soon(self, callback: Callable[[], None]) -> None:
        """Call *callback* on the loop's thread. For any thread."""
        self._asked.append(callback)
        try:
            self._wake_in.send(b"\0")
        except OSError:
            pass  # full: it is awake already; or closed: nothing is called any more

    def do(self, function: Callable[[], Any], timeout: float) -> Any:
        """Run *function* on the loop's thread and return what it returns or raise what it raises.

        Raises:
            BigmError: the loop did not come to it within *timeout* seconds.
        """
        if threading.current_thread() is self._thread:
            return function()
        outcome: list[tuple[Any, Optional[BaseException]]] = []
        done = threading.Event()

        def run() -> None:
            try:
                outcome.append((function(), None))
            except BaseException as error:  # noqa: BLE001 - raised again in the caller
                outcome.append((None, error))
            done.set()

        self.soon(run)
        if not done.wait(timeout):
            raise BigmError(f"the agent's loop did not answer within {timeout:g} s")
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    def on_signal(self, number: int, callback: Callable[[], None]) -> None:
        """Call *callback* on the loop's thread soon after the signal *number* arrived. On the main thread only."""
        signal.signal(number, lambda *_: self._asked.append(callback))
        signal.set_wakeup_fd(self._wake_in.fileno(), warn_on_full_buffer=False)

    def stop(self) -> None:
        """Let `run` return. For any thread."""
        self.soon(self._stop)

    def run(self) -> None:
        """Serve until `stop`."""
        self._thread = threading.current_thread()
        while self._running:
            for key, _ in self._selector.select(self._patience()):
                if self._selector.get_map().get(key.fd) is key:  # else an earlier callback of this round forgot it
                    key.data()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()
            while self._asked:
                self._asked.popleft()()

    def close(self) -> None:
        """Let go of the loop's own descriptors."""
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def _patience(self) -> float:
        if self._asked:
            return 0.0
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else _IDLE

    def _woken(self) -> None:
        try:
            while os.read(self._wake_out.fileno(), 4096):
                pass
        except BlockingIOError:
            pass

    def _stop(self) -> None:
        self._running = False
