"""Executors: `map` of tasks that do nothing, beside ProcessPoolExecutor with as many workers on the same computer.

With chunksize 1 that is what one pays who does not know how long the tasks take; with its best chunksize, found here by
trying, what one gains who does. Ours is asked for nothing in either case.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial

from measure import Row, alternate

import bigm

TASKS = 100_000
FEW = 5_000  # for what takes a tenth of a millisecond each: the figure is scaled up
WORKERS = 2
CHUNKS = (100, 300, 1000, 3000, 10_000, 25_000, 50_000)


def nothing(value: int) -> int:
    """The task."""
    return value


def rows(repeats: int) -> list[Row]:
    """Measure."""
    with pools() as (ours, theirs, machine):
        chunk = min(CHUNKS, key=lambda size: min(mapped(theirs, TASKS, size) for _ in range(3)))
        seconds = alternate(
            {
                "ours": partial(mapped, ours, TASKS),
                "best": partial(mapped, theirs, TASKS, chunk),
                "single": lambda: mapped(theirs, FEW, 1) * TASKS / FEW,
                "submit": partial(submitted, ours, FEW),
                "submit theirs": partial(submitted, theirs, FEW),
                "one": partial(one_by_one, lambda: ours.submit(nothing, 1).result()),
                "call": partial(one_by_one, lambda: machine.run(nothing, 1)),
            },
            repeats,
        )
    return [
        Row(
            "map of 100,000 tasks that do nothing",
            f"{TASKS / seconds['ours']:,.0f}/s",
            f"{TASKS / seconds['single']:,.0f}/s ProcessPoolExecutor, chunksize 1",
            seconds["single"] / seconds["ours"],
            10,
            20,
            above=True,
            note=f"{WORKERS} workers each",
        ),
        Row(
            "the same",
            f"{TASKS / seconds['ours']:,.0f}/s",
            f"{TASKS / seconds['best']:,.0f}/s ProcessPoolExecutor, its best chunksize",
            seconds["best"] / seconds["ours"],
            1,
            1.5,
            above=True,
            note=f"chunksize {chunk}",
        ),
        Row(
            "5,000 such tasks, each submitted",
            f"{FEW / seconds['submit']:,.0f}/s",
            f"{FEW / seconds['submit theirs']:,.0f}/s ProcessPoolExecutor",
            seconds["submit theirs"] / seconds["submit"],
            2,
            4,
            above=True,
        ),
        Row(
            "one task submitted and awaited",
            f"{seconds['one'] * 1e6:.0f} us",
            f"{seconds['call'] * 1e6:.0f} us machine.run",
            seconds["one"] / seconds["call"],
            3,
            2,
        ),
    ]


@contextmanager
def pools() -> Iterator[tuple[Executor, Executor, bigm.Machine]]:
    """An executor of ours, one of Python's, and a machine."""
    with bigm.start() as cluster, ProcessPoolExecutor(WORKERS) as theirs:
        machines = cluster.start(WORKERS)
        cluster.wait(machines)
        with cluster.executor() as ours:
            for pool in (ours, theirs):
                mapped(pool, 1000, 1)
            yield ours, theirs, machines[0]


def mapped(pool: Executor, tasks: int, chunksize: int = 1) -> float:
    """Seconds for `map`, results included."""
    begin = time.perf_counter()
    assert sum(pool.map(nothing, range(tasks), chunksize=chunksize)) == tasks * (tasks - 1) // 2
    return time.perf_counter() - begin


def submitted(pool: Executor, tasks: int) -> float:
    """Seconds for as many futures."""
    begin = time.perf_counter()
    futures = [pool.submit(nothing, n) for n in range(tasks)]
    assert sum(future.result() for future in futures) == tasks * (tasks - 1) // 2
    return time.perf_counter() - begin


def one_by_one(run: Callable[[], int], times: int = 300) -> float:
    """Seconds for one, on average."""
    begin = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - begin) / times
