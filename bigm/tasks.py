"""The tasks of an executor: as their user sees them, and as they travel in batches.

A task is either a `Task`, which is a future, or one position of a `Sweep`, which is a call of `map`: there a future for
each would cost more than many a task does. Both are given out as pieces of a batch, and take back what became of them.
No thread, clock or connection here; whom they are given to is the business of `bigm.scheduler`.
"""

from __future__ import annotations

import concurrent.futures
import copy
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any

from bigm.rpc import codec
from bigm.rpc.calls import run_callback
from bigm.worker.functions import ATOMS, ONE, PACKED, ROW, Outcomes, Part, portable

_PENDING, _FINISHED = "PENDING", "FINISHED"  # as concurrent.futures calls them
_FORGETTING = 0.5  # of what is known of a function, at each further measurement
_ALL = 1 << 62
_KNOWN = 1024  # functions whose pace is remembered


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
        return len(self._coming) + len(self._behind) + sum(map(len, self._returned))

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


class Pace:
    """How long the calls of each function take, as far as that was seen. For one thread."""

    def __init__(self) -> None:
        self._seen: dict[object, tuple[float, float]] = {}

    def of(self, function: Callable[..., Any] | None) -> float | None:
        """Seconds of one call, transport excluded; None while that is not known."""
        seen = self._seen.get(_identity(function))
        return None if seen is None else seen[0] / seen[1]

    def saw(self, function: Callable[..., Any] | None, calls: int, seconds: float) -> None:
        """*calls* of it took *seconds* altogether."""
        if not calls:
            return
        identity = _identity(function)
        if len(self._seen) > _KNOWN:
            self._seen.clear()  # a program that makes functions all the time
        before, count = self._seen.get(identity, (0.0, 0.0))
        self._seen[identity] = (before * _FORGETTING + seconds, count * _FORGETTING + calls)


