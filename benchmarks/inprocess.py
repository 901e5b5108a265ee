"""Machines in process: start, one call each, shutdown. The time for one must not depend on how many there are."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time

from measure import Row

import bigm

FEW, SOME, MANY = 10, 100, 1000


class Echo:
    """The service."""

    def ping(self) -> bool:
        """Answer."""
        return True


def run(n: int) -> dict[str, float]:
    """Seconds of each step with *n* machines; threads and descriptors while they live."""
    marks = [time.perf_counter()]
    cpu = time.process_time()
    with bigm.start("inprocess", verbosity="quiet") as cluster:
        machines = cluster.start(n, services={"Echo": Echo()})
        cluster.wait(machines)
        marks.append(time.perf_counter())
        for call in [machine.submit("Echo.ping") for machine in machines]:
            call.result()
        marks.append(time.perf_counter())
        threads, descriptors = threading.active_count(), len(os.listdir("/dev/fd"))
    marks.append(time.perf_counter())
    start, call, end = (after - before for before, after in itertools.pairwise(marks))
    return {
        "start": start,
        "call": call,
        "end": end,
        "total": marks[-1] - marks[0],
        "cpu": time.process_time() - cpu,
        "threads": threads / n,
        "descriptors": descriptors / n,
    }


def measure(repeats: int) -> dict[str, object]:
    """The steps by count of machines, in turns; medians of the small ones. And what is left when all have ended."""
    run(FEW)  # imports
    before = threading.active_count(), len(os.listdir("/dev/fd"))
    few = statistics.median(run(FEW)["total"] / FEW for _ in range(3 * repeats))
    some = statistics.median(run(SOME)["total"] / SOME for _ in range(repeats))
    many = run(MANY)
    deadline = time.monotonic() + 10.0
    while (left := threading.active_count() - before[0]) > 0 and time.monotonic() < deadline:
        time.sleep(0.1)  # threads that have been told to end tell nobody when they have
    open_ = len(os.listdir("/dev/fd")) - before[1]
    return {"few": few, "some": some, "many": many, "left": (max(0, left), max(0, open_))}


def rows(repeats: int) -> list[Row]:
    """Two rows, of one process."""
    command = [sys.executable, __file__, str(max(1, repeats // 3))]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=900, check=True).stdout)
    few, some, many = found["few"], found["some"], found["many"]
    threads, descriptors = found["left"]
    return [
        Row(
            what=f"machine in process: start, a call, shutdown; one of {MANY:,}",
            ours=f"{many['total'] / MANY * 1000:.1f} ms",
            limit=f"{few * 1000:.1f} ms, one of {FEW}",
            ratio=many["total"] / MANY / few,
            reach=1.5,
            aim=1.1,
            note=f"one of {SOME}: {some * 1000:.1f} ms; left behind: {threads} threads, {descriptors} descriptors",
        ),
        Row(
            what=f"{MANY:,} machines in process: the same, all of them",
            ours=f"{many['total']:.1f} s",
            limit="",
            ratio=many["total"],
            reach=20,
            aim=15,
            unit="s",
            note=(
                f"start {many['start']:.1f} s, calls {many['call']:.2f} s, end {many['end']:.1f} s; "
                f"CPU {many['cpu']:.0f} s; each {many['threads']:.1f} threads, {many['descriptors']:.0f} descriptors"
            ),
        ),
    ]


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
