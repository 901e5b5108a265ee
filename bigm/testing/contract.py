"""The contract that every system keeps, in executable form.

from bigm.testing import check_system

def test_mine() -> None:
    check_system(lambda: Mine(...))
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable

from bigm.authority import Authority
from bigm.bootstrap.agentzip import agent_digest, agent_zip
from bigm.bootstrap.enrol import open_agent
from bigm.bootstrap.records import Info, Launch
from bigm.errors import NotSupported, Unreachable
from bigm.rpc.tls import Credentials
from bigm.systems.base import FAILED, INSTANCE, OK, RUNNING, WARNING, Instance, Spec, System

_PAUSE = 0.05  # seconds between two looks at an instance that is not there yet, or not gone yet
_LEASE = 60.0  # seconds


def check_system(make: Callable[[], System], *, timeout: float = 120.0) -> None:
    """Hold a system to its contract with real instances: two are launched, enrolled, asked, and ended.

    Another, which is not opened, is asked what it finds, and to remove what it finds of these two.

    Args:
        make: returns a new, unopened system, configured to launch real instances; called twice.
        timeout: seconds for an instance to answer after its launch, and to be gone after its end.
    Raises:
        AssertionError: the message is the sentence of the contract that does not hold.
        SystemFault: the system could not launch at all.
    """
    system = make()
    authority = Authority()
    try:
        _check(system, authority, timeout)
        _check_unopened(make(), system, authority.cluster, timeout)
    finally:
        system.close()
    _holds(not system.describe(), "after close nothing is described")
    system.close()  # closing twice is closing once


def _check(system: System, authority: Authority, timeout: float) -> None:
    system.open(authority.cluster)
    system.open(authority.cluster)  # opening twice is opening once
    _holds(not system.describe(), "a new cluster has no instances")
    launch = secrets.token_hex(4)
    bootstrap = authority.bootstrap(launch)
    boot = Launch(
        cluster=authority.cluster,
        launch=launch,
        ca=bootstrap.ca.decode(),
        cert=bootstrap.cert.decode(),
        key=bootstrap.key.decode(),
        agent_digest="" if system.capabilities.local else agent_digest(),
        first_lease=timeout,
    )
    launched = system.launch(2, Spec(), boot, launch)
    _holds(not launched.failures, f"two instances can be launched: {launched.failures}")
    first, second = launched.instances
    _holds(first.id != second.id, "each instance has an id of its own")
    again = system.launch(2, Spec(), boot, launch).instances
    _holds({one.id for one in again} == {first.id, second.id}, "launching again by the same launch id launches nothing")
    _holds({one.id for one in system.describe()} == {first.id, second.id}, "describe tells of every instance")
    described = system.describe([first.id])
    _holds([one.id for one in described] == [first.id], "describe tells of the instances it is asked about")
    _holds(described[0].launch == launch, "an instance is labelled with its launch")
    _holds(described[0].cluster == authority.cluster, "an instance is labelled with its cluster")
    _holds(system.describe(["no-such-instance"]) == [], "an id that nobody knows is left out")

    for number, instance in enumerate((first, second)):
        info = _enrol(system, authority, instance, f"m{number}", bootstrap, timeout)
        name = authority.machine(f"m{number}").identity.uri
        _holds(info.identity == name, f"{instance.id} bears the name it was enrolled under: {info.identity}")

    _holds(system.terminate(["no-such-instance"]) == {"no-such-instance": None}, "ending the unknown is a success")
    _holds(system.terminate([first.id]) == {first.id: None}, "an instance can be ended")
    _holds(_until(lambda: _state(system, first) != RUNNING, timeout), "an ended instance is not described as running")
    _holds(_state(system, second) == RUNNING, "ending one instance leaves the others alone")
    _holds(system.terminate([first.id]) == {first.id: None}, "ending twice is ending once")
    _holds(isinstance(system.diagnose(second), str), "diagnose always has something to say, if only nothing")


def _check_unopened(unopened: System, system: System, cluster: str, timeout: float) -> None:
    """What `bigm doctor` and `bigm gc` ask of another object of the same kind, which is never opened."""
    findings = list(unopened.doctor())
    _holds(all(one.state in (OK, WARNING, FAILED) for one in findings), "each finding is ok, a warning or failed")
    _holds(all(one.subject and one.check and one.text for one in findings), "each finding says what was looked at")
    try:
        found = [one for one in unopened.discover() if one.cluster == cluster]
        outcome = unopened.remove([])
    except NotSupported:
        return
    _holds(outcome == {}, "removing nothing removes nothing")
    mine = {one.id for one in system.describe()}
    instances = {one.id for one in found if one.kind == INSTANCE}
    _holds(instances <= mine, "what is discovered of a cluster are instances of that cluster")
    outcome = unopened.remove(found)
    _holds(outcome == dict.fromkeys(one.id for one in found), f"what was discovered can be removed: {outcome}")
    for one in found:
        gone = _until(lambda one=one: _state(system, one) != RUNNING, timeout)  # type: ignore[misc]
        _holds(gone, f"{one.id} was removed, and is not described as running")
    left = [one.id for one in unopened.discover() if one.cluster == cluster and one.id in {each.id for each in found}]
    _holds(not left, f"what was removed is not discovered again: {left}")


def _enrol(
    system: System, authority: Authority, instance: Instance, machine: str, launch: Credentials, timeout: float
) -> Info:
    """Make a machine of *instance*, as a cluster does, and ask it what it is."""
    reached: list[Info] = []

    def answers() -> bool:
        try:
            client, info = open_agent(
                lambda seconds: system.connect(instance, seconds),
                authority.driver(),
                authority.machine(machine),
                launch,
                name=f"agent of {machine}",
                agent=agent_zip(),
            )
        except (OSError, Unreachable):
            return False
        with contextlib.closing(client):
            client.call("Agent.keepalive", (_LEASE,), timeout=timeout)
        reached.append(info)
        return True

    said = _until(answers, timeout)
    _holds(said, f"an agent answers on {instance.id} within {timeout:g} s; it said {system.diagnose(instance)!r}")
    return reached[0]


def _state(system: System, instance: Instance) -> str:
    return next((one.state for one in system.describe([instance.id])), "gone")


def _until(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(_PAUSE)  # a provider announces nothing
    return holds


def _holds(condition: bool, sentence: str) -> None:
    if not condition:
        raise AssertionError(f"does not hold: {sentence}")
