"""A clock that calls functions when they are due: one thread, however many wait.

A computer that sleeps stops CLOCK_MONOTONIC but not CLOCK_BOOTTIME: the difference tells a lid that was closed from a
network that was lost.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from typing import Callable

logger = logging.getLogger("bigm.clock")

_SLEPT = 1.0  # seconds by which two clocks may disagree without a sleep


class Clock:
    """One thread that calls functions when they are due. They must be quick.

    Args:
        name: what the thread is called.
    """

    def __init__(self, name: str) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._asleep = 0.0
        self._woke = float("-inf")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Clock {self._thread.name}: {len(self._due)} functions due>"

    def __call__(self) -> float:
        """Seconds, monotonic."""
        return time.monotonic()

    def hold(self, token: object = None) -> None:
        """Real time waits for nobody."""

    def release(self, token: object) -> None:
        """The end of what `hold` began."""

    def after(self, delay: float, function: Callable[[], None]) -> None:
        """Call *function* in *delay* seconds, unless the clock is closed by then."""
        with self._changed:
            entry = (time.monotonic() + delay, next(self._order), function)
            heapq.heappush(self._due, entry)
            if self._due[0] is entry:
                self._changed.notify()

    def slept(self, within: float) -> float:
        """For how many seconds this computer last slept, if it woke in the last *within* seconds; else 0."""
        return self._asleep if time.monotonic() - self._woke < within else 0.0

    def close(self, timeout: float = 5.0) -> None:
        """Call nothing any more."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        gap = _boottime_gap()
        while True:
            with self._changed:
                if self._closed:
                    return
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                    functions = []
                else:
                    functions = [heapq.heappop(self._due)[2]]
            before, gap = gap, _boottime_gap()
            if gap - before > _SLEPT:
                self._asleep, self._woke = gap - before, time.monotonic()
            for function in functions:
                self._call(function)

    def _call(self, function: Callable[[], None]) -> None:
        """A bug met for one machine must not end the renewals of all others."""
        try:
            function()
        except Exception:
            logger.exception("bigm: %s met a bug in %r", self._thread.name, function)


def _boottime_gap() -> float:
    """Seconds this computer has slept since it was started; 0 where the platform does not tell."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
