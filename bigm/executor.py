"""A `concurrent.futures.Executor` over all workers of a cluster's machines.

What it promises is the standard library's; what it adds is said here: tasks of lost machines, machines that come and
go, and batches that nobody needs to size (`bigm.scheduler`).

Source: concurrent.futures (Executor, ProcessPoolExecutor).
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from bigm.backlog import MOST
from bigm.errors import ConfigError
from bigm.machine import Machine, machine_list
from bigm.rpc import codec
from bigm.rpc.calls import take_kept
from bigm.scheduler import Scheduler
from bigm.supply import Source, Supply
from bigm.tasks import Sweep, Task

T = TypeVar("T")

_PATIENCE = 0.002  # seconds of reading arguments after which those read are given out
_AHEAD = 0.1  # seconds of work for each worker that are read ahead, where nobody says how much
_numbers = itertools.count()


class Executor(concurrent.futures.Executor):
    """Runs functions on whatever worker is free. Made by `Cluster.executor`.

    A context manager, whose end waits for all that was submitted, but for Ctrl-C and signals: these cancel it.

    Args:
        scheduler: what gives the tasks out.
        retries: how often a task may be run again after its machine was lost.
    """

    def __init__(self, scheduler: Scheduler, *, retries: int) -> None:
        self._scheduler = scheduler
        self._retries = whole("retries", retries, 0)
        self._pid = os.getpid()
        self._root: Executor | None = None
        self._finalizer = weakref.finalize(self, _retire, scheduler, self._pid)
        self._finalizer.atexit = False  # the end of the program is the session's business

    def __repr__(self) -> str:
        return f"<Executor {self._scheduler!r}>"

    @property
    def slots(self) -> int:
        """Tasks that can run at a time, once all machines run; at least 1."""
        return self._scheduler.slots

    _max_workers = slots  # what others read, such as dask, to know how much to submit

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """Have *fn* run by the next free worker.

        Args:
            fn: any callable that pickles; functions go by their import path.
            args: its arguments, as are *kwargs*. They are pickled when the task is sent, not before.
        Returns:
            A future. It can be cancelled until it is sent to a worker, which is when `running()` becomes true. Besides
            the function's own exceptions it may raise `NotPicklable`, naming what does not pickle, and `MachineStopped`
            or `MayHaveRun` when its machine was lost: then it may have run, and only *retries* has it run again.
        Raises:
            RuntimeError: the executor, its cluster or the program has ended, or this is a forked child.
            BrokenExecutor: the initializer has failed; its error is the cause.
        """
        self._check_pid()
        task = Task(fn, args, kwargs, self._retries)
        self._scheduler.put(task)
        return task

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As the built-in `map`, by all workers; results in the order of the arguments.

        Args:
            fn: as for `submit`.
            iterables: its arguments; read to their end at once, unless there is a *buffersize*.
            timeout: seconds from now after which the next result raises TimeoutError; None: no limit.
            chunksize: tasks in a batch; 1: as many as bigm finds best.
            buffersize: tasks that may be read from *iterables* before their results are taken.
        Returns:
            Results, in order. An exception is raised in its place, after the results before it; the tasks behind it
            are then cancelled, as they are when the iterator is closed.
        Raises:
            ValueError: *chunksize* or *buffersize* is less than 1.
            RuntimeError: as `submit`.
        """
        self._check_pid()
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        sweep, items = sweep_of(
            self._scheduler, fn, iterables, retries=self._retries, most=chunksize if chunksize > 1 else 0
        )
        if buffersize is None:
            sweep.add(items, last=True)
            self._scheduler.put(sweep)
            return results(self._scheduler, sweep, deadline)
        ahead = buffersize
        feed = Feed(self._scheduler, sweep, items, lambda: ahead)
        feed()
        return results(self._scheduler, sweep, deadline, feed)

    def options(self, *, retries: int) -> Executor:
        """The same executor, for tasks with these options.

        Args:
            retries: how often a task may be run again after its machine was lost, since running it twice does no harm.
        """
        return _View(self, retries)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept nothing any more, and by default wait until all that was submitted is done. The machines live on.

        Args:
            wait: wait for it.
            cancel_futures: cancel what was not sent to a worker.
        """
        if os.getpid() != self._pid:
            return  # a forked child: the tasks are its parent's
        self._scheduler.close("shutdown", cancel=cancel_futures)
        if wait:
            self._scheduler.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _is_interrupt(error) and os.getpid() == self._pid:
            self._scheduler.abandon("shutdown")
        else:
            self.shutdown(wait=True)

    def _check_pid(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                "cannot schedule new futures: the executor belongs to the process that opened it, not to its forked "
                "children"
            )


class _View(Executor):
    """An executor's tasks with other options."""

    def __init__(self, of: Executor, retries: int) -> None:
        self._scheduler = of._scheduler
        self._retries = whole("retries", retries, 0)
        self._pid = of._pid
        self._root = of  # which must live as long as this


