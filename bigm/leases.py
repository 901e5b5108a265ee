"""Leases: what keeps machines alive as long as their driver is, renewed by one thread however many there are.

Every agent ends its machine when its lease was not renewed in time. The driver renews by calls that nobody waits for;
the interval grows with the number of machines, so that their cost does not. For machines elsewhere the keeper renews
too (`bigm.keeper`), which no code of the user's can hold up; so a driver that comes late has lost nothing until told.

A clock that a test turns (`bigm.systems.base.Timer`) drives the same code: what is due is done as the clock passes it.

A computer that sleeps stops CLOCK_MONOTONIC but not CLOCK_BOOTTIME: the difference tells a lid that was closed from a
network that was lost.

Source: bigmachine machine.go (keepalive loop), which has one goroutine for each machine.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from bigm.bootstrap import records
from bigm.errors import BigmError
from bigm.rpc.calls import CallFuture
from bigm.rpc.client import Client
from bigm.systems.base import Timer
from bigm.timeouts import Timeouts

logger = logging.getLogger("bigm.leases")

_KEPT_TIMES = 10  # reply times remembered of each machine, as in the original
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

    def hold(self) -> None:
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


class Lease:
    """One machine's lease, as the driver sees it.

    Args:
        agent: the client to renew it by.
        seconds: its length.
        lost: called once, in the thread of the clock, when all renewals failed for as long as that.
        unhealthy: called with the agent's words when memory begins to be short.
        clock: seconds, monotonic: what the lease counts by.
    """

    def __init__(
        self,
        agent: Client,
        seconds: float,
        *,
        lost: Callable[[], None],
        unhealthy: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.agent = agent
        self.seconds = seconds
        self.lost = lost
        self.unhealthy = unhealthy
        self.times: deque[float] = deque(maxlen=_KEPT_TIMES)
        self._clock = clock
        self.renewed = clock()
        self.next = clock()
        self.healthy = True
        self.failing = False

    def __repr__(self) -> str:
        return f"<Lease of {self.seconds:g} s, renewed {self._clock() - self.renewed:.1f} s ago>"

    @property
    def overdue(self) -> bool:
        """Whether it was not renewed for as long as it lasts, as far as is known here."""
        return self._clock() - self.renewed >= self.seconds

    @property
    def due_in(self) -> float:
        """Seconds until it is renewed next."""
        return max(0.0, self.next - self._clock())

    def answered(self, sent: float, reply: CallFuture) -> None:
        """Take in the answer to a renewal. Runs on the I/O thread."""
        try:
            granted: records.Lease = reply.result()
        except BigmError:
            self.failing = True  # the next one may reach it; until when, the lease's length says
            return
        self.failing = False
        self.renewed = max(self.renewed, sent)  # two may be on their way, and overtake each other
        self.times.append(self._clock() - sent)
        if self.healthy and not granted.healthy:
            self.unhealthy(granted.text)
        self.healthy = granted.healthy


class Leases:
    """Renews the leases of all machines of one cluster.

    Args:
        clock: what they count by, and what calls when a renewal is due.
        timeouts: `renewal`, `renewal_pace` and `keepalive` of them.
    """

    def __init__(self, clock: Timer, timeouts: Timeouts) -> None:
        self.clock = clock
        self._timeouts = timeouts
        self._held: set[Lease] = set()

    def __repr__(self) -> str:
        return f"<Leases: {len(self._held)} held>"

    def hold(self, lease: Lease) -> None:
        """Renew *lease* from now on."""
        self._held.add(lease)
        self._renew(lease)

    def drop(self, lease: Lease) -> None:
        """Renew *lease* no more."""
        self._held.discard(lease)

    def _renew(self, lease: Lease) -> None:
        if lease not in self._held:
            return
        now = self.clock()
        if lease.failing and lease.overdue:
            self._held.discard(lease)
            lease.lost()
            return
        interval = self._timeouts.renewal_interval(lease.seconds, len(self._held))
        if lease.failing:
            interval = min(interval, lease.renewed + lease.seconds - now)  # to know its end when it comes
        lease.next = now + interval
        token = self.clock.hold()
        lease.agent.submit_internal(
            "Agent.keepalive",
            (lease.seconds,),
            timeout=min(self._timeouts.keepalive, lease.seconds),
            done=lambda reply: self._answered(lease, now, token, reply),
        )
        self.clock.after(interval, lambda: self._renew(lease))

    def _answered(self, lease: Lease, sent: float, token: object, reply: CallFuture) -> None:
        lease.answered(sent, reply)
        self.clock.release(token)


def _boottime_gap() -> float:
    """Seconds this computer has slept since it was started; 0 where the platform does not tell."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
