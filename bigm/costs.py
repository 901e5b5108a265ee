"""What machines cost: what a launch will by the hour, what a run has so far, and the limit that ends its machines.

All amounts are US dollars, all prices dollars an hour, as systems tell them; both are estimates, since nothing but a
bill knows of discounts, traffic and disks. What has no price is not counted: bigm does not guess.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

T = TypeVar("T")

WARNED = 0.8  # the share of a limit at which the user is told
_SOONEST = 0.1  # seconds between two looks at a limit that is all but reached
_LATEST = 3600.0  # the same where it is far: what is added up is a product of numbers, which never goes wrong for long


def now() -> float:
    """Seconds, monotonic, which go on while this computer sleeps: machines elsewhere cost meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()


@dataclass(frozen=True)
class _Entry:
    cluster: str
    price: float
    began: float
    ended: float | None = None

    def cost(self, at: float) -> float:
        return self.price * max(0.0, (at if self.ended is None else self.ended) - self.began) / 3600


class Ledger:
    """What the machines of one run cost. Any thread.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = now) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def __repr__(self) -> str:
        return f"<Ledger: {len(self._entries)} machines, {dollars(self.total() or 0.0)}>"

    def began(self, instance: str, price: float | None, cluster: str = "") -> None:
        """An instance of *cluster* was launched, which costs *price* an hour; None: nobody knows."""
        if price is not None:
            with self._lock:
                self._entries.setdefault(instance, _Entry(cluster, price, self._clock()))

    def ended(self, instance: str) -> None:
        """It has ended. Again: nothing."""
        with self._lock:
            entry = self._entries.get(instance)
            if entry is not None and entry.ended is None:
                self._entries[instance] = replace(entry, ended=self._clock())

    def total(self, cluster: str | None = None) -> float | None:
        """Dollars so far, of one cluster or of all; None where no instance had a price."""
        at = self._clock()
        with self._lock:
            costs = [entry.cost(at) for entry in self._entries.values() if cluster in (None, entry.cluster)]
        return sum(costs) if costs else None

    def rate(self) -> float:
        """Dollars an hour that are being spent now."""
        with self._lock:
            return sum(entry.price for entry in self._entries.values() if entry.ended is None)


class Budget:
    """The limit of what a run may cost, as one cluster keeps it. Any thread.

    Args:
        limit: dollars; None: there is none.
        ledger: the run's.
        after: calls a function in so many seconds.
        warn: told, in words, that most of it is spent.
        over: told, in words, that it is; once, and must be quick.
    """

    def __init__(
        self,
        limit: float | None,
        ledger: Ledger,
        *,
        after: Callable[[float, Callable[[], None]], None],
        warn: Callable[[str], None],
        over: Callable[[str], None],
    ) -> None:
        self.limit = limit
        self._ledger = ledger
        self._after = after
        self._warn = warn
        self._over = over
        self._lock = threading.Lock()
        self._looks = 0
        self._warned = False
        self._told = False

    def __repr__(self) -> str:
        return f"<Budget {'without a limit' if self.limit is None else dollars(self.limit)}: {self._ledger}>"

    @property
    def reached(self) -> bool:
        """Whether it is spent."""
        return self.limit is not None and (self._ledger.total() or 0.0) >= self.limit

    @property
    def sentence(self) -> str:
        """How much is spent of it."""
        return f"the run has cost about {dollars(self._ledger.total() or 0.0)} of its {dollars(self.limit or 0.0)}"

    def look(self) -> None:
        """Look at what is spent, now and when it may be time again; whenever machines have come."""
        with self._lock:
            self._looks += 1
            look = self._looks
        self._look(look)

    def _look(self, look: int) -> None:
        if self.limit is None or self._told or look != self._looks:  # a later one goes on in its place
            return
        spent = self._ledger.total() or 0.0
        with self._lock:
            over = self._told = spent >= self.limit
            warns = not over and not self._warned and spent >= WARNED * self.limit
            self._warned |= warns
        if over:
            self._over(self.sentence)
            return
        if warns:
            self._warn(f"{self.sentence}; at that its machines are ended")
        goal = self.limit if self._warned else WARNED * self.limit
        rate = self._ledger.rate()
        if rate > 0.0:
            wait = (goal - spent) / rate * 3600
            self._after(min(max(wait, _SOONEST), _LATEST), lambda: self._look(look))


def promptly(function: Callable[[], T], seconds: float) -> T | None:
    """What *function* returns; None where it fails, or takes longer than *seconds*, and then goes on by itself."""
    found: list[T] = []

    def ask() -> None:
        try:
            found.append(function())
        except Exception:  # noqa: BLE001  # whatever a system's own code raises: a price is no reason for a run to end
            return

    thread = threading.Thread(target=ask, name="bigm-price", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is shutting down
        return None
    thread.join(seconds)
    return found[0] if found else None


def dollars(amount: float) -> str:
    """An amount as people read it: "$12.30", "$0.03", "$0.004"."""
    return f"${amount:,.2f}" if amount >= 0.01 or amount < 0.0001 else f"${amount:.1g}"


def took(seconds: float) -> str:
    """A time as people read it: "12.3 s", "42 s", "4 min 12 s", "3 h 5 min"."""
    if seconds < 20:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
