"""The tasks of an executor, between who wants them done and who gives them out.

A task is either a `Task`, which is a future, or one position of a `Sweep`, which is a call of `map`: there a future for
each would cost more than many a task does. Both are given out as pieces of a batch, and take back what became of them.
Whom they are given to is the business of `bigm.scheduler`.
"""

from __future__ import annotations

import concurrent.futures
import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bigm.rpc import codec
from bigm.rpc.calls import run_callback

_PENDING, _FINISHED = "PENDING", "FINISHED"  # as concurrent.futures calls them
_ALL = 1 << 62


class Task(concurrent.futures.Future[Any]):
    """A call of `submit`: a future that becomes RUNNING when it is sent to a worker.

    Args:
        function: what to run.
        args: its arguments, as are *kwargs*.
        retries: how often it may be run again after its machine was lost.
    """

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], retries: int
    ) -> None:
        super().__init__()
        self.function: Callable[..., Any] | None = function
        self.args = args
        self.kwargs = kwargs
        self.retries = retries
        self.lost = 0

    def __len__(self) -> int:
        return 1

    def __bool__(self) -> bool:
        return True

    def take_back(self) -> None:
        """It was given out and has certainly not begun: it can be cancelled again."""
        with self._condition:
            self._state = _PENDING

    def settle(self, value: Any, error: BaseException | None = None) -> None:
        """It has its result or its error. Callbacks, which are user code, run elsewhere."""
        with self._condition:
            if self._state == _FINISHED:
                return
            self.function, self.args, self.kwargs = None, (), {}  # nobody asks for them any more
            self._result, self._exception, self._state = value, error, _FINISHED
            for waiter in self._waiters:
                waiter.add_result(self) if error is None else waiter.add_exception(self)
            self._condition.notify_all()
        if self._done_callbacks:  # type: ignore[attr-defined]  # not in typeshed
            try:
                run_callback(self._invoke_callbacks)  # type: ignore[attr-defined]
            except RuntimeError:  # the interpreter starts no more threads
                self._invoke_callbacks()  # type: ignore[attr-defined]


