"""Instances of a system that is elsewhere, and the agents in them, for tests without a cluster."""

from __future__ import annotations

import secrets

from bigm.authority import Authority
from bigm.bootstrap.agentzip import agent_digest, agent_zip
from bigm.bootstrap.enrol import open_agent
from bigm.bootstrap.records import Info, Launch
from bigm.rpc.client import Client
from bigm.systems.base import Instance, Launched, Spec, System


class Launching:
    """A system, opened, with the certificates of a cluster."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.authority = Authority()
        self.name = secrets.token_hex(4)
        self.bootstrap = self.authority.bootstrap(self.name)
        self.boot = Launch(
            cluster=self.authority.cluster,
            launch=self.name,
            ca=self.bootstrap.ca.decode(),
            cert=self.bootstrap.cert.decode(),
            key=self.bootstrap.key.decode(),
            agent_digest=agent_digest(),
            first_lease=60.0,
            drain=0.5,
        )
        system.open(self.authority.cluster)

    def launch(self, n: int) -> Launched:
        """Launch, by the same launch id each time."""
        return self.system.launch(n, Spec(), self.boot, self.name)

    def enrol(self, instance: Instance, machine: str = "m0") -> tuple[Client, Info]:
        """Make a machine of an instance."""
        return open_agent(
            lambda timeout: self.system.connect(instance, timeout),
            self.authority.driver(),
            self.authority.machine(machine),
            self.bootstrap,
            name=f"agent of {machine}",
            agent=agent_zip(),
        )


def launch(system: System, n: int) -> Launched:
    """Open *system* and launch *n* instances."""
    return Launching(system).launch(n)
