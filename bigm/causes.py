"""Every cause of a machine's death.

Apart from the table of `bigm.lifecycle`, which is the driver's: an agent names causes and need not pay for the rest.
"""

from __future__ import annotations

import enum


class Cause(str, enum.Enum):
    """Why a machine stopped: a stable word for programs. `sentence` says it to people."""

    SHUTDOWN = "shutdown"
    CANCELLED = "cancelled"
    LAUNCH = "launch"
    BOOT = "boot"
    ENROL = "enrol"
    SHIP = "ship"
    IMPORT = "import"
    SERVICE = "service"
    SETUP = "setup"
    EXIT = "exit"
    SIGNAL = "signal"
    MEMORY = "memory"
    HUNG = "hung"
    LEASE = "lease"
    SLEPT = "slept"
    DRIVER = "driver"
    LIFETIME = "lifetime"
    COST = "cost"
    AGENT_LOST = "agent-lost"
    GONE = "gone"

    def __str__(self) -> str:
        return self.value

    @property
    def sentence(self) -> str:
        """The cause in plain words, lower case, no full stop."""
        return _SENTENCES[self]


_SENTENCES = {
    Cause.SHUTDOWN: "it was shut down",
    Cause.CANCELLED: "it was cancelled",
    Cause.LAUNCH: "its instance could not be launched",
    Cause.BOOT: "its instance was launched, but its agent never answered",
    Cause.ENROL: "its agent could not be enrolled",
    Cause.SHIP: "what it was to run could not be brought there",
    Cause.IMPORT: "the program could not be imported there",
    Cause.SERVICE: "a service could not be rebuilt there",
    Cause.SETUP: "the `setup` of a service failed or took too long",
    Cause.EXIT: "a worker ended by itself",
    Cause.SIGNAL: "a worker was killed by a signal",
    Cause.MEMORY: "the kernel killed a worker for want of memory",
    Cause.HUNG: "a worker stopped answering its agent",
    Cause.LEASE: "the driver did not renew its lease in time",
    Cause.SLEPT: "the driver's computer slept longer than the lease",
    Cause.DRIVER: "the driver ended",
    Cause.LIFETIME: "its maximum lifetime is over",
    Cause.COST: "the run has reached its maximum cost",
    Cause.AGENT_LOST: "its agent is gone",
    Cause.GONE: "its instance is gone",
}
