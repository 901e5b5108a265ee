"""The main job's throughput against the same loop without bigm around it."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

from measure import Row, alternate

EXAMPLES = Path(__file__).parent.parent / "examples"
SAMPLES = 200_000_000

_BARE = """
import sys, time; sys.path.insert(0, {folder!r})
import bigpi
sys.stdin.readline()
begin = time.monotonic()
bigpi.CirclePI().sample({n})
print(time.monotonic() - begin)
"""


def bare(cores: int) -> float:
    """Samples per second and core of so many interpreters, each running the service's method and nothing else."""
    code = _BARE.format(folder=str(EXAMPLES), n=SAMPLES)
    # In sessions of their own, as workers are: Linux divides a busy computer among sessions first.
    start = functools.partial(
        subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    processes = [start([sys.executable, "-c", code]) for _ in range(cores)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    slowest = max(float(process.communicate(timeout=120)[0]) for process in processes)
    return SAMPLES / slowest


def ours(cores: int) -> float:
    """Samples per second and core that `examples/bigpi.py` says it reached on so many machines."""
    program = [sys.executable, str(EXAMPLES / "bigpi.py"), "-n", str(cores * SAMPLES)]
    environment = {**os.environ, "BIGM_NMACH": str(cores)}
    answer = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return float(re.search(r"(\d+) M samples/s", answer.stdout)[1]) * 1e6 / cores


def rows(repeats: int) -> list[Row]:
    """One row: samples per second and core."""
    cores = len(os.sched_getaffinity(0))
    found = alternate(
        {"bare": functools.partial(bare, cores), "ours": functools.partial(ours, cores)}, max(3, repeats // 2)
    )
    return [
        Row(
            what="bigpi, samples per second and core",
            ours=f"{found['ours'] / 1e6:.0f} M/s",
            limit=f"{found['bare'] / 1e6:.0f} M/s (the loop in bare interpreters)",
            ratio=found["ours"] / found["bare"],
            reach=0.9,
            aim=0.97,
            above=True,
        )
    ]
