"""Call statistics, cheap enough to be always on: counts, errors, bytes and a latency histogram per method."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

BUCKETS = 32  # bucket i counts calls of less than 2**i microseconds (and not less than half of that)


@dataclass(frozen=True)
class MethodStats:
    """What was counted for one method.

    Args:
        count: calls that ended, in whatever way.
        errors: those of them that raised.
        seconds: their times added up.
        longest: the longest of them, in seconds.
        bytes_out: bytes of payload this side sent.
        bytes_in: bytes of payload this side received.
        histogram: BUCKETS counts by duration; see BUCKETS.
    """

    count: int = 0
    errors: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    bytes_out: int = 0
    bytes_in: int = 0
    histogram: tuple[int, ...] = (0,) * BUCKETS

    def __add__(self, other: MethodStats) -> MethodStats:
        return MethodStats(
            self.count + other.count,
            self.errors + other.errors,
            self.seconds + other.seconds,
            max(self.longest, other.longest),
            self.bytes_out + other.bytes_out,
            self.bytes_in + other.bytes_in,
            tuple(a + b for a, b in zip(self.histogram, other.histogram)),
        )

    def quantile(self, q: float) -> float:
        """An upper bound, in seconds, of the time within which the share *q* (0 to 1) of the calls ended."""
        rest = q * self.count
        for i, count in enumerate(self.histogram):
            rest -= count
            if rest <= 0:
                return float(2**i) / 1e6
        return self.longest


Snapshot = dict[str, MethodStats]


def merge(a: Mapping[str, MethodStats], b: Mapping[str, MethodStats]) -> Snapshot:
    """The sum of two snapshots."""
    merged = dict(a)
    for method, stats in b.items():
        merged[method] = merged[method] + stats if method in merged else stats
    return merged


class CallStats:
    """Counters per method; any thread may record."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, _Counter] = {}

    def __repr__(self) -> str:
        return f"<CallStats of {len(self._counters)} methods>"

    def record(self, method: str, seconds: float, bytes_out: int, bytes_in: int, error: bool) -> None:
        """Count one call that ended."""
        bucket = min(int(seconds * 1e6).bit_length(), BUCKETS - 1)
        with self._lock:
            counter = self._counters.get(method)
            if counter is None:
                counter = self._counters[method] = _Counter()
            counter.count += 1
            counter.errors += error
            counter.seconds += seconds
            if seconds > counter.longest:
                counter.longest = seconds
            counter.bytes_out += bytes_out
            counter.bytes_in += bytes_in
            counter.histogram[bucket] += 1

    def snapshot(self) -> Snapshot:
        """What was counted so far, by method."""
        with self._lock:
            return {method: counter.freeze() for method, counter in self._counters.items()}


class _Counter:
    __slots__ = ("bytes_in", "bytes_out", "count", "errors", "histogram", "longest", "seconds")

    def __init__(self) -> None:
        self.count = self.errors = self.bytes_out = self.bytes_in = 0
        self.seconds = self.longest = 0.0
        self.histogram: list[int] = [0] * BUCKETS

    def freeze(self) -> MethodStats:
        return MethodStats(
            self.count,
            self.errors,
            self.seconds,
            self.longest,
            self.bytes_out,
            self.bytes_in,
            tuple(self.histogram),
        )
