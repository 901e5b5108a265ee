"""The service every worker has for running functions. Whoever may call services may call it.

It is there once the program is imported, so a function that has an import path is found by it, and the machine's own is
run.

An executor (`bigm.executor`) does not send one call for each task: it sends batches. A batch waits for its turn, then
runs its tasks one after another. When that takes longer than was thought, the executor recalls it: what it has not
begun is taken back, and what it has done is told. The queue of a batch is emptied from its end by whoever recalls, and
from its front by whoever runs, and a deque gives each task to one of them only.
"""

from __future__ import annotations

import itertools
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional

from bigm.errors import NotPicklable
from bigm.rpc import codec
from bigm.rpc.current import CurrentCall, current_call
from bigm.rpc.wire import Buffer

NAME = "Functions"

# Values that can travel in one pickle with those of other tasks: nobody can tell whether two of them are one object.
ATOMS = frozenset({bool, bytes, complex, float, int, str, type(None)})

# How the calls of a part lie there.
ONE = 0  # the one argument itself, an atom
ROW = 1  # a tuple of arguments, atoms
PACKED = 2  # segments of a pickle of (arguments, keyword arguments)


class Part(NamedTuple):
    """Calls of one function, as they travel.

    Args:
        name: the function's, for messages.
        function: it, as segments.
        form: ONE, ROW or PACKED.
        calls: the arguments of each call, in that form.
    """

    name: str
    function: Sequence[Any]
    form: int
    calls: Sequence[Any]


class Lane(NamedTuple):
    """The executor that sends a batch, as its worker must know it.

    Args:
        id: unlike any other's.
        threads: batches of it that run at once.
        initializer: what runs once before the first of them, as segments of (function, arguments), or None.
    """

    id: str
    threads: int
    initializer: Optional[Sequence[Any]]


class Outcomes(NamedTuple):
    """What became of tasks of a batch that followed one another.

    Args:
        plain: whether *values* are the results themselves, all of them atoms; else each is segments.
        values: the results; None where there is none.
        failures: by position, exceptions as `codec.dumps_error` makes them.
        seconds: that each part took, when the batch has ended.
        broken: the exception of the initializer, as segments; then nothing was begun.
    """

    plain: bool
    values: Sequence[Any]
    failures: dict[int, Sequence[Any]]
    seconds: Sequence[float]
    broken: Optional[Sequence[Any]] = None

    def after(self, count: int) -> Outcomes:
        """Without the first *count*."""
        if not count:
            return self
        failures = {position - count: error for position, error in self.failures.items() if position >= count}
        return self._replace(values=self.values[count:], failures=failures)


class Recalled(NamedTuple):
    """What was taken back of a batch, and what it has done.

    Args:
        taken: tasks that will certainly not run here: the last ones.
        outcomes: of the first ones, but for those that were told before.
    """

    taken: int
    outcomes: Outcomes


