"""Where an executor's machines come from: those of its cluster, as they come and go, and replacements of lost ones.

A machine that its user has shut down is not replaced; one that was lost is, where the executor was asked to. When
replacements do not come to run, several in a row, no further one is asked for: most likely none would.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bigm.errors import BigmError, MachineStopped, SystemFault
from bigm.lifecycle import Cause, State
from bigm.machine import Machine
from bigm.rpc.codec import Home

FAILURES = 3  # replacements in a row that do not come to run, after which none is started any more
PAUSE = 0.5  # seconds before the attempt after a failed one; doubled each time


class User(Protocol):
    """Who is told that machines come and go."""

    def refresh(self) -> None:
        """Look at the machines again, soon. Any thread."""

    def close(self, why: str, *, cancel: bool = False) -> None:
        """Accept nothing any more."""

    def fail(self, why: str, error: BigmError) -> None:
        """Accept nothing any more, and let what waits fail."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all is done."""


@dataclass(frozen=True)
class Source:
    """A cluster, as its executors know it.

    Args:
        name: the cluster's.
        home: whose the handles of machines become that are rebuilt.
        machines: those that have not ended.
        start: starts as many as are configured; raises where nobody has said how many.
        another: starts one that runs what the given one did. It blocks.
        ends: whether the cluster is being shut down.
        users: who is to be told that machines come and go.
        later: calls a function, which may block, after some seconds.
        warn: tells the user.
    """

    name: str
    home: Home | None
    machines: Callable[[], Sequence[Machine]]
    start: Callable[[], object]
    another: Callable[[Machine], Machine]
    ends: Callable[[], bool]
    users: list[User]
    later: Callable[[float, Callable[[], None]], None]
    warn: Callable[[str], None]


class Supply:
    """The machines of an executor, as its scheduler asks for them.

    Args:
        source: the cluster.
        machines: which; None: all that the cluster has, and those it will start.
        replace: start another machine for each that was lost.
    """

    def __init__(self, source: Source, machines: Sequence[Machine] | None, *, replace: bool) -> None:
        self.home = source.home
        self._source = source
        self._chosen = None if machines is None else list(machines)
        self._replace = replace
        self._user: User | None = None
        self._lock = threading.RLock()
        self._starting = 0  # replacements that are being launched
        self._failures = 0  # in a row
        self._gave_up: BigmError | None = None
        self._last: MachineStopped | None = None  # why the last machine ended

    def __repr__(self) -> str:
        return f"<Supply of {self._source.name}: {len(self.machines())} machines>"

    def watch(self, user: User) -> None:
        """Have *user* look again whenever there may be other machines. Any thread, as `unwatch`."""
        self._user = user
        self._source.users.append(user)

    def unwatch(self) -> None:
        """No more."""
        if self._user in self._source.users:
            self._source.users.remove(self._user)

    def machines(self) -> Sequence[Machine]:
        """Those that have not ended."""
        if self._chosen is None:
            return self._source.machines()
        with self._lock:
            return [machine for machine in self._chosen if machine.state is not State.STOPPED]

    def expects_more(self) -> bool:
        """Whether a replacement is on its way."""
        return self._starting > 0

    def runs(self, machine: Machine) -> None:
        """*machine* has come to run."""
        with self._lock:
            self._failures = 0

    def ended(self, machine: Machine, *, ran: bool) -> None:
        """*machine* is STOPPED; whether it *ran* before."""
        with self._lock:
            self._last = machine._stopped()
            if machine.error is None or not self._replace or self._source.ends():
                return
            if ran:
                self._start_another(machine, 0.0)
            else:
                self._failed(machine, machine.error)

    def error(self) -> BigmError:
        """Why there is no machine, for what waits for one."""
        cause = self._last.cause if self._last is not None else Cause.SHUTDOWN
        if self._gave_up is not None:
            text = f"no machine is left, and {FAILURES} in a row did not start in its place: {self._gave_up.message}"
        elif self._last is not None:
            text = f"no machine is left: {self._last.message}"
        else:
            text = f"cluster {self._source.name} has no machine"
        error = MachineStopped(text, cause=cause, hint="start machines, and submit again")
        error.__cause__ = self._gave_up or self._last
        return error

    def _failed(self, machine: Machine, error: BigmError) -> None:
        self._failures += 1
        if self._failures < FAILURES:
            self._start_another(machine, PAUSE * 2 ** (self._failures - 1))
        elif self._gave_up is None:
            self._gave_up = error
            self._source.warn(f"lost machines are replaced no more: {FAILURES} in a row did not start: {error.message}")

    def _start_another(self, lost: Machine, pause: float) -> None:
        if self._gave_up is None:
            self._starting += 1
            self._source.later(pause, lambda: self._launch(lost))

    def _launch(self, lost: Machine) -> None:
        """In a thread that may be blocked: launching takes its time."""
        failure: BigmError | None = None
        machine: Machine | None = None
        try:
            machine = self._source.another(lost)
        except BigmError as error:
            failure = error
        except BaseException as error:  # noqa: BLE001  # whatever a system of the user's raises: tasks wait for this
            failure = SystemFault(f"cannot start another machine: {type(error).__name__}: {error}")
            failure.__cause__ = error
        with self._lock:
            try:
                if failure is not None:
                    self._failed(lost, failure)
                elif self._chosen is not None and machine is not None:
                    self._chosen.append(machine)
            finally:
                self._starting -= 1
        if self._user is not None:
            self._user.refresh()