def open_executor(
    source: Source,
    machines: Sequence[Machine] | None,
    *,
    retries: int,
    threads: int,
    replace: bool,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> Executor:
    """`Cluster.executor`, with the same arguments and errors."""
    whole("retries", retries, 0)  # before anything is started
    scheduler = open_scheduler(
        source, machines, threads=threads, replace=replace, initializer=initializer, initargs=initargs
    )
    return Executor(scheduler, retries=retries)


def open_scheduler(
    source: Source,
    machines: Sequence[Machine] | None,
    *,
    threads: int,
    replace: bool = False,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Scheduler:
    """What an executor of that cluster gives its tasks to. Arguments as those of `Cluster.executor`."""
    whole("threads", threads, 1)
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    begin = None if initializer is None else codec.dumps((initializer, initargs), "the initializer")
    chosen = None if machines is None else chosen_machines("cluster.executor", machines, source)
    keeps = take_kept()
    if chosen is None and not source.machines():
        source.start()  # raises where nobody has said how many
    return Scheduler(
        Supply(source, chosen, replace=replace),
        f"bigm-executor-{next(_numbers)}",
        threads=threads,
        initializer=None if begin is None else [bytes(each) for each in begin],
        keeps=keeps,
    )


def chosen_machines(way: str, machines: Sequence[Machine], source: Source) -> list[Machine]:
    """The machines that *way* is to run on, of which there must be one.

    One that was dialled is the cluster's too, and looked after by pings. Of another cluster's nobody would tell the
    scheduler when it ends.
    """
    chosen = machine_list(way, machines)
    if not chosen:
        raise ConfigError("an executor needs machines", hint="leave `machines` out for all of the cluster")
    for machine in chosen:
        if source.home is not None and machine._link.credentials.identity.cluster != source.home.cluster:
            raise ConfigError(
                f"{way} cannot use machine {machine.addr}: it belongs to another cluster than {source.name}",
                hint="use its own cluster for it",
            )
    return chosen


def sweep_of(
    scheduler: Scheduler,
    fn: Callable[..., Any],
    iterables: Sequence[Iterable[Any]],
    *,
    retries: int,
    most: int = 0,
    ordered: bool = True,
) -> tuple[Sweep, Iterator[Any]]:
    """A sweep without tasks, and the arguments of those to add."""
    rows = len(iterables) != 1
    items: Iterator[Any] = zip(*iterables, strict=False) if rows else iter(iterables[0])
    return Sweep(fn, rows=rows, retries=retries, most=most, ordered=ordered, home=scheduler.home), items


class Feed:
    """Reads arguments ahead of the results, in the thread that takes these, and gives them out.

    Args:
        scheduler: whom they are given to.
        sweep: what they are added to.
        items: where they come from.
        ahead: how many may be read before their results are taken.
    """

    def __init__(self, scheduler: Scheduler, sweep: Sweep, items: Iterator[Any], ahead: Callable[[], int]) -> None:
        self.error: BaseException | None = None  # of the arguments' own iterator; raised after the results before it
        self._scheduler = scheduler
        self._sweep = sweep
        self._items = items
        self._ahead = ahead
        self._over = False

    def __call__(self) -> None:
        """Read as far as may be, or until there are results to take."""
        while not self._over and (room := self._ahead() - self._sweep.outstanding) > 0:
            self._read(room)
            if self._sweep.ready:
                return

    def _read(self, room: int) -> None:
        """Read up to *room*, and give out what came within a moment."""
        read: list[Any] = []
        until = time.monotonic() + _PATIENCE
        try:
            while len(read) < room and (not read or time.monotonic() < until):
                read.append(next(self._items))
        except StopIteration:
            self._over = True
        except Exception as error:  # noqa: BLE001  # the user's; it has its place in the order
            self._over, self.error = True, error
        self._sweep.add(read, last=self._over)
        if read:
            self._scheduler.put(self._sweep)


def results(
    scheduler: Scheduler, sweep: Sweep, deadline: float | None = None, feed: Feed | None = None
) -> Iterator[Any]:
    """The results of *sweep*, whose tasks were put; the rest is cancelled when the reader leaves."""
    try:
        while True:
            if feed is not None:
                feed()
            done = sweep.read(deadline)
            if done is None:
                break
            yield from done
    finally:
        sweep.cancel()
        scheduler.recall(sweep)
    if feed is not None and feed.error is not None:
        raise feed.error


def read_ahead(scheduler: Scheduler, sweep: Sweep) -> int:
    """Tasks to read ahead: a tenth of a second's work for each worker, and four for each at least."""
    seconds = scheduler.pace(sweep.function)
    each = 4 if seconds is None else max(4, int(_AHEAD / max(seconds, 1e-9)))
    return min(each * scheduler.slots, 4 * MOST)


def _retire(scheduler: Scheduler, pid: int) -> None:
    """Nobody has the executor any more: what was submitted is still done."""
    if os.getpid() == pid:
        scheduler.close("shutdown")


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether a signal ends the block, which means at once."""
    if isinstance(error, SystemExit):
        return isinstance(error.code, int) and error.code > 128
    return isinstance(error, KeyboardInterrupt)


def whole(what: str, number: object, least: int) -> int:
    """*number*, if it is a whole number from *least*.

    Raises:
        ConfigError: it is not; *what* names it.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ConfigError(f"{what} must be a whole number from {least}, not {number!r}")
    return number