class Functions:
    """Built-in service of a worker.

    Args:
        where: how messages call this worker.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._turns: dict[str, _Turns] = {}
        self._begun: dict[str, Optional[list[Buffer]]] = {}  # lanes whose initializer has run, and what it raised
        self._batches: dict[tuple[str, int], _Batch] = {}

    def __repr__(self) -> str:
        return f"<Functions of {self._where}: {len(self._batches)} batches>"

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run *function* with its arguments, and return what it returns.

        Args:
            function: what to run; found or rebuilt here by pickle.
            args: its own, as are *kwargs*.
        """
        return function(*args, **kwargs)

    def batch(self, lane: Lane, ticket: int, parts: Sequence[Part]) -> Outcomes:
        """Run the tasks of an executor, one after another, when their turn has come. What they raise is an outcome.

        Args:
            lane: which executor's.
            ticket: by which it can be recalled.
            parts: the tasks.
        """
        batch = _Batch(parts)
        turns = self._enter(lane, ticket, batch)
        try:
            with turns.free:
                broken = None if lane.initializer is None else self._begin(lane)
                if broken is not None:
                    return Outcomes(True, (), {}, (), portable(broken))
                return self._run_parts(batch, current_call())
        finally:
            self._leave(lane, ticket, turns)

    def recall(self, lane: str, told: Mapping[int, int]) -> dict[int, Recalled]:
        """Take back what was not begun of some batches, and tell what they have done.

        Args:
            lane: the id of the executor.
            told: by ticket, how many outcomes of the batch are known already. A ticket that is not here (any more) does
                no harm.
        Returns:
            By ticket, what became of those that are here.
        """
        found: dict[int, Recalled] = {}
        for ticket, known in told.items():
            batch = self._batches.get((lane, ticket))
            if batch is not None:
                taken = batch.take_back()
                found[ticket] = Recalled(taken, self._outcomes(batch, known, ()))
        return found

    def forget(self, lane: str) -> None:
        """The executor with that id has ended."""
        with self._lock:
            self._begun.pop(lane, None)

    # Turns.

    def _enter(self, lane: Lane, ticket: int, batch: _Batch) -> _Turns:
        with self._lock:
            turns = self._turns.get(lane.id)
            if turns is None:
                turns = self._turns[lane.id] = _Turns(lane.threads)
            turns.users += 1
            self._batches[lane.id, ticket] = batch
        return turns

    def _leave(self, lane: Lane, ticket: int, turns: _Turns) -> None:
        with self._lock:
            del self._batches[lane.id, ticket]
            turns.users -= 1
            if not turns.users:
                del self._turns[lane.id]

    def _begin(self, lane: Lane) -> Optional[list[Buffer]]:
        """Run the lane's initializer if that was not done yet; its exception, the same for all batches."""
        with self._lock:
            turns = self._turns[lane.id]
        with turns.beginning:
            if lane.id not in self._begun:
                error: Optional[list[Buffer]] = None
                try:
                    function, args = codec.loads(lane.initializer or ())
                    function(*args)
                except BaseException as e:  # noqa: BLE001  # whatever it is, the executor has to know
                    error = codec.dumps_error(e, self._where)
                self._begun[lane.id] = error
            return self._begun[lane.id]

    # Running.

    def _run_parts(self, batch: _Batch, current: CurrentCall) -> Outcomes:
        seconds: list[float] = []
        started = time.perf_counter()
        for part, queue in zip(batch.parts, batch.queues):
            try:
                run = _runner(part, self._where)
            except BaseException as e:  # noqa: BLE001  # whatever a user's __setstate__ raises
                run = _refuser(_not_rebuilt(f"function {part.name}", self._where, e))
            self._run_calls(run, queue, current, batch.values)
            now = time.perf_counter()
            seconds.append(now - started)
            started = now
        outcomes = self._outcomes(batch, 0, seconds)
        seconds[-1] += time.perf_counter() - started
        return outcomes

    def _run_calls(self, run: Callable[[Any], Any], queue: deque[Any], current: CurrentCall, values: list[Any]) -> None:
        """Run what is in *queue* until it is empty, or nobody waits any more."""
        take, keep = queue.popleft, values.append
        while queue and not current.cancelled:
            try:
                call = take()
            except IndexError:  # it was recalled just now
                return
            try:
                keep(run(call))
            except BaseException as e:  # noqa: BLE001  # SystemExit too: the worker lives on
                keep(_Failure(codec.dumps_error(e, self._where)))
            call = None  # what it holds must not live until the next one

    def _outcomes(self, batch: _Batch, start: int, seconds: Sequence[float]) -> Outcomes:
        """What the batch has done from *start* on. Each value travels by itself, so that one may fail alone."""
        values = batch.values[start:]
        types = set(map(type, values))
        if types <= ATOMS:
            return Outcomes(True, values, {}, seconds)
        plain = types <= ATOMS | {_Failure}
        names = itertools.islice(batch.names(), start, None)
        failures: dict[int, Sequence[Any]] = {}
        for position, (name, value) in enumerate(zip(names, values)):
            if isinstance(value, _Failure):
                failures[position] = portable(value.segments)
                values[position] = None
            elif not plain:
                try:
                    values[position] = portable(codec.dumps_reply(name, value))
                except Exception as e:  # noqa: BLE001  # NotPicklable, with the path
                    failures[position] = portable(codec.dumps_error(e, self._where))
                    values[position] = None
        return Outcomes(plain, values, failures, seconds)


class _Batch:
    """A batch that is here."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.queues = [deque(part.calls) for part in parts]
        self.values: list[Any] = []  # of the tasks that have ended

    def take_back(self) -> int:
        """Empty the queues, from the end; how many tasks were in them."""
        taken = 0
        for queue in reversed(self.queues):
            try:
                while True:
                    queue.pop()
                    taken += 1
            except IndexError:
                pass
        return taken

    def names(self) -> Iterator[str]:
        """The name of each task's function."""
        for part in self.parts:
            yield from itertools.repeat(part.name, len(part.calls))


class _Failure:
    """In the place of a value: what was raised."""

    __slots__ = ("segments",)

    def __init__(self, segments: list[Buffer]) -> None:
        self.segments = segments


class _Turns:
    """Who of a lane may run."""

    def __init__(self, threads: int) -> None:
        self.free = threading.Semaphore(threads)
        self.beginning = threading.Lock()
        self.users = 0


def _runner(part: Part, where: str) -> Callable[[Any], Any]:
    """What runs one call of *part*."""
    function = codec.loads(part.function)
    if part.form == ONE:
        run: Callable[[Any], Any] = function
        return run
    if part.form == ROW:
        return lambda row: function(*row)

    def run_packed(segments: Sequence[Buffer]) -> Any:
        try:
            args, kwargs = codec.loads(segments)
        except BaseException as e:
            raise _not_rebuilt(f"the arguments of {part.name}", where, e) from e
        return function(*args, **kwargs)

    return run_packed


def _refuser(error: BaseException) -> Callable[[Any], Any]:
    def refuse(call: Any) -> Any:
        raise error

    return refuse


def _not_rebuilt(what: str, where: str, error: BaseException) -> NotPicklable:
    advice = f"sys.path there is {sys.path}" if isinstance(error, ImportError) else ""
    said = f"{codec.type_name(type(error))}: {error}".rstrip(": ")
    return NotPicklable(f"cannot rebuild {what} on {where}: {said}", hint=advice)


def portable(segments: Sequence[Buffer]) -> list[Any]:
    """Segments as values in a further pickle: the memory of big ones stays where it is there too.

    A view is replaced by the object it is a view of, all of which it shows (`PickleBuffer.raw`). Python before 3.12.7
    crashes when its garbage collector meets a buffer of a view of a buffer (gh-77894).
    """
    return [each if isinstance(each, bytes) else _buffer(each) for each in segments]


def _buffer(view: Any) -> Any:
    owner = view.obj if isinstance(view, memoryview) else view
    if not isinstance(owner, memoryview):
        buffer = pickle.PickleBuffer(owner)
        with buffer.raw() as raw:
            if raw.nbytes == memoryview(view).nbytes:
                return buffer
    return bytes(view)
