"""What moves while bundles are shipped, in bytes: for the line that shows it, and for whoever asks afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable

_WORTH_A_WORD = 1_000_000  # bytes
_RATE_AFTER = 0.5  # seconds from the first byte before a rate says anything


class Tally:
    """Counts bytes. Changed by one thread, read by any.

    Args:
        clock: seconds, monotonic.
    Attributes:
        wanted: bytes that stores lack, or lacked.
        here: those of them that have arrived.
        sent: bytes that came from the driver.
        making: machines that make an environment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.wanted = 0
        self.here = 0
        self.sent = 0
        self.making = 0
        self._clock = clock
        self._since = 0.0
        self._stores: set[str] = set()
        self._partly: dict[str, int] = {}  # by store: bytes of a big part that is not whole yet

    def __repr__(self) -> str:
        return f"<Tally {self.here} of {self.wanted} bytes, {self.sent} from the driver>"

    def wants(self, store: str, size: int) -> None:
        """A store lacks *size* bytes."""
        if not size:
            return
        if self.here == self.wanted:
            self._since = self._clock()
        self.wanted += size
        self._stores.add(store)

    def moved(self, store: str, size: int) -> None:
        """*size* bytes of a part have arrived that is not whole."""
        self._partly[store] = self._partly.get(store, 0) + size

    def arrived(self, store: str, size: int) -> None:
        """Parts of *size* bytes are whole; what was counted of them is part of that."""
        self._partly.pop(store, None)
        self.here += size

    def status(self) -> str:
        """What is on its way, in words; "" when nothing is."""
        if self.here >= self.wanted:
            return f"{self.making} make an environment" if self.making else ""
        here = min(self.wanted, self.here + sum(self._partly.values()))
        seconds = self._clock() - self._since
        rate = f", {amount(here / seconds)}/s" if seconds > _RATE_AFTER else ""
        return f"shipped {amount(here)} of {amount(self.wanted)}{rate}"

    def summary(self) -> str:
        """What has moved, in words; "" while it moves, or when it was not worth a word."""
        if self.here < self.wanted or self.wanted < _WORTH_A_WORD:
            return ""
        seconds = max(0.001, self._clock() - self._since)
        to = f"{len(self._stores)} computer{'s'[: len(self._stores) != 1]}"
        return f"shipped {amount(self.here)} to {to} in {seconds:.1f} s, {amount(self.sent)} of it from this one"


def amount(size: float) -> str:
    """Bytes for people: "512 B", "34.1 kB", "120 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.1f} {unit}"
