"""Waiting for what machines become: threads wait on a `Board`, coroutines on the same without blocking their loop,
and nobody at all where the last of several answers goes on (`Countdown`).
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from bigm.rpc import interrupts

if TYPE_CHECKING:
    import asyncio  # whoever awaits has it; a driver that does not need not pay for it

P = ParamSpec("P")
T = TypeVar("T")


class Board(threading.Condition):
    """Notified when the state of a machine has changed.

    It wakes by itself now and then, because Python may lose a Ctrl-C for as long as the main thread waits: a signal
    that arrives in the moment before it begins to wait is noticed only when it has something to do again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._listeners: set[_Listener] = set()

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(interrupts.WAKE if timeout is None else min(timeout, interrupts.WAKE))

    def notify_all(self) -> None:
        super().notify_all()
        for listener in self._listeners:
            listener.notify()

    async def until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """As `wait_for`, in a coroutine: wait until *ready* says so, at most *timeout* seconds; whether it does."""
        import asyncio

        deadline = None if timeout is None else time.monotonic() + timeout
        listener = _Listener(asyncio.get_running_loop(), asyncio.Event())
        with self:
            self._listeners.add(listener)
        try:
            while not ready():
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                await listener.notified(left)
        finally:
            with self:
                self._listeners.discard(listener)
        return True


class _Listener:
    """One coroutine that waits. Of many changes before it looks again, one wakes its loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        self._loop = loop
        self._event = event
        self._woken = False

    def notify(self) -> None:
        """Something has changed. Any thread, with the board held."""
        if self._woken:
            return
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    async def notified(self, timeout: float | None) -> None:
        """Wait for the next change, or so long."""
        import asyncio

        try:
            await asyncio.wait_for(self._event.wait(), timeout)
        except asyncio.TimeoutError:
            pass
        self._event.clear()
        self._woken = False  # before the caller looks: what changes from now on wakes it again


async def in_thread(name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what blocks in a thread of its own, and await it. Cancelling leaves the thread to itself.

    Not in the loop's own pool: the program may have filled that, and the end of a cluster must not wait for it.
    """
    import asyncio

    return await asyncio.shield(asyncio.wrap_future(start_thread(name, function, *args, **kwargs)))


def start_thread(
    name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> concurrent.futures.Future[T]:
    """Run what blocks in a thread of its own; its future."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            result = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is the caller's to see
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name).start()
    return future


class Countdown:
    """Calls a function when it was counted down to nothing."""

    def __init__(self, count: int, done: Callable[[], None]) -> None:
        self._count = count
        self._done = done
        self._lock = threading.Lock()

    def one_less(self) -> None:
        """Count; any thread."""
        with self._lock:
            self._count -= 1
            last = self._count == 0
        if last:
            self._done()
