"""What moves while bundles are shipped, in bytes: for the line that shows it, and for whoever asks afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable

_WORTH_A_WORD = 1_000_000  # bytes
_RATE_AFTER = 0.5  # seconds from the first byte before a rate says anything


class Tally:
    """Counts the bytes of one wave: from when something is lacking somewhere until nothing is. Then another may begin.

    Changed by one thread, read by any.

    Args:
        clock: seconds, monotonic.
    Attributes:
        sent: bytes that came from the driver.
        making: machines that make an environment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.sent = 0
        self.making = 0
        self._clock = clock
        self._since = 0.0
        self._wanted: dict[str, int] = {}  # by store
        self._here: dict[str, int] = {}
        self._partly: dict[str, int] = {}  # bytes of big parts that are not whole yet

    def __repr__(self) -> str:
        return f"<Tally {self.here} of {self.wanted} bytes, {self.sent} from the driver>"

    @property
    def wanted(self) -> int:
        """Bytes that stores lacked when they were asked."""
        return sum(list(self._wanted.values()))

    @property
    def here(self) -> int:
        """Those of them that have arrived."""
        return sum(list(self._here.values()))

    def wants(self, store: str, size: int) -> None:
        """A store lacks *size* bytes."""
        if not size:
            return
        if self.here >= self.wanted:
            self._since, self.sent = self._clock(), 0
            self._wanted, self._here = {}, {}
        self._wanted[store] = self._wanted.get(store, 0) + size

    def moved(self, store: str, size: int) -> None:
        """*size* bytes of a part have arrived that is not whole."""
        self._partly[store] = self._partly.get(store, 0) + size

    def arrived(self, store: str, size: int, *, sent: bool) -> None:
        """Parts of *size* bytes are whole; what was counted of them is part of that. *sent*: by the driver."""
        self._partly.pop(store, None)
        self._here[store] = self._here.get(store, 0) + size
        self.sent += size * sent

    def drop(self, store: str) -> None:
        """A store will be sent nothing any more."""
        for counts in (self._wanted, self._here, self._partly):
            counts.pop(store, None)

    def status(self) -> str:
        """What is on its way, in words; "" when nothing is."""
        here, wanted = self.here, self.wanted
        if here >= wanted:
            return f"{self.making} make an environment" if self.making else ""
        here = min(wanted, here + sum(list(self._partly.values())))
        seconds = self._clock() - self._since
        rate = f", {amount(here / seconds)}/s" if seconds > _RATE_AFTER else ""
        return f"shipped {amount(here)} of {amount(wanted)}{rate}"

    def summary(self) -> str:
        """What the wave has moved, in words; "" before its end, or when it was not worth a word."""
        if self.here < self.wanted or self.wanted < _WORTH_A_WORD:
            return ""
        count = len(self._wanted)
        seconds = max(0.001, self._clock() - self._since)
        to = f"{count} computer{'s'[: count != 1]}"
        return f"shipped {amount(self.here)} to {to} in {seconds:.1f} s, {amount(self.sent)} of it from this one"


def amount(size: float) -> str:
    """Bytes for people: "512 B", "34.1 kB", "120 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.1f} {unit}"