class Sweep:
    """A call of `map`: one function, many arguments, results by position.

    Args:
        function: what to run.
        rows: the arguments of each call are a tuple; else they are the one argument itself.
        retries: how often a task may be run again after its machine was lost.
        most: tasks in one batch at most; 0: as seems best.
        ordered: results are wanted by position; else as they come.
        home: whose the handles of machines among the results become.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        rows: bool,
        retries: int,
        most: int = 0,
        ordered: bool = True,
        home: codec.Home | None = None,
    ) -> None:
        self.home = home
        self.function = function
        self.rows = rows
        self.retries = retries
        self.most = most
        self.cancelled = False
        self._ordered = ordered
        self._changed = threading.Condition()
        self._coming: list[Any] = []  # not given out yet, the last one first
        self._behind: list[Any] = []  # those after them, the first one first
        self._returned: deque[Stretch] = deque()  # given out, and come back
        self._done: dict[int, Done] = {}
        self._given = 0  # positions
        self._wanted = 0  # the position that the reader waits for
        self._count = 0
        self._complete = False
        self.finished = 0  # tasks

    def __len__(self) -> int:
        """Tasks that can be given out."""
        return len(self._coming) + len(self._behind) + sum(map(len, list(self._returned)))  # its reader may cancel it

    def __bool__(self) -> bool:
        return bool(self._coming or self._behind or self._returned)

    @property
    def outstanding(self) -> int:
        """Tasks added and not read yet."""
        return self._count - self._wanted

    @property
    def ready(self) -> bool:
        """Whether the reader need not wait."""
        return self._wanted in self._done if self._ordered else bool(self._done)

    def add(self, items: Iterable[Any], *, last: bool = False) -> None:
        """Add the arguments of further calls. For the reader's thread.

        Args:
            items: in their order.
            last: nothing follows.
        """
        new = list(items)
        with self._changed:
            self._behind += new
            self._count += len(new)
            self._complete = last

    def take(self, most: int) -> Stretch | None:
        """The next tasks, *most* at most. For the scheduler's thread."""
        with self._changed:
            if self.cancelled:
                return None
            if self._returned:
                piece = self._returned.popleft()
                if piece.lost:
                    most = 1  # whatever ended its machine, others are not to suffer from it
                rest = piece.split(most)
                if rest is not None:
                    self._returned.appendleft(rest)
                return piece
            if not self._coming:
                self._coming, self._behind = self._behind, []
                self._coming.reverse()
            calls = self._coming[-most:]
            if not calls:
                return None
            del self._coming[-most:]
            calls.reverse()
            start, self._given = self._given, self._given + len(calls)
        return Stretch(self, start, calls)

    def give_back(self, piece: Stretch) -> None:
        """*piece* has to be done by another worker."""
        with self._changed:
            if not self.cancelled:
                self._returned.appendleft(piece)

    def settle(self, start: int, done: Done) -> None:
        """The results from position *start* on are there."""
        with self._changed:
            self.finished += len(done.values)
            if self.cancelled:
                return
            self._done[start] = done
            if start == self._wanted or not self._ordered:
                self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Let all that was not given out fail."""
        while (piece := self.take(_ALL)) is not None:
            piece.settle_failed(error)

    def cancel(self) -> None:
        """Nobody wants the rest."""
        with self._changed:
            self.cancelled = True
            self._coming.clear()
            self._behind.clear()
            self._returned.clear()
            self._done.clear()
            self._changed.notify_all()

    def read(self, deadline: float | None) -> Done | None:
        """The next results; None after the last. For the reader's thread.

        Args:
            deadline: monotonic time.
        Raises:
            TimeoutError: of concurrent.futures: the deadline passed first.
            CancelledError: it was cancelled.
        """
        with self._changed:
            while True:
                if self.cancelled:
                    raise concurrent.futures.CancelledError
                if self._complete and self._wanted == self._count:
                    return None
                position = self._wanted if self._ordered else next(iter(self._done), -1)
                done = self._done.pop(position, None)
                if done is not None:
                    self._wanted += len(done.values)
                    return done
                self._await_change(deadline)

    def _await_change(self, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise concurrent.futures.TimeoutError
        self._changed.wait(0.25 if left is None else min(left, 0.25))  # and see whether Ctrl-C was missed meanwhile


class Done:
    """Results of consecutive positions, still as they travelled.

    Args:
        values: results, or segments of each where not *plain*.
        failures: by index, segments or the exception itself.
        plain: see `Outcomes`.
        home: whose the handles of machines among them become.
    """

    __slots__ = ("failures", "home", "plain", "values")

    def __init__(
        self, values: list[Any], failures: Mapping[int, Any], plain: bool, home: codec.Home | None = None
    ) -> None:
        self.home = home
        self.values = values
        self.failures = failures
        self.plain = plain

    def __iter__(self) -> Iterator[Any]:
        """The results, each let go as it is handed on; raises the first exception among them."""
        values = self.values
        values.reverse()
        if self.plain and not self.failures:
            while values:
                yield values.pop()
            return
        index = 0
        while values:
            value = values.pop()
            if index in self.failures:
                raise as_error(self.failures[index], self.home)
            index += 1
            if self.plain:
                yield value
            else:
                yield codec.loads(value, self.home)


class Stretch:
    """Consecutive positions of a sweep.

    Args:
        sweep: whose.
        start: the first position.
        calls: their arguments.
        lost: how often their machine was lost.
    """

    __slots__ = ("calls", "lost", "start", "sweep")

    def __init__(self, sweep: Sweep, start: int, calls: list[Any], lost: int = 0) -> None:
        self.sweep = sweep
        self.start = start
        self.calls = calls
        self.lost = lost

    def __len__(self) -> int:
        return len(self.calls)

    @property
    def function(self) -> Callable[..., Any]:
        """What they run."""
        return self.sweep.function

    @property
    def retries(self) -> int:
        """How often they may be run again after their machine was lost."""
        return self.sweep.retries

    def split(self, count: int) -> Stretch | None:
        """Keep the first *count*; the others, or None where there are none."""
        if count >= len(self.calls):
            return None
        rest = Stretch(self.sweep, self.start + count, self.calls[count:], self.lost)
        del self.calls[count:]
        return rest

    def settle_failed(self, error: BaseException) -> None:
        """All of them have failed, with *error*."""
        failures = dict.fromkeys(range(len(self.calls)), error)
        self.sweep.settle(self.start, Done([None] * len(self.calls), failures, True))


Piece = Task | Stretch


def name_of(function: Callable[..., Any] | None) -> str:
    """What messages call a function."""
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def as_error(failure: Any, home: codec.Home | None = None) -> BaseException:
    """The exception to raise for a failure: segments, or the exception itself."""
    if not isinstance(failure, BaseException):
        return codec.loads_error(failure, home)
    return failure


def another(error: BaseException) -> BaseException:
    """A further exception that says the same: each that is raised gathers a traceback of its own."""
    try:
        again = copy.copy(error)
    except Exception:  # noqa: BLE001  # of a user's class
        return error
    again.__cause__, again.__traceback__ = error.__cause__, None
    return again


def fail(piece: Piece, error: BaseException) -> None:
    """Let *piece* end with *error*."""
    if isinstance(piece, Task):
        piece.settle(None, error)
    else:
        piece.settle_failed(error)
