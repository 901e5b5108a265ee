from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

import bigm
from bigm.peer import Peer, _pressure
from cluster_services import Counter, SetUp
from one_client import OneClient


class Stub:
    """A client of which only the load counts."""

    def __init__(self, in_flight: int, load: float) -> None:
        self.in_flight, self.load = in_flight, load


@pytest.fixture(scope="module")
def machines() -> Iterator[list[bigm.Machine]]:
    with bigm.start("local", name="peers") as cluster:
        machines = cluster.start(2, services={"C": Counter(), "S": SetUp()}, procs=2)
        cluster.wait(machines, timeout=30.0)
        yield machines


def test_each_worker_has_its_own_services_and_can_be_named(machines: list[bigm.Machine]) -> None:
    machine = machines[0]
    assert machine.procs == 2
    pids = [machine.options(proc=proc).call("C.pid") for proc in (0, 1)]
    assert len(set(pids)) == 2
    machine.options(proc=1).call("C.add", 7)
    assert [machine.options(proc=proc).call("C.add", 0) for proc in (0, 1)] == [0, 7]
    assert machine.options(proc=1).call("S.place") == (machine.id, machine.addr, 1, 2, "peers")


@pytest.mark.parametrize("proc", [-1, 2])
def test_a_worker_that_does_not_exist_cannot_be_named(machines: list[bigm.Machine], proc: int) -> None:
    with pytest.raises(bigm.ConfigError, match="no worker"):
        machines[0].options(proc=proc).call("C.pid")


def test_calls_in_flight_spread_over_the_workers(machines: list[bigm.Machine]) -> None:
    calls = [machines[0].submit("S.slow_pid", 0.3) for _ in range(4)]
    pids = [call.result(20.0) for call in calls]
    assert sorted(pids.count(pid) for pid in set(pids)) == [2, 2]


def test_the_idlest_worker_is_the_one_with_least_in_flight_here_and_load_there() -> None:
    workers = [Stub(2, 0), Stub(0, 5), Stub(1, 0.5)]
    assert min(workers, key=_pressure) is workers[2]


def test_a_service_dials_another_machine_and_calls_all_its_workers(machines: list[bigm.Machine]) -> None:
    first, second = machines
    assert first.call("S.ask", second.addr, "C.echo", 1) == (1, {})
    pids = {second.options(proc=proc).call("C.pid") for proc in (0, 1)}
    assert first.call("S.ask_all", second.addr, 4) == pids


def test_a_service_may_call_services_but_drive_nothing(machines: list[bigm.Machine]) -> None:
    first, second = machines
    with pytest.raises(bigm.NotAllowed):
        first.call("S.ask", second.addr, "Supervisor.teardown")


def test_an_address_that_is_none_is_refused_with_an_example(machines: list[bigm.Machine]) -> None:
    with pytest.raises(bigm.ConfigError, match=r"127\.0\.0\.1:42409/m0"):
        machines[0].call("S.ask", "nowhere", "C.pid")


def test_another_machine_at_the_address_is_noticed_by_its_name(machines: list[bigm.Machine]) -> None:
    first, second = machines
    crossed = second.addr.replace(second.id, first.id)
    with pytest.raises(bigm.ServiceError, match=r"IdentityError.* answers there"):
        machines[0].call("S.ask", crossed, "C.pid")  # the service's own call failed, not ours


class Flaky(OneClient):
    """Fails before it starts, some times; it has no client, for it never gets so far."""

    def __init__(self, failures: int) -> None:
        self.failures, self.calls = failures, 0
        self._timeout = 1.0

    def call(self, method: str, /, *args: object, **kwargs: object) -> object:
        self.calls += 1
        if self.calls <= self.failures:
            raise bigm.Unreachable("not now")
        return args


def test_retry_call_goes_on_while_the_call_certainly_did_not_start() -> None:
    flaky = Flaky(2)
    assert flaky.retry_call("C.echo", 5) == (5,)
    assert flaky.calls == 3


def test_retry_call_gives_up_at_its_timeout_with_the_last_error() -> None:
    flaky = Flaky(1000)
    with pytest.raises(bigm.Unreachable, match="not now"):
        flaky.retry_call("C.echo")
    assert 2 < flaky.calls < 20


def test_retry_call_does_not_retry_what_may_have_run() -> None:
    class Lossy(Flaky):
        def call(self, method: str, /, *args: object, **kwargs: object) -> object:
            self.calls += 1
            raise bigm.MayHaveRun("lost")

    lossy = Lossy(0)
    with pytest.raises(bigm.MayHaveRun):
        lossy.retry_call("C.echo")
    assert lossy.calls == 1


def test_a_peer_that_is_closed_fails_calls_at_once(machines: list[bigm.Machine]) -> None:
    peer = Peer(machines[0].addr, machines[0]._link)
    assert peer.submit("C.echo").result(20.0) == ({},)
    assert peer.procs == 2
    pending: Future[object] = peer.submit("C.sleep", 60.0)
    peer.close()
    with pytest.raises(bigm.Unreachable):
        pending.result(10.0)
    with pytest.raises(bigm.Unreachable):
        peer.call("C.echo")
