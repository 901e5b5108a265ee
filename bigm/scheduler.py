"""Gives the tasks of an executor to the workers of its machines, and takes back what became of them.

Theory of operation. One thread decides everything: which task goes to which worker, what a lost connection means, and
when the executor has ended. Others only put tasks into the queue, and news into its inbox; the I/O thread sends and
receives.

Tasks travel in *batches*, so that many share the cost of a call: as many as take a hundredth of a second, as far as
their function was measured; one that was not goes alone. A batch is never more than a share of what is waiting, so that
the last ones end together. A worker runs `threads` batches at a time, and is sent as many in advance, but only short
ones: a long task must not wait behind another while a worker idles. Where a measurement misled, and a batch takes
longer, it is *recalled*: what it has not begun is given to others, and what it has done is told.

What may have run is run again only where its user has said that this does no harm (`retries`): a connection that was
lost tells nothing of which tasks of a batch had begun. What was recalled, or never sent, has certainly not begun.

Source: concurrent.futures.process for what an executor promises; guided self-scheduling (Polychronopoulos and Kuck,
1987) for the size of batches.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError
from typing import Any

from bigm.errors import BigmError, Busy, IdentityError, MachineStopped, PayloadTooLarge, Unreachable, WireError
from bigm.lifecycle import State
from bigm.machine import Machine
from bigm.rpc.calls import CallFuture
from bigm.supply import Supply
from bigm.tasks import Pace, Piece, Stretch, Sweep, Task, another, as_error, fail, pack, settle, take_last
from bigm.worker.functions import Lane, Outcomes, Part, Recalled

TARGET = 0.010  # seconds of work in a batch
LEAST = 0.001  # seconds of work that are worth a call of their own, however little of what waits is left
MOST = 16384  # tasks in a batch
LATE = 0.030  # seconds after which a batch that should have ended may be recalled
ASIDE_FIRST = 1.0  # seconds for which a machine with errors of the wire is given nothing; doubled each time, up to
ASIDE_MOST = 60.0
_LOOK = 0.25  # seconds between two looks at whether Ctrl-C was missed

_NOT_BEGUN = (Unreachable, IdentityError)  # with these a call has certainly not started

logger = logging.getLogger("bigm.executor")


class Batch:
    """Tasks on their way to a worker and back."""

    __slots__ = ("expected", "late", "parts", "patience", "pieces", "reply", "ticket", "told", "worker")

    def __init__(self, ticket: int, worker: Worker, pieces: list[Piece], expected: float | None) -> None:
        self.ticket = ticket
        self.worker = worker
        self.pieces = pieces
        self.expected = expected  # seconds; None: not known
        self.parts: list[tuple[Callable[..., Any] | None, int]] = []
        self.reply: CallFuture | None = None
        self.told = 0  # outcomes that were told before its end
        self.patience = max(LATE, 2 * (expected or 0.0))  # seconds; doubled each time it is recalled
        self.late = math.inf  # when (monotonic) it should be recalled

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def short(self, now: float) -> bool:
        """Whether another can wait behind it."""
        return self.expected is not None and self.expected <= 2 * TARGET and now < self.late

    def wait(self) -> None:
        """Begin to count, or begin again."""
        self.late = time.monotonic() + self.patience
        self.patience *= 2

    def drop(self) -> list[Piece]:
        """Its pieces, which it lets go of, as of all else."""
        pieces, self.pieces = self.pieces, []
        self.parts, self.reply = [], None
        return pieces


class Worker:
    """A worker of a machine, and what it has been given."""

    __slots__ = ("batches", "last", "place", "proc")

    def __init__(self, place: Place, proc: int) -> None:
        self.place = place
        self.proc = proc
        self.last = -1  # ticket
        self.batches: dict[int, Batch] = {}


class Place:
    """A machine, as the scheduler knows it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.workers: list[Worker] = []  # none while it cannot be called
        self.aside = 0.0  # until when (monotonic) it is given nothing
        self.pause = ASIDE_FIRST
        self.draining = False

    @property
    def busy(self) -> bool:
        """Whether it was given something that it has not answered."""
        return any(worker.batches for worker in self.workers)


