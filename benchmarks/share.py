"""100 MiB shared with 8 local machines: what the driver sends of it, and how long until all have used it.

The limit is one copy: whatever is sent more often could have come from another machine.
"""

from __future__ import annotations

import time

import numpy
from measure import Row, alternate

import bigm

MACHINES = 8
SIZE = 100 << 20  # bytes
MIB = 1 << 20


class Reader:
    """The service."""

    def last(self, array: numpy.ndarray) -> float:
        """Look at the array's end."""
        return float(array[-1])


def sent(machines: list[bigm.Machine]) -> int:
    """Bytes of payload that this process has sent to agents and workers."""
    snapshots = [stats.snapshot() for machine in machines for stats in (machine._agent.stats, machine.stats)]
    return sum(method.bytes_out for snapshot in snapshots for method in snapshot.values())


def rows(repeats: int) -> list[Row]:
    """Measure."""
    array = numpy.random.default_rng(1).random(SIZE // 8)
    with bigm.start("local") as cluster:
        machines = cluster.start(MACHINES, services={"Reader": Reader()})
        cluster.wait(machines)
        volumes: list[float] = []

        def shared() -> float:
            before, started = sent(machines), time.monotonic()
            handle = cluster.share(array)
            _use(machines, handle)
            seconds = time.monotonic() - started
            while len(handle._part.here) < MACHINES:
                time.sleep(0.01)  # the last answers are on their way; they are counted too
            volumes.append(sent(machines) - before)
            return seconds

        def plain() -> float:
            started = time.monotonic()
            _use(machines, array)
            return time.monotonic() - started

        times = alternate({"shared": shared, "plain": plain}, repeats)
    volume = max(volumes)
    return [
        Row(
            f"driver's bytes to share {SIZE // MIB} MiB with {MACHINES} local machines",
            f"{volume / MIB:.1f} MiB",
            f"{SIZE // MIB} MiB, one copy",
            volume / SIZE,
            2.0,
            1.05,
        ),
        Row(
            "time until all have used it",
            f"{times['shared']:.2f} s",
            f"{times['plain']:.2f} s as an argument of {MACHINES} calls",
            times["shared"] / times["plain"],
            note="one computer sends, receives, hashes and writes for all",
        ),
    ]


def _use(machines: list[bigm.Machine], array: object) -> None:
    for call in [machine.submit("Reader.last", array) for machine in machines]:
        call.result()
