"""`Cluster.map`: one function over many arguments, lazily, by the machinery of executors.

Nothing happens before the first result is asked for. Arguments are read as results are taken, only so far ahead that
the workers stay busy, so neither has to fit into memory.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any

from bigm.errors import ConfigError
from bigm.executor import Feed, chosen_machines, open_scheduler, read_ahead, results, sweep_of, whole
from bigm.machine import Machine
from bigm.scheduler import Scheduler
from bigm.supply import Source
from bigm.tasks import Sweep, name_of
from bigm.terminal import Terminal

_BAR = 24  # characters


def map_over(
    source: Source,
    function: Callable[..., Any],
    iterables: Sequence[Iterable[Any]],
    *,
    machines: Sequence[Machine] | None,
    ordered: bool,
    progress: Terminal | None,
    retries: int,
    threads: int,
    ahead: int | None,
) -> Iterator[Any]:
    """`Cluster.map`, with the same arguments and errors; *progress* is where it is shown, or None."""
    if not callable(function):
        raise ConfigError(f"cannot map {function!r}, which is no function")
    if not iterables:
        raise ConfigError("map needs something to map over", hint="give the function, then one iterable or several")
    for each in iterables:
        iter(each)  # raises what the built-in map does
    whole("retries", retries, 0)
    whole("threads", threads, 1)
    if ahead is not None:
        whole("ahead", ahead, 1)
    if machines is not None:
        machines = chosen_machines("cluster.map", machines, source)

    def run() -> Iterator[Any]:
        scheduler = open_scheduler(source, machines, threads=threads)
        try:
            sweep, items = sweep_of(scheduler, function, iterables, retries=retries, ordered=ordered)
            feed = Feed(scheduler, sweep, items, lambda: ahead or read_ahead(scheduler, sweep))
            with contextlib.ExitStack() as shown:
                if progress is not None:
                    shown.enter_context(_Progress(progress, scheduler, sweep, _total(iterables)))
                yield from results(scheduler, sweep, feed=feed)
        finally:
            scheduler.abandon("the end of the map")  # what still runs is wanted by nobody

    return run()


class _Progress:
    """Shows how far a sweep has come: a live line on a terminal, a line at the beginning and the end off it."""

    def __init__(self, terminal: Terminal, scheduler: Scheduler, sweep: Sweep, total: int | None) -> None:
        self._terminal = terminal
        self._sweep = sweep
        self._total = total
        self._name = name_of(sweep.function)
        self._machines = scheduler
        self._live = terminal.live(self._status)

    def __enter__(self) -> None:
        self._started = time.monotonic()
        self._terminal.phase(f"{self._name}: mapping" + (f" over {self._total:,} items" if self._total else ""))
        self._live.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(None, None, None)
        seconds = time.monotonic() - self._started
        self._terminal.phase(f"{self._name}: {self._count()} done in {seconds:.1f} s")

    def _status(self) -> str:
        rate = self._sweep.finished / max(time.monotonic() - self._started, 1e-3)
        bar = "" if not self._total else f"{_bar(self._sweep.finished, self._total)} "
        return f"{self._name}: {bar}{self._count()} · {rate:,.0f}/s"

    def _count(self) -> str:
        done = f"{self._sweep.finished:,}"
        return done if self._total is None else f"{done} of {self._total:,}"


def _total(iterables: Sequence[Iterable[Any]]) -> int | None:
    """How many calls there will be, where that is known."""
    sizes = [len(each) for each in iterables if isinstance(each, Sized)]
    return min(sizes) if len(sizes) == len(iterables) else None


def _bar(done: int, total: int) -> str:
    from rich.console import Console  # only who asks for progress pays for it
    from rich.progress_bar import ProgressBar

    text = io.StringIO()
    console = Console(file=text, width=_BAR, no_color=True, color_system=None)
    console.print(ProgressBar(total, done, width=_BAR), end="")
    return text.getvalue().ljust(_BAR)
