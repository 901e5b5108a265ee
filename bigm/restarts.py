"""Workers that are started anew when they die, where `Cluster.start` was told `on_worker_death="restart"`.

The machine stays RUNNING meanwhile. A worker's death closes its client, so that calls in flight on it fail with what
happened; calls made from then on go to the machine's other workers, or wait. The agent starts the process, and the
services are registered and set up again before a call goes there. Whatever goes wrong in that ends the machine, as it
does at a start; and so do deaths that follow one upon another, since nothing says that the next one would help.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable

from bigm.bootstrap.records import EXITED, SERVING, WorkerStatus
from bigm.errors import WorkerDied
from bigm.machine import Machine
from bigm.rpc.client import Client

EARLY_DEATHS = 5  # of one worker in a row, each soon after it had been started, that stop its machine


class Restarts:
    """Has the workers of one machine started anew. Made when the machine is RUNNING.

    Args:
        machine: whose workers they are.
        early: seconds after its start within which a worker's death is an early one.
        start: starts a worker's process, given its index; called in no particular thread, and must not wait.
        prepare: registers and sets up the services on a worker; calls what it is given when that is done, and ends the
            machine when it cannot be.
        give_up: ends the machine, given the last death and what to say.
        told: told of each death and each return: the worker's status, and whether it serves.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        early: float,
        start: Callable[[int], None],
        prepare: Callable[[Client, Callable[[], None]], None],
        give_up: Callable[[WorkerStatus, str], None],
        told: Callable[[WorkerStatus, bool], None],
    ) -> None:
        self._machine = machine
        self._early = early
        self._start = start
        self._prepare = prepare
        self._give_up = give_up
        self._told = told
        self._taking_in = threading.Lock()  # one report after the other
        self._lock = threading.Lock()
        self._since = dict.fromkeys(range(machine.procs), time.monotonic())  # when each began to serve, or to start
        self._deaths = dict.fromkeys(range(machine.procs), 0)  # early ones of each, in a row
        self._buried: dict[int, WorkerDied] = {}  # by process id, workers whose death was seen
        self._preparing: dict[int, tuple[int, Client]] = {}  # by index: process id, and the client of what comes next
        self._closed = False

    def __repr__(self) -> str:
        return f"<Restarts of {self._machine.id}: {len(self._buried)} deaths, {len(self._preparing)} returning>"

    def reported(self, statuses: Iterable[WorkerStatus]) -> None:
        """Take in how the workers are. Does not wait."""
        with self._taking_in:
            for status in statuses:
                if status.state == EXITED and status.pid not in self._buried:
                    self._died(status)
                elif status.state == SERVING and self._returns(status):
                    self._serves(status)

    def is_current(self, client: Client) -> bool:
        """Whether *client* is that of a worker which is being prepared, and has not died meanwhile."""
        return not self._closed and any(client is preparing for _, preparing in self._preparing.values())

    def close(self) -> None:
        """The machine ends: start no worker any more."""
        with self._lock:
            self._closed = True
            preparing, self._preparing = self._preparing, {}
        for _, client in preparing.values():
            client.close(self._machine._stopped())

    def _died(self, status: WorkerStatus) -> None:
        proc, now = status.proc, time.monotonic()
        early = now - self._since[proc] < self._early
        self._deaths[proc] = self._deaths[proc] + 1 if early else 0
        self._since[proc] = now
        error = WorkerDied(
            f"machine {self._machine.addr}: {status.text}", cause=status.cause, hint="it is being started anew"
        )
        self._buried[status.pid] = error
        with self._lock:
            if self._closed:
                return
            _, returning = self._preparing.pop(proc, (0, None))
        if returning is not None:
            returning.close(error)
        self._machine._worker_down(proc, error)
        self._told(status, False)
        if self._deaths[proc] >= EARLY_DEATHS:
            often = f"{EARLY_DEATHS} times in a row, each time within {self._early:g} s of its start"
            self._give_up(status, f"worker {proc} died {often}; the last time: {status.text}")
        else:
            self._start(proc)

    def _returns(self, status: WorkerStatus) -> bool:
        """Whether a worker that serves is one that was started anew, seen for the first time."""
        returning = status.proc in self._machine._down and status.pid not in self._buried
        return returning and self._preparing.get(status.proc, (0, None))[0] != status.pid

    def _serves(self, status: WorkerStatus) -> None:
        client = self._machine._add_worker(status.proc)
        with self._lock:
            if self._closed:
                client.close()
                return
            self._preparing[status.proc] = status.pid, client
            self._since[status.proc] = time.monotonic()
        self._prepare(client, functools.partial(self._prepared, status, client))

    def _prepared(self, status: WorkerStatus, client: Client) -> None:
        with self._lock:
            if self._closed or self._preparing.get(status.proc) != (status.pid, client):
                return  # it died while its last answer was on the way
            del self._preparing[status.proc]
        self._machine._worker_up(status.proc, client)
        died = self._buried.get(status.pid)
        if died is not None:  # just now: its death found it down still, and it must stay so
            self._machine._worker_down(status.proc, died)
            return
        self._told(status, True)
