"""A machine as the driver sees it: its state, its calls, its end. What brings it there is in `bigm.steward`.

Calls wait for RUNNING, and fail at once with the machine's cause when it is STOPPED: those in flight too, because its
connections are closed with that error. When a connection is lost while the machine may still live, its calls wait for
a verdict: the agent, which is the parent of the workers, knows whether one died.

Source: bigmachine machine.go, Machine.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from bigm.board import Board, in_thread
from bigm.bootstrap.records import Disk, Info, Memory, Sample
from bigm.errors import BigmError, ConfigError, DeadlineExceeded
from bigm.leases import Lease
from bigm.lifecycle import Cause, Phase, State
from bigm.peer import Link, Peer
from bigm.rpc.client import Client
from bigm.systems.base import Instance
from bigm.timeouts import check_timeout


class Machines(list["Machine"]):
    """A list of machines, which a notebook shows as a table."""

    def __reduce__(self) -> tuple[type[list[Machine]], tuple[list[Machine]]]:
        return list, (list(self),)  # on machines there is no such class

    def _repr_html_(self) -> str:
        from bigm import notebook

        return notebook.machines_table(self)


def machine_list(way: str, machines: Iterable[Machine]) -> list[Machine]:
    """*machines* as a list; *way* is what was called with them.

    Raises:
        ConfigError: it is no list of machines.
    """
    wanted = several(way, machines)
    for machine in wanted:
        if not isinstance(machine, Machine):
            hint = "cluster.machines has them; an address becomes one by cluster.dial"
            raise ConfigError(f"{way} takes a list of machines, not of {machine!r:.200}", hint=hint)
    return wanted


def several(way: str, machines: Iterable[Machine]) -> list[Machine]:
    """The same, whatever is in it."""
    if isinstance(machines, (Machine, str)) or not isinstance(machines, Iterable):
        raise ConfigError(f"{way} takes a list of machines, not {machines!r:.200}", hint="put it into a list")
    return list(machines)


def check_state(state: object) -> None:
    """Refuse to wait for what is no state."""
    if not isinstance(state, State):
        name = state.upper() if isinstance(state, str) and state.upper() in State.__members__ else "RUNNING"
        raise ConfigError(f"a machine's state is one of bigm.State, not {state!r:.200}", hint=f"bigm.State.{name}")


class User(Protocol):
    """An executor, as a machine knows it."""

    def drain(self, machine: Machine) -> None:
        """Give *machine* nothing more, soon."""

    def uses(self, machine: Machine) -> bool:
        """Whether *machine* has, or may be given, something to do."""


class Machine(Peer):
    """A machine of a cluster. Made by `Cluster.start` and `Cluster.dial`.

    Args:
        addr: "locator/machine".
        link: how to dial it.
        board: notified whenever a machine of the cluster has changed its state.
        stop: ends the machine for the given cause; None for a machine that is not owned.
        procs: workers it has; 0 while that is not known.
        instance: what the system launched for it; None for a machine that is not owned.
        doubt: told of a client some of whose calls were lost; must `resolve` them unless the machine stops before.
    Attributes:
        id: its name within the cluster ("m0").
        addr: its address, "host:port/m0".
        state: UNSTARTED, STARTING, RUNNING or STOPPED.
        cause: why it is STOPPED; None before.
        error: the same with all that is known, to be raised; None before, and where it was shut down.
        hostname: the name of its computer; "" while that is not known.
        bundle: digest of the bundle that its workers run; "" where they run the driver's own environment.
        procs: workers it has; 0 while that is not known.
        maxprocs: CPUs that its workers may use; before that is known, and where it was dialled, as `procs`.
        owned: whether this cluster started it, and so ends it.
        instance: what the system launched for it (`bigm.systems.base.Instance`): its id and, where there are such
            things, its type, zone, spot or not, and price; None where it was dialled.
    """

    def __init__(
        self,
        addr: str,
        link: Link,
        *,
        board: Board,
        stop: Callable[[Cause], None] | None = None,
        procs: int = 0,
        instance: Instance | None = None,
        doubt: Callable[[Client], None] | None = None,
    ) -> None:
        super().__init__(addr, link)
        self._doubt = doubt
        self.owned = stop is not None
        self.hostname = ""
        self.bundle = ""
        self.instance = instance
        self.maxprocs = procs
        self._board = board
        self._stop = stop
        self._procs = procs
        self._lease: Lease | None = None
        self._left: BigmError | None = None
        self._notice: float | None = None  # when it will be taken away, monotonic
        self._preempt_callbacks: list[Callable[[Machine, float], object]] = []
        self._users: set[User] = set()
        if self.owned:
            self._gate = concurrent.futures.Future()

    def __repr__(self) -> str:
        cause = f" ({self.cause})" if self.cause else ""
        return f"<Machine {self.addr} {self.state}{cause}: {self.procs} workers, {self.in_flight} calls in flight>"

    @property
    def state(self) -> State:
        """UNSTARTED, STARTING, RUNNING or STOPPED; never moves back."""
        return self._phase.state

    @property
    def procs(self) -> int:
        """Workers it has; 0 while that is not known."""
        return self._procs or super().procs

    @property
    def keepalive_times(self) -> list[float]:
        """Seconds its agent took to answer the last renewals of its lease, at most ten, oldest first."""
        return list(self._lease.times) if self._lease else []

    @property
    def next_keepalive(self) -> float:
        """Seconds until its lease is renewed next; 0 when it has none that the driver renews."""
        return self._lease.due_in if self._lease else 0.0

    def wait(self, state: State = State.RUNNING, timeout: float | None = None) -> None:
        """Wait until the machine is at *state* or beyond.

        Args:
            state: what to wait for.
            timeout: seconds at most; None: as long as the steps of a start may take.
        Raises:
            BigmError: it is STOPPED, was not to be, and this says why.
            DeadlineExceeded: the timeout passed first.
            ConfigError: an argument is wrong.
        """
        check_state(state)
        check_timeout(timeout)
        with self._board:
            reached = self._board.wait_for(lambda: self.state >= state, timeout)
        self._check_reached(reached, state, timeout)

    async def await_state(self, state: State = State.RUNNING, timeout: float | None = None) -> None:
        """As `wait`, for `await`."""
        check_state(state)
        check_timeout(timeout)
        reached = await self._board.until(lambda: self.state >= state, timeout)
        self._check_reached(reached, state, timeout)

    def _check_reached(self, reached: bool, state: State, timeout: float | None) -> None:
        if not reached:
            raise DeadlineExceeded(f"machine {self.addr} is still {self.state}, not {state}, after {timeout:g} s")
        if self.state is State.STOPPED and self.error is not None:
            raise self.error

    def memory(self) -> Memory:
        """Bytes of memory there: total, the limit that applies, used and available of it."""
        return self._sample().memory

    def disk(self) -> Disk:
        """Bytes of the file system that holds the machine's folder."""
        return self._sample().disk

    def load(self) -> tuple[float, float, float]:
        """Run-queue averages there, over 1, 5 and 15 minutes."""
        return self._sample().load

    def shutdown(self) -> None:
        """End the machine: `teardown` of its services, its last output, its instance. Returns when it has ended.

        Executors give it nothing more; what it runs for them has `Timeouts.tasks` to end. Other calls fail at once.

        Raises:
            BigmError: something of it may be left, and this says what; the lease ends it in any case.
            ConfigError: it is not owned.
        """
        if self._stop is not None:
            self._await_users()
        self._end(Cause.SHUTDOWN)
        with self._board:
            ended = self._board.wait_for(lambda: self._phase is Phase.ENDED, self._link.timeouts.ending())
        if self._left is not None:
            raise self._left
        if not ended:
            raise DeadlineExceeded(f"machine {self.addr} was not known to have ended in time")

    async def ashutdown(self) -> None:
        """As `shutdown`, for `await`. Cancelling it does not keep the machine."""
        await in_thread(f"bigm-shutdown {self.id}", self.shutdown)

    def cancel(self) -> None:
        """End the machine at once, without `teardown`, and without waiting for its end.

        Raises:
            ConfigError: it is not owned.
        """
        self._end(Cause.CANCELLED)

    def on_preempt(self, callback: Callable[[Machine, float], object]) -> None:
        """Have *callback* called when the system announces that it will take the machine away.

        It is called once, in a thread of bigm's, at once where the announcement has come already. Services there are
        told too: by `preempted(seconds)`, where they have it.

        Args:
            callback: takes the machine and the seconds until then. What it raises is shown, and holds up nothing.
        """
        with self._lock:
            notice = self._notice
            if notice is None:
                self._preempt_callbacks.append(callback)
                return
        callback(self, max(0.0, notice - time.monotonic()))

    def _await_users(self) -> None:
        """Let executors have what they run here ended."""
        users = list(self._users)
        for user in users:
            user.drain(self)
        if users:
            with self._board:
                self._board.wait_for(
                    lambda: self.state is State.STOPPED or not any(user.uses(self) for user in users),
                    self._link.timeouts.tasks,
                )

    def _end(self, cause: Cause) -> None:
        if self._stop is None:
            raise ConfigError(f"machine {self.addr} is not owned here", hint="whoever started it can shut it down")
        self._stop(cause)

    def _sample(self) -> Sample:
        if self.state is State.STOPPED:
            raise self._stopped()
        sample: Sample = self._agent.call("Agent.sample", timeout=self._link.timeouts.ping, idempotent=True)
        return sample

    # --- what its steward tells it

    def _preempted(self, seconds: float) -> list[Exception]:
        """Call whoever wants to know; what they raised."""
        with self._lock:
            self._notice = time.monotonic() + seconds
            callbacks, self._preempt_callbacks = self._preempt_callbacks, []
        errors: list[Exception] = []
        for callback in callbacks:
            try:
                callback(self, seconds)
            except Exception as error:  # noqa: BLE001 - the user's own
                errors.append(error)
        return errors

    def _enrolled(self, info: Info, agent: Client, procs: int, maxprocs: int) -> None:
        self._agent = agent
        self.hostname = info.hostname
        self.maxprocs = maxprocs
        self._procs = procs

    def _worker_down(self, proc: int, error: BigmError) -> None:
        """A worker has died and is to be started anew: its calls fail, later ones go elsewhere or wait."""
        with self._lock:
            if proc in self._down or not self._clients:
                return
            client = self._clients[proc]
            self._down = {**self._down, proc: concurrent.futures.Future()}
        client.close(error)

    def _worker_up(self, proc: int, client: Client) -> None:
        """It is there again, with its services set up."""
        with self._lock:
            gate = self._down.get(proc)
            if gate is None:  # the machine has stopped meanwhile
                client.close(self._stopped())
                return
            self._clients = (*self._clients[:proc], client, *self._clients[proc + 1 :])
            self._down = {each: future for each, future in self._down.items() if each != proc}
        gate.set_result(None)

    def _announce(self) -> None:
        """Wake whoever waits for a state."""
        with self._board:
            self._board.notify_all()

    def _open(self, workers: tuple[Client, ...]) -> bool:
        """Let calls go out to *workers*; False when it died meanwhile."""
        with self._lock:
            if self._phase is not Phase.SERVING:
                return False
            self._clients = workers
        self._release_waiting()
        return True
