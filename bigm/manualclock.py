"""A clock that a test turns: what leases and lifetimes count by on machines in process, and in their driver.

See `bigm.systems.base.Timer` for what is asked of a clock, and `bigm.clock.Clock` for the one of real time.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable

from bigm.errors import ConfigError

_SETTLE = 5.0  # seconds, real ones, that a turned clock stands still for an answer


class ManualClock:
    """A clock that stands still until it is turned. Hand it to `bigm.testing.InProcess`.

    Leases and lifetimes count by it, at both ends: those of the machines, and the driver's renewals of them. However
    far it is turned, it stops at each moment at which something is due, and goes on when that is done: renewals have
    been answered, and machines have noticed what became of their leases. So an hour takes no longer than the calls that
    are made in it. What else takes time (calls and their timeouts, dialling, ending) takes real time.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._listeners: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._held: set[object] = set()
        self._turning = threading.Lock()

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now:g} s, {len(self._due)} functions due>"

    def __call__(self) -> float:
        return self._now

    def turn(self, seconds: float) -> None:
        """Let *seconds* pass; on return every machine, and the driver, has noticed what was due.

        Args:
            seconds: 0 or more.
        Raises:
            ConfigError: they are less than nothing, or no number.
        """
        if not 0 <= seconds < float("inf"):
            raise ConfigError(f"a clock cannot be turned by {seconds!r} s", hint="time only goes on")
        with self._turning:
            end = self._now + seconds
            while not self._step(end):
                pass

    def after(self, delay: float, function: Callable[[], None]) -> None:
        """Call *function* when the clock has been turned by *delay* seconds, in the thread that turns it."""
        with self._changed:
            heapq.heappush(self._due, (self._now + delay, next(self._order), function))

    def hold(self, token: object = None) -> object:
        """Stop the clock until *token* is released, or where it is None, the one returned."""
        token = object() if token is None else token
        with self._changed:
            self._held.add(token)
        return token

    def release(self, token: object) -> None:
        """Let the clock go on, as far as *token* is concerned."""
        with self._changed:
            self._held.discard(token)
            self._changed.notify_all()

    def notify(self, listener: Callable[[], None]) -> None:
        """Have *listener* called at each stop."""
        with self._changed:
            self._listeners.append(listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Call *listener* no more."""
        with self._changed:
            self._listeners.remove(listener)

    def _step(self, end: float) -> bool:
        """Go to the next moment at which something is due, at most to *end*, and do it; whether that is the end."""
        with self._changed:
            self._now = max(self._now, min(end, self._due[0][0] if self._due else end))
            due = []
            while self._due and self._due[0][0] <= self._now:
                due.append(heapq.heappop(self._due)[2])
            listeners = list(self._listeners)
        for function in due:
            function()
        self._settle()
        for listener in listeners:
            listener()
        self._settle()
        return not due and self._now >= end

    def _settle(self) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: not self._held, _SETTLE):
                self._held.clear()  # lost on its way: what waits for it will be told by its own timeout
