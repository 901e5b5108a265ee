"""Launching the instances of one cluster: the journal before, the system, and what came of it.

What becomes of the instances is their stewards' (`bigm.steward`); what a launch is to make is here until it is settled,
which is when nothing of it is left.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from bigm.authority import Authority
from bigm.bootstrap.records import Launch
from bigm.config import Settings
from bigm.errors import BigmError, BootError
from bigm.rpc.tls import Credentials
from bigm.runs import Run
from bigm.systems.base import Instance, Spec, System
from bigm.terminal import Terminal


@dataclass(frozen=True)
class Batch:
    """What one launch came to.

    Args:
        launch: its id, unique.
        instances: those that exist, at least one.
        bootstrap: what each of them was given to be enrolled by.
    """

    launch: str
    instances: tuple[Instance, ...]
    bootstrap: Credentials


class Launcher:
    """Launches instances for one cluster. Any thread.

    Args:
        name: the cluster's.
        system: where they come from.
        settings: the cluster's.
        authority: its certificate maker.
        run: keeps journal and events.
        terminal: what the user sees.
    Attributes:
        unsettled: the launches of which something may be left.
    """

    def __init__(
        self, name: str, system: System, settings: Settings, *, authority: Authority, run: Run, terminal: Terminal
    ) -> None:
        self._name = name
        self._system = system
        self._settings = settings
        self._authority = authority
        self._run = run
        self._terminal = terminal
        self._launches = 0
        self.unsettled: set[str] = set()

    def __repr__(self) -> str:
        return f"<Launcher of {self._name}: {self._launches} launches, {len(self.unsettled)} unsettled>"

    def spec(self) -> Spec:
        """What kind of machine is wanted."""
        return Spec(python=sys.executable, options=self._settings.systems.get(self._system.name, {}))

    def launch(self, count: int) -> Batch:
        """Launch *count* instances; fewer, but at least one, is said on standard error.

        Raises:
            SystemFault: not one could be launched.
        """
        self._launches += 1
        launch = f"{self._authority.cluster}-{self._launches}"
        bootstrap = self._authority.bootstrap(launch)
        self.unsettled.add(launch)
        self._run.intent(launch, system=self._system.name, cluster=self._authority.cluster, machines=count)
        try:
            with self._terminal.live(self._system.waits_for):
                launched = self._system.launch(count, self.spec(), self._boot(launch, bootstrap), launch)
        except BigmError as error:
            self._record(launch, count, 0, error.message)
            raise
        text = "; ".join(dict.fromkeys(str(failure) for failure in launched.failures))
        number = len(launched.instances)
        self._record(launch, count, number, text)
        if not launched.instances:
            self.settle(launch)
            raise launched.failures[0] if launched.failures else BootError(f"{self._system.name} launched nothing")
        if number < count:
            self._terminal.warn(f"only {number} of {machines(count)} could be launched: {text}")
        elif text:
            self._terminal.warn(text)  # of places that others have stood in for
        return Batch(launch, launched.instances, bootstrap)

    def settle(self, launch: str) -> None:
        """Nothing of *launch* is left."""
        self.unsettled.discard(launch)
        self._run.settled(launch)

    def _record(self, launch: str, asked: int, launched: int, text: str) -> None:
        self._run.event("launch", launch=launch, cluster=self._name, asked=asked, launched=launched, text=text)

    def _boot(self, launch: str, bootstrap: Credentials) -> Launch:
        limits = self._settings.timeouts
        local = self._system.capabilities.local
        return Launch(
            cluster=self._authority.cluster,
            launch=launch,
            ca=bootstrap.ca.decode(),
            cert=bootstrap.cert.decode(),
            key=bootstrap.key.decode(),
            agent_digest="" if local else _agent_digest(),
            first_lease=limits.first_lease,
            lifetime=limits.lifetime,
            local=local,
            drain=limits.drain,
            linger=limits.linger,
            log_ring=self._settings.log_ring,
        )


def machines(count: int) -> str:
    """So many, in words."""
    return f"{count} machine{'s'[: count != 1]}"


def _agent_digest() -> str:
    from bigm.bootstrap.agentzip import agent_digest  # only systems elsewhere are sent one

    return agent_digest()