class Scheduler:
    """Runs tasks on the machines of a supply. Its thread ends after `close`, when all is done.

    Args:
        supply: the machines.
        name: of its thread.
        threads: tasks that a worker runs at a time.
        initializer: segments of (function, arguments): runs once in each worker before its first task; or None.
    """

    def __init__(self, supply: Supply, name: str, *, threads: int, initializer: Sequence[Any] | None) -> None:
        self.name = name
        self.home = supply.home
        self._supply = supply
        self._threads = threads
        self._lane = Lane(os.urandom(8).hex(), threads, initializer)
        self._inbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._queue: deque[Task | Sweep] = deque()
        self._queued: set[Sweep] = set()
        self._places: dict[Machine, Place] = {}
        self._tickets = itertools.count()
        self._pace = Pace()
        self._lock = threading.Lock()
        self._woken = False
        self._closing = ""  # why nothing is accepted any more
        self._broken: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        supply.watch(self)
        self._inbox.put((self._refresh,))
        self._thread.start()

    def __repr__(self) -> str:
        state = "ended" if self._ended.is_set() else self._closing or "open"
        given = sum(len(batch) for batch in self._batches())
        return f"<{self.name} {state}: {len(self._places)} machines, {len(self._queue)} waiting, {given} given out>"

    # For any thread.

    @property
    def slots(self) -> int:
        """Tasks that can run at a time, once all machines run; at least 1."""
        return self._threads * max(1, sum(max(1, machine.procs) for machine in self._supply.machines()))

    def pace(self, function: Callable[..., Any]) -> float | None:
        """Seconds that a call of *function* takes, as far as that was seen; else None."""
        return self._pace.of(function)

    def put(self, entry: Task | Sweep) -> None:
        """Take on a task, or a sweep, which may be put again when tasks were added.

        Raises:
            BrokenExecutor: the initializer has failed.
            RuntimeError: it is closed.
        """
        with self._lock:
            if self._broken is not None:
                raise BrokenExecutor(str(self._broken)) from self._broken
            if self._closing:
                raise RuntimeError(f"cannot schedule new futures after {self._closing}")
            if isinstance(entry, Task):
                self._queue.append(entry)
            else:
                self._inbox.put((self._enqueue, entry))
        if not self._woken:
            self._woken = True
            self._inbox.put((_nothing,))

    def refresh(self) -> None:
        """Look at the machines again, soon."""
        self._inbox.put((self._refresh,))

    def recall(self, sweep: Sweep) -> None:
        """A sweep was cancelled: free the workers of what they have not begun of it, soon."""
        self._inbox.put((self._recall_sweep, sweep))

    def close(self, why: str, *, cancel: bool = False) -> None:
        """Accept nothing any more.

        Args:
            why: for whoever tries, after "cannot schedule new futures after".
            cancel: cancel what was not given out.
        """
        with self._lock:
            self._closing = self._closing or why
        self._inbox.put((self._cancel_waiting,) if cancel else (_nothing,))

    def abandon(self, why: str) -> None:
        """As `close`, and let go of what runs: its futures are cancelled, the workers asked to stop."""
        self.close(why)
        self._inbox.put((self._abandon,))

    def fail(self, why: str, error: BigmError) -> None:
        """As `close`, and what was not given out fails with *error*."""
        self.close(why)
        self._inbox.put((self._fail_waiting, error))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all that was put is done, after `close`; False when *timeout* seconds passed first."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not self._ended.wait(min(_LOOK, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return False
        return True

    def drain(self, machine: Machine) -> None:
        """Give *machine* nothing more, and have it finish what it has begun, soon. `uses` tells when that is so."""
        self._inbox.put((self._drain, machine))

    def uses(self, machine: Machine) -> bool:
        """Whether *machine* was given something that it has not answered."""
        place = self._places.get(machine)
        return place is not None and not self._ended.is_set() and (place.busy or not place.draining)

    # The thread.

    def _run(self) -> None:
        while not self._over():
            try:
                self._turn()
            except Exception as error:
                logger.exception("bigm: the executor met a bug")
                self._break(error)
        self._end()

    def _turn(self) -> None:
        """Wait for news, and act on all there are."""
        try:
            act, *args = self._inbox.get(timeout=self._patience())
            while True:
                act(*args)
                act, *args = self._inbox.get_nowait()
        except queue.Empty:
            pass
        act, args = _nothing, []  # what they hold must not live until the next news
        self._woken = False
        self._dispatch()

    def _over(self) -> bool:
        with self._lock:
            return bool(self._closing) and self._head() is None and not any(p.busy for p in self._places.values())

    def _end(self) -> None:
        self._supply.unwatch()
        if self._lane.initializer is not None:
            for worker in self._workers():
                self._tell(worker, "Functions.forget", self._lane.id)
        for place in self._places.values():
            place.machine._users.discard(self)
        self._ended.set()

    def _patience(self) -> float | None:
        """Seconds until something is due without news; None: nothing is."""
        due = self._recall_due()
        if self._head() is not None:
            due = min([due, *(place.aside for place in self._places.values() if place.aside)])
        return None if due == math.inf else max(0.0, due - time.monotonic())

    # Machines.

    def _refresh(self) -> None:
        for machine in self._supply.machines():
            if machine not in self._places:
                self._places[machine] = Place(machine)
                machine._users.add(self)
                machine._opened().add_done_callback(lambda _: self.refresh())
        for place in list(self._places.values()):
            machine = place.machine
            if machine.state is State.STOPPED:
                if not place.busy:
                    del self._places[machine]
                    self._supply.ended(machine, ran=bool(place.workers))
            elif not place.workers and machine.state is State.RUNNING and machine._clients:
                place.workers = [Worker(place, proc) for proc in range(machine.procs)]
                self._supply.runs(machine)

    def _check_supply(self) -> None:
        """Let what waits fail when no machine is there to run it, nor will be."""
        if self._places:
            return
        more = self._supply.expects_more()
        self._refresh()  # after the question: what came meanwhile is seen
        if not self._places and not more:
            self._fail_waiting(self._supply.error())

    def _set_aside(self, place: Place) -> None:
        place.aside = time.monotonic() + place.pause
        place.pause = min(2 * place.pause, ASIDE_MOST)

    def _drain(self, machine: Machine) -> None:
        place = self._places.get(machine)
        if place is not None:
            place.draining = True
            for worker in place.workers:
                self._recall_from(worker)
        machine._announce()

    def _workers(self) -> Iterable[Worker]:
        return (worker for place in self._places.values() for worker in place.workers)

    def _batches(self) -> Iterable[Batch]:
        return [batch for worker in list(self._workers()) for batch in list(worker.batches.values())]

    # Giving out.

    def _enqueue(self, sweep: Sweep) -> None:
        if sweep and sweep not in self._queued:
            self._queued.add(sweep)
            self._queue.append(sweep)

    def _head(self) -> Task | Sweep | None:
        """What is to be given out next; what is not to be any more is let go."""
        while self._queue:
            entry = self._queue[0]
            if isinstance(entry, Task):
                if not entry.cancelled():
                    return entry
                self._queue.popleft()
                entry.set_running_or_notify_cancel()
            elif entry:
                return entry
            else:
                self._queue.popleft()
                self._queued.discard(entry)
        return None

    def _dispatch(self) -> None:
        while (entry := self._head()) is not None:
            self._check_supply()
            open_places = self._open_places()
            worker = self._choose(entry, open_places)
            if worker is None:
                break
            slots = sum(len(place.workers) for place in open_places) * self._threads
            pieces, expected = self._gather(slots)
            self._send(worker, pieces, expected)
        if self._recall_due() <= time.monotonic():
            self._recall_late()

    def _open_places(self) -> list[Place]:
        now = time.monotonic()
        found = []
        for place in self._places.values():
            if place.aside and place.aside <= now:
                place.aside = 0.0
            if place.workers and not place.aside and not place.draining and place.machine.state is State.RUNNING:
                found.append(place)
        return found

    def _choose(self, entry: Task | Sweep, places: list[Place]) -> Worker | None:
        """An idle worker; else, when *entry* is short, one whose batches are."""
        worker = min((worker for place in places for worker in place.workers), key=_idleness, default=None)
        if worker is None or len(worker.batches) < self._threads:
            return worker
        if self._long(entry):
            return None
        limit, now = 2 * self._threads, time.monotonic()
        return min(
            (
                worker
                for place in places
                for worker in place.workers
                if len(worker.batches) < limit and all(batch.short(now) for batch in worker.batches.values())
            ),
            key=_idleness,
            default=None,
        )

    def _long(self, entry: Task | Sweep) -> bool:
        """Whether it is not known to be short."""
        if isinstance(entry, Task) and entry.lost:
            return True
        pace = self._pace.of(entry.function)
        return pace is None or pace > TARGET

    def _gather(self, slots: int) -> tuple[list[Piece], float | None]:
        """The pieces of the next batch, and the seconds that they should take."""
        share = math.ceil(self._waiting() / (2 * slots))
        pieces: list[Piece] = []
        seconds, count = 0.0, 0
        while (entry := self._head()) is not None:
            pace = self._pace.of(entry.function)
            if pace is None or (isinstance(entry, Task) and entry.lost):
                if pieces:
                    break
                piece = self._take(entry, 1 if isinstance(entry, Task) else max(1, entry.most))
                if piece is not None:
                    return [piece], None
                continue
            pace = max(pace, 1e-9)
            room = min(int((TARGET - seconds) / pace), max(share, int(LEAST / pace)) - count, MOST - count)
            if isinstance(entry, Sweep) and entry.most:
                room = 0 if pieces else entry.most
            if room < 1 and pieces:
                break
            piece = self._take(entry, max(room, 1))
            if piece is not None:
                pieces.append(piece)
                count += len(piece)
                seconds += len(piece) * pace
                if isinstance(piece, Stretch) and piece.lost:
                    return pieces, None
        return pieces, seconds

    def _waiting(self) -> int:
        """Tasks that can be given out."""
        return len(self._queue) - len(self._queued) + sum(map(len, self._queued))

    def _take(self, entry: Task | Sweep, most: int) -> Piece | None:
        if isinstance(entry, Sweep):
            return entry.take(most)
        self._queue.popleft()
        return entry if entry.set_running_or_notify_cancel() else None

    def _send(self, worker: Worker, pieces: list[Piece], expected: float | None) -> None:
        pieces, parts = pack(pieces)
        if not pieces:
            return
        batch = Batch(next(self._tickets), worker, pieces, expected)
        batch.parts = _measured(pieces, parts)
        worker.batches[batch.ticket] = batch
        worker.last = batch.ticket
        answered = functools.partial(self._hear, self._answered, batch)
        batch.wait()
        batch.reply = self._tell(worker, "Functions.batch", self._lane, batch.ticket, parts, done=answered)
        if batch.reply is None:  # its machine has ended just now
            del worker.batches[batch.ticket]
            self._give_back(batch.drop())
            self._refresh()

    def _tell(
        self, worker: Worker, method: str, *args: Any, done: Callable[[CallFuture], None] = lambda reply: None
    ) -> CallFuture | None:
        clients = worker.place.machine._clients
        if worker.proc >= len(clients):
            return None
        return clients[worker.proc].submit_internal(method, args, done=done)

    def _hear(self, act: Callable[..., None], about: Any, reply: CallFuture) -> None:
        """A reply, on the I/O thread."""
        self._inbox.put((act, about, reply))

    # Taking back.

    def _answered(self, batch: Batch, reply: CallFuture) -> None:
        worker, place = batch.worker, batch.worker.place
        if worker.batches.pop(batch.ticket, None) is None:
            return  # it was abandoned
        try:
            outcomes: Outcomes = reply.result()
        except MachineStopped as error:
            self._lost(batch, error, begun=reply.call is None or reply.call.sends > 0)
            self._refresh()
        except PayloadTooLarge as error:
            self._fail(batch.drop(), error)
        except WireError as error:
            if not isinstance(error, Busy) or not place.busy:  # else it is merely busy with what others gave it
                self._set_aside(place)
            self._lost(batch, error, begun=not isinstance(error, _NOT_BEGUN))
        except Exception as error:  # noqa: BLE001  # the call was refused, or answered with something unheard of
            self._fail(batch.drop(), error)
        else:
            place.pause = ASIDE_FIRST
            self._settle(batch, outcomes)
        if place.draining:
            place.machine._announce()

    def _settle(self, batch: Batch, outcomes: Outcomes) -> None:
        if outcomes.broken is not None:
            self._give_back(batch.drop())
            self._break(as_error(outcomes.broken))
            return
        left = len(outcomes.values)
        for (function, calls), seconds in zip(batch.parts, outcomes.seconds, strict=False):
            self._pace.saw(function, min(calls, left), seconds)
            left -= calls
        outcomes = outcomes.after(batch.told)
        self._give_back(settle(batch.drop(), outcomes))

    def _lost(self, batch: Batch, error: WireError, *, begun: bool) -> None:
        again: list[Piece] = []
        for piece in batch.drop():
            if begun and piece.lost >= piece.retries:
                fail(piece, another(error))
                continue
            piece.lost += begun
            again.append(piece)
        self._give_back(again)

    def _give_back(self, pieces: Sequence[Piece]) -> None:
        """Let *pieces* be given out again, before all others."""
        for piece in reversed(pieces):
            if isinstance(piece, Task):
                piece.take_back()
                self._queue.appendleft(piece)
                continue
            piece.sweep.give_back(piece)
            if piece.sweep not in self._queued:
                self._queued.add(piece.sweep)
                self._queue.appendleft(piece.sweep)

    def _fail(self, pieces: Sequence[Piece], error: BaseException) -> None:
        for piece in pieces:
            fail(piece, another(error))

    # Recalling.

    def _recall_due(self) -> float:
        """When (monotonic) a worker should be asked what it has done; inf: not so soon."""
        return min((self._late(worker) for worker in self._workers() if worker.batches), default=math.inf)

    def _late(self, worker: Worker) -> float:
        """When *worker* is late with more than what it runs just now; inf: it has no more, as far as is known here."""
        batches = worker.batches.values()
        if sum(map(len, batches)) <= self._threads:
            return math.inf
        return min(batch.late for batch in batches)

    def _recall_late(self) -> None:
        now = time.monotonic()
        for worker in self._workers():
            if worker.batches and self._late(worker) <= now:
                self._recall_from(worker)

    def _recall_from(self, worker: Worker) -> None:
        if not worker.batches:
            return
        told = {}
        for batch in worker.batches.values():
            batch.wait()
            told[batch.ticket] = batch.told
        done = functools.partial(self._hear, self._recalled, (worker, told))
        self._tell(worker, "Functions.recall", self._lane.id, told, done=done)

    def _recalled(self, about: tuple[Worker, dict[int, int]], reply: CallFuture) -> None:
        worker, told = about
        try:
            found: dict[int, Recalled] = reply.result()
        except BigmError:
            return  # then the batches themselves tell, by what they answer
        for ticket, recalled in sorted(found.items(), reverse=True):
            batch = worker.batches.get(ticket)
            if batch is None or batch.told != told[ticket]:
                continue  # its answer came first, and what it had not begun was given back
            batch.told += len(recalled.outcomes.values)
            batch.pieces = settle(batch.pieces, recalled.outcomes)
            self._give_back(take_last(batch.pieces, recalled.taken))

    def _recall_sweep(self, sweep: Sweep) -> None:
        for worker in self._workers():
            if any(isinstance(p, Stretch) and p.sweep is sweep for b in worker.batches.values() for p in b.pieces):
                self._recall_from(worker)

    # Ends.

    def _cancel_waiting(self) -> None:
        self._dispatch()  # what came first is begun, if a worker was idle
        self._drop_waiting()

    def _drop_waiting(self) -> None:
        while (entry := self._head()) is not None:
            entry.cancel()

    def _fail_waiting(self, error: BaseException) -> None:
        while (entry := self._head()) is not None:
            if isinstance(entry, Sweep):
                entry.fail(another(error))
            elif (task := self._take(entry, 1)) is not None:
                fail(task, another(error))

    def _abandon(self) -> None:
        self._drop_waiting()
        for worker in list(self._workers()):
            self._recall_from(worker)
            for batch in worker.batches.values():
                if batch.reply is not None:
                    batch.reply.cancel()
                self._fail(batch.drop(), CancelledError())
            worker.batches.clear()

    def _break(self, error: BaseException) -> None:
        """Nothing can be run any more."""
        with self._lock:
            self._broken = self._broken or error
            self._closing = self._closing or "its end"
        broken = BrokenExecutor(f"{self.name} cannot run anything: {type(error).__name__}: {error}")
        broken.__cause__ = error
        self._fail_waiting(broken)


def _idleness(worker: Worker) -> tuple[int, int]:
    """Least: nothing to do for longest."""
    return len(worker.batches), worker.last


def _measured(pieces: Sequence[Piece], parts: Sequence[Part]) -> list[tuple[Callable[..., Any] | None, int]]:
    """Function and number of calls of each part."""
    found: list[tuple[Callable[..., Any] | None, int]] = []
    ahead = iter(pieces)
    left, function = 0, None
    for part in parts:
        calls = len(part.calls)
        while left < calls:
            piece = next(ahead)
            if not left:
                function = piece.function
            left += len(piece)
        found.append((function, calls))
        left -= calls
    return found


def _nothing() -> None:
    """Only wakes the thread."""
