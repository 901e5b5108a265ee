"""Leases: what keeps machines alive as long as their driver is, renewed by one thread however many there are.

Every agent ends its machine when its lease was not renewed in time. The driver renews by calls that nobody waits for;
the interval grows with the number of machines, so that their cost does not. For machines elsewhere the keeper renews
too (`bigm.keeper`), which no code of the user's can hold up; so a driver that comes late has lost nothing until told.

A clock that a test turns (`bigm.systems.base.Timer`) drives the same code: what is due is done as the clock passes it.

Source: bigmachine machine.go (keepalive loop), which has one goroutine for each machine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from bigm.bootstrap import records
from bigm.errors import BigmError
from bigm.rpc.calls import CallFuture
from bigm.rpc.client import Client
from bigm.systems.base import Timer
from bigm.timeouts import Timeouts

_KEPT_TIMES = 10  # reply times remembered of each machine, as in the original


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
