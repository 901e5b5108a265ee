"""Machines that are called and not owned: how those that call them learn of their end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import bigm
from bigm import Cause, State
from bigm.leases import Lease
from bigm.peer import Link
from bigm.peers import Peers
from bigm.steward import Steward
from bigm.timeouts import Timeouts
from cluster_services import Mortal
from waiting import eventually

IMPATIENT = Timeouts(ping=0.5, renewal=0.05, lease=1.0, verdict=0.4)


class Caller(Mortal):
    """Calls another machine."""

    def __init__(self) -> None:
        super().__init__()
        self.holding = 0

    def setup(self, cluster: Any) -> None:
        self.cluster = cluster

    def hold(self) -> None:
        self.holding += 1
        bigm.current_call().wait_cancelled(120.0)
        self.holding -= 1

    def held(self) -> int:
        return self.holding

    def wait_for(self, machine: Any) -> tuple[str, str, float]:
        """Be held by *machine* until it dies: what that looked like from here, and for how long nothing was said."""
        started = time.monotonic()
        try:
            machine.call("C.hold")
        except bigm.MachineStopped as error:
            return type(error).__name__, error.cause, time.monotonic() - started
        raise AssertionError("the call came back")

    def state_of(self, machine: Any) -> str:
        return str(machine.state)

    def is_the_same(self, machine: Any) -> bool:
        return machine is self.cluster.dial(machine.addr)


@pytest.fixture(scope="module", params=["inprocess", "local"])
def cluster(request: pytest.FixtureRequest) -> Iterator[bigm.Cluster]:
    with bigm.start(request.param, name="watched", timeouts={"renewal": 0.5}) as cluster:
        yield cluster


@pytest.fixture
def machines(cluster: bigm.Cluster) -> Iterator[list[bigm.Machine]]:
    machines = cluster.start(2, services={"C": Caller()})
    cluster.wait(machines, timeout=60.0)
    yield machines
    for machine in machines:
        machine.cancel()


@pytest.fixture
def target(machines: list[bigm.Machine]) -> bigm.Machine:
    return machines[1]


@pytest.fixture
def peers(target: bigm.Machine) -> Iterator[Peers]:
    """The cluster as a machine sees it, which is easily worried."""
    peers = Peers("m9", 0, 1, Link(target._link.credentials, timeouts=IMPATIENT))
    yield peers
    peers.close()


def kill(cluster: bigm.Cluster, machine: bigm.Machine) -> None:
    """Let it vanish as if its power had failed."""
    [steward] = [steward for steward in cluster._stewards if steward.machine is machine]
    if cluster._system.name == "inprocess":
        cluster._system.kill(steward.instance.id)  # type: ignore[attr-defined]
    else:
        os.kill(machine._agent.call("Agent.info").pid, signal.SIGKILL)


def test_a_call_from_machine_to_machine_fails_at_once_when_the_other_vanishes(
    cluster: bigm.Cluster, machines: list[bigm.Machine]
) -> None:
    caller, target = machines
    waiting = caller.submit("C.wait_for", target)
    eventually(lambda: target.call("C.held") == 1)
    kill(cluster, target)
    name, cause, seconds = waiting.result(30.0)
    assert (name, cause) == ("MachineStopped", Cause.AGENT_LOST)
    assert seconds < 20.0
    assert caller.call("C.wait_for", target)[:2] == ("MachineStopped", Cause.AGENT_LOST)


def test_a_call_from_machine_to_machine_fails_when_the_others_worker_dies() -> None:
    with bigm.start("local", name="dying") as cluster:
        caller, target = cluster.start(2, services={"C": Caller()})
        pid = target.call("C.pid")
        waiting = caller.submit("C.wait_for", target)
        eventually(lambda: target.call("C.held") == 1)
        os.kill(pid, signal.SIGKILL)
        name, cause, _ = waiting.result(30.0)
        assert name == "MachineStopped"
        assert cause in (Cause.SIGNAL, Cause.AGENT_LOST), "the agent may have been ended before it was asked"


def test_an_agent_that_can_be_asked_says_how_its_worker_died(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, take_leave = threading.Event(), Steward._take_leave

    def late(steward: Steward, lease: Lease) -> None:
        assert heard.wait(30.0)
        take_leave(steward, lease)

    with bigm.start("local", name="asked") as cluster:
        caller, target = cluster.start(2, services={"C": Caller()})
        pid = target.call("C.pid")
        waiting = caller.submit("C.wait_for", target)
        eventually(lambda: target.call("C.held") == 1)
        monkeypatch.setattr(Steward, "_take_leave", late)
        os.kill(pid, signal.SIGSEGV)
        try:
            assert waiting.result(30.0)[:2] == ("MachineStopped", Cause.SIGNAL)
        finally:
            heard.set()


def test_a_machine_knows_the_state_of_another_as_soon_as_it_asks(
    cluster: bigm.Cluster, machines: list[bigm.Machine]
) -> None:
    caller, target = machines
    eventually(lambda: caller.call("C.state_of", target) == "RUNNING")
    kill(cluster, target)
    eventually(lambda: caller.call("C.state_of", target) == "STOPPED", 20.0)
    assert caller.call("C.is_the_same", caller)


def test_state_moves_from_starting_to_running_to_stopped_and_nothing_is_sent_before_it_is_asked(
    cluster: bigm.Cluster, target: bigm.Machine, peers: Peers
) -> None:
    peer = peers.dial(target)
    assert (peer._phase.state, peer._agent._main) == (State.STARTING, None)
    eventually(lambda: peer.state is State.RUNNING)
    assert peers.dial(target) is peer
    kill(cluster, target)
    eventually(lambda: peer.state is State.STOPPED)
    assert peer.cause is Cause.AGENT_LOST
    with pytest.raises(bigm.MachineStopped, match=f"machine {peer.addr} stopped: its agent is gone"):
        peer.call("C.pid")
    assert peers.dial(target) is peer, "no machine is ever started at its address again"


def test_a_call_that_waits_for_nobody_is_failed_too(cluster: bigm.Cluster, target: bigm.Machine, peers: Peers) -> None:
    peer = peers.dial(target)
    calls = [peer.submit("C.hold") for _ in range(3)]
    eventually(lambda: target.call("C.held") == 3)
    kill(cluster, target)
    for call in calls:
        with pytest.raises(bigm.MachineStopped):
            call.result(20.0)


def test_what_is_called_no_more_is_pinged_no_more_until_it_is_called_again(target: bigm.Machine, peers: Peers) -> None:
    peer = peers.dial(target)
    assert peer._asleep
    peer.call("C.pid")
    assert not peer._asleep
    eventually(lambda: peer._asleep, 20.0)
    peer.call("C.pid")
    assert not peer._asleep
    call = peer.submit("C.hold")
    eventually(lambda: target.call("C.held") == 1)
    begun = time.monotonic()
    eventually(lambda: time.monotonic() - begun > 2 * IMPATIENT.lease)  # it would have fallen asleep by now
    assert not peer._asleep, "a call is in flight"
    call.cancel()
    eventually(lambda: peer._asleep, 20.0)


def test_a_connection_that_is_lost_is_not_taken_for_a_machines_end(target: bigm.Machine, peers: Peers) -> None:
    peer = peers.dial(target)
    peer.call("C.pid")
    call = peer.submit("C.hold")
    eventually(lambda: target.call("C.held") == 1)
    peer._clients[0]._main.connection.shutdown()  # type: ignore[union-attr]
    with pytest.raises(bigm.MayHaveRun, match="connection was lost"):
        call.result(20.0)
    assert peer.call("C.pid")
    assert peer.state is not State.STOPPED


def stopped_process(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def test_a_machine_that_says_nothing_for_a_lease_is_stopped_and_its_calls_fail() -> None:
    with bigm.start("local", name="silent") as cluster:
        [target] = cluster.start(1, services={"C": Caller()})
        target.wait(timeout=60.0)
        agent = target._agent.call("Agent.info").pid
        peers = Peers("m9", 0, 1, Link(target._link.credentials, timeouts=IMPATIENT))
        peer = peers.dial(target)
        call = peer.submit("C.hold")
        eventually(lambda: target.call("C.held") == 1)
        os.kill(agent, signal.SIGSTOP)
        try:
            eventually(lambda: stopped_process(agent))
            with pytest.raises(bigm.MachineStopped, match="its agent is gone"):
                call.result(30.0)
        finally:
            os.kill(agent, signal.SIGCONT)
        peers.close()
        assert target.call("C.pid"), "its owner knows better"


def test_a_machine_that_never_answered_is_not_gone_because_nobody_listens_yet(
    machines: list[bigm.Machine], peers: Peers
) -> None:
    nobody = peers.dial("127.0.0.1:1/m7")
    with pytest.raises(bigm.Unreachable):
        nobody.call("C.pid")
    assert nobody.state is State.STARTING
    eventually(lambda: nobody.state is State.STOPPED, 20.0, "a lease is over")


def test_the_driver_learns_of_a_strangers_end_in_the_same_way(cluster: bigm.Cluster, target: bigm.Machine) -> None:
    stranger = cluster.dial(target.addr.replace("127.0.0.1", "localhost"))
    stranger.wait(State.RUNNING, timeout=20.0)
    call = stranger.submit("C.hold")
    eventually(lambda: target.call("C.held") == 1)
    kill(cluster, target)
    with pytest.raises(bigm.MachineStopped):
        call.result(20.0)
    with pytest.raises(bigm.MachineStopped, match="its agent is gone"):
        stranger.wait(State.STOPPED, timeout=20.0)


def test_a_stranger_is_of_no_use_once_its_cluster_has_ended() -> None:
    with bigm.start("inprocess", name="ended") as cluster:
        [machine] = cluster.start(1, services={"C": Caller()})
        machine.wait(timeout=30.0)
        stranger = cluster.dial(machine.addr.replace("127.0.0.1", "localhost"))
        assert stranger.call("C.echo") == ({},)
    for handle, why in ((stranger, "cluster ended is shut down"), (machine, "it was shut down")):
        with pytest.raises(bigm.MachineStopped, match=why):
            handle.call("C.echo")
        with pytest.raises(bigm.MachineStopped, match=why):
            handle.submit("C.echo").result(10.0)


def test_the_thread_that_pings_is_one_for_all_and_ends(target: bigm.Machine) -> None:
    peers = Peers("m8", 0, 1, Link(target._link.credentials, timeouts=IMPATIENT))
    for name in ("127.0.0.1", "localhost"):
        peers.dial(target.addr.replace("127.0.0.1", name)).call("C.pid")
    eventually(lambda: named("bigm-peers m8") == 1)
    peers.close()
    assert named("bigm-peers m8") == 0


def named(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())
