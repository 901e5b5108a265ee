"""Every timeout and interval of the house, in one record: what a configuration may turn, with its default and its unit.

Apart from the table of `bigm.lifecycle`, because an agent, which is told by its driver, need not pay for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from bigm.errors import ConfigError


def _seconds(default: float, what: str) -> float:
    value: float = field(default=default, metadata={"what": what})
    return value


@dataclass(frozen=True)
class Timeouts:
    """Every timeout and interval, in seconds on a monotonic clock. There are none elsewhere."""

    # the lease
    lease: float = _seconds(90.0, "a machine elsewhere ends when its lease was not renewed for this long")
    lease_local: float = _seconds(60.0, "the same on the driver's own computer")
    first_lease: float = _seconds(600.0, "a launched instance ends when it was not enrolled and leased by then")
    lifetime: float = _seconds(86400.0, "a machine ends at this age whatever happens")
    renewal: float = _seconds(5.0, "a lease is renewed this often; more often where a twelfth of it is less")
    renewal_pace: float = _seconds(0.01, "the renewals of two machines are this far apart: with many, each comes later")
    keepalive: float = _seconds(10.0, "one renewal may take this long")

    # a start
    launch: float = _seconds(600.0, "a system may take this long to launch")
    boot: float = _seconds(300.0, "a launched instance must answer within this time")
    dial: float = _seconds(10.0, "one attempt to connect and shake hands")
    redial: float = _seconds(0.5, "pause between two attempts to reach an instance that does not answer yet")
    handshake: float = _seconds(10.0, "a peer that connects must have shaken hands and said hello within this time")
    enrol: float = _seconds(30.0, "one enrolment")
    stall: float = _seconds(60.0, "shipping fails when no byte moved for this long, however much there is to ship")
    workers: float = _seconds(300.0, "a worker must have imported the program and serve within this time")
    register: float = _seconds(120.0, "a service must be rebuilt within this time")
    setup: float = _seconds(600.0, "every `setup` must return within this time")

    # a life
    watch: float = _seconds(20.0, "an agent answers a watch after this long even when there is nothing to say")
    ping: float = _seconds(5.0, "an agent that is alive answers a ping within this time")
    verdict: float = _seconds(2.0, "after a lost connection the agent has this long to tell whether a worker died")
    retry: float = _seconds(120.0, "`retry_call` gives up after this long where it has no timeout of its own")
    variables: float = _seconds(10.0, "every worker must tell its variables within this time")
    heartbeat: float = _seconds(5.0, "an agent sends its workers a heartbeat this often")
    heartbeat_lost: float = _seconds(60.0, "a worker ends when it has not heard its agent for this long")

    early: float = _seconds(60.0, "a worker that is started anew died early when it lived for less than this")

    # an end
    tasks: float = _seconds(30.0, "what executors run on a machine that is shut down has this long to end")
    teardown: float = _seconds(10.0, "every `teardown` must return within this time")
    grace: float = _seconds(3.0, "a worker told to end is killed after this long")
    drain: float = _seconds(5.0, "the last output of ended workers is read for this long")
    linger: float = _seconds(30.0, "an agent that shut down waits this long for its last output to be fetched")
    terminate: float = _seconds(60.0, "a system may take this long to end instances")

    def lease_of(self, local: bool) -> float:
        """The lease of a machine on this computer, or elsewhere."""
        return self.lease_local if local else self.lease

    def ending(self) -> float:
        """The longest that all steps of a machine's end may take."""
        return self.teardown + self.grace + 2 * self.drain + self.linger + self.terminate + 2 * self.ping

    def renewal_interval(self, lease: float, machines: int) -> float:
        """Seconds between two renewals of one machine's lease, when *machines* are leased by this driver."""
        return min(max(min(self.renewal, lease / 12), machines * self.renewal_pace), lease / 4)


def check_timeout(timeout: Optional[float]) -> None:
    """Refuse what is no time to wait.

    Raises:
        ConfigError: it is neither None nor 0 or more seconds.
    """
    if timeout is None:
        return
    try:
        right = not isinstance(timeout, bool) and timeout + 0.0 >= 0  # whatever adds up with floats, as clocks do
    except (TypeError, ValueError):
        right = False
    if not right:
        raise ConfigError(f"a timeout is 0 seconds or more, or None, not {timeout!r:.200}")
