"""Gives the tasks of an executor to the workers of its machines, and takes back what became of them.

Theory of operation. One thread decides everything: which task goes to which worker, what a lost connection means, and
when the executor has ended. Others only put tasks into the queue, and news into its inbox; the I/O thread sends and
receives.

Tasks travel in *batches*, so that many share the cost of a call (`bigm.backlog`). A worker runs `threads` batches at a
time, and is sent as many in advance, but only short ones: a long task must not wait behind another while a worker
idles. Where a measurement misled, and a batch takes longer, it is *recalled*: what it has not begun is given to others,
and what it has done is told.

What may have run is run again only where its user has said that this does no harm (`retries`): a connection that was
lost tells nothing of which tasks of a batch had begun. What was recalled, or never sent, has certainly not begun.

Source: concurrent.futures.process for what an executor promises.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
import math
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError
from typing import Any

from bigm.backlog import Backlog
from bigm.errors import (
    BigmError,
    Busy,
    IdentityError,
    MachineStopped,
    PayloadTooLarge,
    Unreachable,
    WireError,
    WorkerDied,
)
from bigm.lifecycle import State
from bigm.machine import Machine
from bigm.packing import pack, settle, take_last
from bigm.places import Batch, Place, Worker
from bigm.rpc.calls import CallFuture
from bigm.supply import Supply
from bigm.tasks import Piece, Stretch, Sweep, Task, another, as_error, fail
from bigm.worker.functions import Lane, Outcomes, Part, Recalled

_LOOK = 0.25  # seconds between two looks at whether Ctrl-C was missed

_NOT_BEGUN = (Unreachable, IdentityError)  # with these a call has certainly not started

logger = logging.getLogger("bigm.executor")


class Scheduler:
    """Runs tasks on the machines of a supply. Its thread ends after `close`, when all is done.

    Args:
        supply: the machines.
        name: of its thread.
        threads: tasks that a worker runs at a time.
        initializer: segments of (function, arguments): runs once in each worker before its first task; or None.
        keeps: what the initializer refers to without holding it.
    """

    def __init__(
        self, supply: Supply, name: str, *, threads: int, initializer: Sequence[Any] | None, keeps: object = None
    ) -> None:
        self.name = name
        self.home = supply.home
        self._supply = supply
        self._threads = threads
        self._keeps = keeps
        self._lane = Lane(os.urandom(8).hex(), threads, initializer)
        self._inbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._backlog = Backlog()
        self._places: dict[Machine, Place] = {}
        self._tickets = itertools.count()
        self._lock = threading.RLock()  # the garbage collector may `close` us while we hold it
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
        return f"<{self.name} {state}: {len(self._places)} machines, {len(self._backlog)} waiting, {given} given out>"

    # For any thread.

    @property
    def slots(self) -> int:
        """Tasks that can run at a time, once all machines run; at least 1."""
        return self._threads * max(1, sum(max(1, machine.procs) for machine in self._supply.machines()))

    def pace(self, function: Callable[..., Any]) -> float | None:
        """Seconds that a call of *function* takes, as far as that was seen; else None."""
        return self._backlog.pace.of(function)

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
                self._backlog.put(entry)
            else:
                self._inbox.put((self._backlog.put_sweep, entry))
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
        self._inbox.put((self._backlog.fail, error))

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
                self._abandon()
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
            return (
                bool(self._closing)
                and self._inbox.empty()  # a sweep that was put just before `close` may still be in it
                and self._backlog.head() is None
                and not any(place.busy for place in self._places.values())
            )

    def _end(self) -> None:
        self._supply.unwatch()
        self._keeps = None
        if self._lane.initializer is not None:
            for worker in self._workers():
                self._tell(worker, "Functions.forget", self._lane.id)
        for place in self._places.values():
            place.machine._users.discard(self)
        self._ended.set()

    def _patience(self) -> float | None:
        """Seconds until something is due without news; None: nothing is."""
        due = self._recall_due()
        if self._backlog.head() is not None:
            due = min([due, *(place.aside for place in self._places.values() if place.aside)])
        return None if due == math.inf else max(0.0, due - time.monotonic())

    # Machines.

    def _refresh(self) -> None:
        for machine in self._supply.machines():
            if machine not in self._places:
                self._places[machine] = Place(machine)
                machine._users.add(self)
                machine._opened().add_done_callback(lambda _: self.refresh())
                if machine.owned:
                    machine.on_preempt(_drainer(self))
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
        if any(place.machine.state is not State.STOPPED for place in self._places.values()):
            return
        self._refresh()  # whose end was not noticed before may be replaced
        more = self._supply.expects_more()
        self._refresh()  # once more after the question: what came meanwhile is seen
        if not self._places and not more:
            self._backlog.fail(self._supply.error())

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
        """Those given out. Any thread, so of copies."""
        workers = (worker for place in list(self._places.values()) for worker in list(place.workers))
        return [batch for worker in workers for batch in list(worker.batches.values())]

    # Giving out.

    def _dispatch(self) -> None:
        """Give out what waits, as far as workers are free."""
        if self._backlog.head() is not None:
            self._check_supply()
            free = [(*worker.idleness, worker) for worker in self._open_workers()]
            heapq.heapify(free)
            slots = len(free) * self._threads
            while free and (entry := self._backlog.head()) is not None:
                worker = free[0][-1]
                if self._takes(worker, entry) and self._send(worker, *self._backlog.gather(slots)):
                    heapq.heapreplace(free, (*worker.idleness, worker))
                else:
                    heapq.heappop(free)
        if self._recall_due() <= time.monotonic():
            self._recall_late()

    def _open_workers(self) -> list[Worker]:
        """Those that can be given something."""
        now = time.monotonic()
        found = []
        for place in self._places.values():
            if place.aside and place.aside <= now:
                place.aside = 0.0
            if not place.aside and not place.draining and place.machine.state is State.RUNNING:
                found += [worker for worker in place.workers if not self._is_down(worker)]
        return found

    def _is_down(self, worker: Worker) -> bool:
        """Whether it died and is being started anew. When it is back, it is looked at again."""
        back = worker.place.machine._down.get(worker.proc)
        if back is not None and back is not worker.back:
            worker.back = back
            back.add_done_callback(lambda _: self.refresh())
        return back is not None

    def _takes(self, worker: Worker, entry: Task | Sweep) -> bool:
        """Whether *worker* is idle; or else *entry* is short, and so is what it would wait for."""
        if len(worker.batches) < self._threads:
            return True
        if len(worker.batches) >= 2 * self._threads or not self._backlog.is_short(entry):
            return False
        now = time.monotonic()
        return all(batch.short(now) for batch in worker.batches.values())

    def _send(self, worker: Worker, pieces: list[Piece], expected: float | None) -> bool:
        """Whether *worker* can be given more: not once its machine has ended."""
        pieces, parts = pack(pieces)
        if not pieces:
            return True
        batch = Batch(next(self._tickets), worker, pieces, expected)
        batch.parts = _measured(pieces, parts)
        worker.batches[batch.ticket] = batch
        worker.last = batch.ticket
        answered = functools.partial(self._hear, self._answered, batch)
        batch.wait()
        batch.reply = self._tell(worker, "Functions.batch", self._lane, batch.ticket, parts, done=answered)
        if batch.reply is None:  # its machine has ended just now
            del worker.batches[batch.ticket]
            self._backlog.give_back(batch.drop())
            self._refresh()
            return False
        return True

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
        except WorkerDied as error:
            self._lost(batch, error, begun=reply.call is None or reply.call.sends > 0)
        except WireError as error:
            if not isinstance(error, Busy) or not place.busy:  # else it is merely busy with what others gave it
                place.set_aside()
            self._lost(batch, error, begun=not isinstance(error, _NOT_BEGUN))
        except Exception as error:  # noqa: BLE001  # the call was refused, or answered with something unheard of
            self._fail(batch.drop(), error)
        else:
            place.works()
            self._settle(batch, outcomes)
        if place.draining:
            place.machine._announce()

    def _settle(self, batch: Batch, outcomes: Outcomes) -> None:
        if outcomes.broken is not None:
            self._backlog.give_back(batch.drop())
            self._break(as_error(outcomes.broken))
            return
        left = len(outcomes.values)
        for (function, calls), seconds in zip(batch.parts, outcomes.seconds, strict=False):
            self._backlog.pace.saw(function, min(calls, left), seconds)
            left -= calls
        outcomes = outcomes.after(batch.told)
        self._backlog.give_back(settle(batch.drop(), outcomes))

    def _lost(self, batch: Batch, error: WireError, *, begun: bool) -> None:
        again: list[Piece] = []
        for piece in batch.drop():
            if begun and piece.lost >= piece.retries:
                fail(piece, another(error))
                continue
            piece.lost += begun
            again.append(piece)
        self._backlog.give_back(again)

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
            self._backlog.give_back(take_last(batch.pieces, recalled.taken))

    def _recall_sweep(self, sweep: Sweep) -> None:
        for worker in self._workers():
            if any(isinstance(p, Stretch) and p.sweep is sweep for b in worker.batches.values() for p in b.pieces):
                self._recall_from(worker)

    # Ends.

    def _cancel_waiting(self) -> None:
        self._dispatch()  # what came first is begun, if a worker was idle
        self._backlog.cancel()

    def _abandon(self) -> None:
        self._backlog.cancel()
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
        self._backlog.fail(broken)


def _drainer(scheduler: Scheduler) -> Callable[[Machine, float], None]:
    """What drains a machine that will be taken away, for as long as the scheduler lives."""
    reference = weakref.ref(scheduler)

    def drain(machine: Machine, seconds: float) -> None:
        living = reference()
        if living is not None:
            living.drain(machine)

    return drain


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