def _identity(function: Callable[..., Any] | None) -> object:
    """Functions that share it run the same code. Never hashes the function itself, which may not be hashable."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    return id(code) if code is not None else getattr(function, "__qualname__", type(function))


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


# Packing.


def pack(pieces: Iterable[Piece]) -> tuple[list[Piece], list[Part]]:
    """The pieces as parts of a batch. What cannot be pickled fails at once, alone, and is left out.

    Returns:
        The pieces that are in the batch, in their order, and the batch.
    """
    packed: list[Piece] = []
    parts: list[Part] = []
    last: Callable[..., Any] | None = None
    for piece in pieces:
        function = piece.function
        if not parts or not _same(function, last):
            segments = _function_segments(function)
            if isinstance(segments, Exception):
                fail(piece, segments)
                continue
            parts.append(Part(name_of(function), segments, -1, []))
            last = function
        if isinstance(piece, Task):
            _pack_task(piece, packed, parts)
        else:
            _pack_stretch(piece, packed, parts)
    return packed, [part for part in parts if part.calls]


def fail(piece: Piece, error: BaseException) -> None:
    """Let *piece* end with *error*."""
    if isinstance(piece, Task):
        piece.settle(None, error)
    else:
        piece.settle_failed(error)


def _function_segments(function: Callable[..., Any] | None) -> list[Any] | Exception:
    try:
        return portable(codec.dumps(function, f"function {name_of(function)}"))
    except Exception as error:  # noqa: BLE001  # NotPicklable, or whatever a broken object's __getattr__ raises
        return error


def _pack_task(task: Task, packed: list[Piece], parts: list[Part]) -> None:
    if not task.kwargs and set(map(type, task.args)) <= ATOMS:
        form, call = (ONE, task.args[0]) if len(task.args) == 1 else (ROW, task.args)
    else:
        form = PACKED
        try:
            call = _packed(name_of(task.function), task.args, task.kwargs)
        except Exception as error:  # noqa: BLE001  # as above
            task.settle(None, error)
            return
    _part_of(parts, form).calls.append(call)  # type: ignore[attr-defined]  # a list until it is sent
    packed.append(task)


def _pack_stretch(piece: Stretch, packed: list[Piece], parts: list[Part]) -> None:
    rows = piece.sweep.rows
    calls = piece.calls
    if not rows and set(map(type, calls)) <= ATOMS:
        _part_of(parts, ONE).calls.extend(calls)  # type: ignore[attr-defined]
        packed.append(piece)
    elif rows and all(set(map(type, row)) <= ATOMS for row in calls):
        _part_of(parts, ROW).calls.extend(calls)  # type: ignore[attr-defined]
        packed.append(piece)
    else:
        _pack_one_by_one(piece, packed, parts)


def _pack_one_by_one(piece: Stretch, packed: list[Piece], parts: list[Part]) -> None:
    name = name_of(piece.function)
    part = _part_of(parts, PACKED)
    index = 0
    while index < len(piece.calls):
        call = piece.calls[index]
        try:
            part.calls.append(_packed(name, call if piece.sweep.rows else (call,), {}))  # type: ignore[attr-defined]
            index += 1
        except Exception as error:  # noqa: BLE001  # as above
            rest = piece.split(index)
            assert rest is not None
            after = rest.split(1)
            rest.settle_failed(error)
            if piece.calls:
                packed.append(piece)
            if after is None:
                return
            piece, index = after, 0
    packed.append(piece)


def _part_of(parts: list[Part], form: int) -> Part:
    """The last part, if calls of that form can be added to it; else a new one of the same function."""
    part = parts[-1]
    if part.form not in (-1, form):
        parts.append(Part(part.name, part.function, form, []))
    elif part.form == -1:
        parts[-1] = part._replace(form=form)
    return parts[-1]


def _packed(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    return portable(codec.dumps_call(name, args, kwargs))


def _same(one: object, other: object) -> bool:
    """Whether both are one function; a method is another object each time it is looked up."""
    return one is other or (isinstance(one, MethodType) and isinstance(other, MethodType) and one == other)


# Taking back.


def settle(pieces: Sequence[Piece], outcomes: Outcomes) -> list[Piece]:
    """Hand to each of *pieces*, which are what a batch still has, what became of it.

    Returns:
        Those that were not begun.
    """
    left: list[Piece] = []
    position, count = 0, len(outcomes.values)
    for piece in pieces:
        if position >= count:
            left.append(piece)
            continue
        if isinstance(piece, Task):
            _settle_task(piece, outcomes, position)
            position += 1
            continue
        rest = piece.split(count - position)
        if rest is not None:
            left.append(rest)
        end = position + len(piece)
        whole = position == 0 and end == count
        failures = {i - position: e for i, e in outcomes.failures.items() if position <= i < end}
        values = list(outcomes.values) if whole else list(outcomes.values[position:end])
        piece.sweep.settle(piece.start, Done(values, failures, outcomes.plain, piece.sweep.home))
        position = end
    return left


def _settle_task(task: Task, outcomes: Outcomes, position: int) -> None:
    failure = outcomes.failures.get(position)
    if failure is not None:
        task.settle(None, as_error(failure))
        return
    value = outcomes.values[position]
    if outcomes.plain:
        task.settle(value)
        return
    try:
        result = codec.loads(value)
    except BaseException as error:  # noqa: BLE001  # of a class that is not here, or of a user's __setstate__
        task.settle(None, error)
    else:
        task.settle(result)


def take_last(pieces: list[Piece], count: int) -> list[Piece]:
    """Take the last *count* calls from *pieces*; what was taken, in its order."""
    taken: list[Piece] = []
    while count > 0 and pieces:
        piece = pieces.pop()
        size = len(piece)
        if isinstance(piece, Stretch) and size > count:
            rest = piece.split(size - count)
            pieces.append(piece)
            assert rest is not None
            piece, size = rest, count
        taken.insert(0, piece)
        count -= size
    return taken
