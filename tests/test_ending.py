"""The end of some machines of a cluster, and of clusters side by side and within one another."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

import bigm
from bigm import Cause, State
from bigm.errors import SystemFault
from bigm.systems.inprocess import InProcess
from bigm.systems.local import Local
from cluster_services import Counter
from waiting import eventually


class Reluctant(Counter):
    """Takes its time to be torn down."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def teardown(self) -> None:
        print("tearing down", flush=True)
        threading.Event().wait(self.seconds)
        print("torn down", flush=True)


@pytest.fixture(scope="module", params=["inprocess", "local"])
def cluster(request: pytest.FixtureRequest) -> Iterator[bigm.Cluster]:
    with bigm.start(request.param, name="ending") as cluster:
        yield cluster


def test_some_machines_are_ended_with_their_teardown_and_the_others_live_on(
    cluster: bigm.Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    machines = cluster.start(4, services={"C": Reluctant(0.0)})
    cluster.wait(machines, timeout=60.0)
    ended, living = machines[:2], machines[2:]
    waiting = ended[0].submit("C.sleep", 0.2)
    assert cluster.shutdown(ended) == []
    with pytest.raises(bigm.MachineStopped) as caught:
        waiting.result(10.0)
    assert caught.value.cause == Cause.SHUTDOWN
    assert [machine.state for machine in machines] == [State.STOPPED] * 2 + [State.RUNNING] * 2
    assert cluster.machines == living
    shown = capfd.readouterr()
    assert (shown.err + shown.out).count("torn down") == 2, "inprocess has no output of its own"
    assert [machine.call("C.add") for machine in living] == [1, 1]
    assert cluster.shutdown(ended) == [], "they have ended"
    assert cluster.shutdown([]) == []
    assert cluster.shutdown(iter(living)) == []
    assert cluster.machines == []
    [another] = cluster.start(1, services={"C": Counter()})
    assert another.call("C.add") == 1
    another.cancel()


def test_what_does_not_end_in_time_is_told_and_goes_on_ending() -> None:
    with bigm.start("local", name="reluctant", timeouts={"teardown": 3.0}) as cluster:
        slow, quick = (cluster.start(1, services={"C": Reluctant(seconds)})[0] for seconds in (60.0, 0.0))
        cluster.wait([slow, quick], timeout=60.0)
        [left] = cluster.shutdown([slow, quick], timeout=1.0)
        assert left.machine is slow
        assert isinstance(left.error, bigm.DeadlineExceeded)
        assert "had not ended after 1" in str(left.error)
        assert slow.state is State.STOPPED
        assert cluster.shutdown([slow]) == []


def test_a_cluster_that_does_not_end_in_time_is_ended_without_ceremony() -> None:
    cluster = bigm.start("local", name="hurried")
    [machine] = cluster.start(1, services={"C": Reluctant(120.0)})
    pid = machine.call("C.pid")
    started = time.monotonic()
    assert cluster.shutdown(timeout=0.5) == []
    assert time.monotonic() - started < 60.0
    assert not os.path.exists(f"/proc/{pid}")
    assert cluster.shutdown(timeout=0.0) == []


class Clinging(Local):
    """Cannot end the first instance."""

    def terminate(self, ids: Iterable[str]) -> dict[str, SystemFault | None]:
        outcome = super().terminate(ids)
        return {id: SystemFault("the provider refuses") if id.endswith("-0") else None for id in outcome}


def test_a_machine_that_cannot_be_ended_is_left_over_with_its_reason(capfd: pytest.CaptureFixture[str]) -> None:
    with bigm.start(Clinging(), name="clinging") as cluster:
        first, second = cluster.start(2, services={"C": Counter()})
        cluster.wait(timeout=60.0)
        [left] = cluster.shutdown([first, second])
        assert left.machine is first
        assert "the provider refuses" in str(left.error)
        assert f"{first.addr} could not be ended: the provider refuses" in capfd.readouterr().err
        assert [again.machine for again in cluster.shutdown([first])] == [first]
    assert cluster.shutdown() == [], "its instance has ended after all, as the system says"


def test_tasks_of_executors_end_before_their_machine_does(cluster: bigm.Cluster) -> None:
    machines = cluster.start(2, services={"C": Counter()})
    cluster.wait(machines, timeout=60.0)
    with cluster.executor(machines=machines) as executor:
        tasks = [executor.submit(nap, 0.3) for _ in range(4)]
        eventually(lambda: all(task.running() for task in tasks[:2]))
        assert cluster.shutdown(machines[:1]) == []
        assert [task.result(30.0) for task in tasks] == [0.3] * 4
    cluster.shutdown(machines)


def nap(seconds: float) -> float:
    threading.Event().wait(seconds)
    return seconds


def test_only_machines_of_the_cluster_can_be_ended_and_only_as_a_list(cluster: bigm.Cluster) -> None:
    [machine] = cluster.start(1, services={"C": Counter()})
    machine.wait(timeout=60.0)
    stranger = cluster.dial(machine.addr.replace("127.0.0.1", "localhost"))
    with bigm.start("inprocess", name="elsewhere") as other:
        [theirs] = other.start(1, services={"C": Counter()})
        for wrong in ([stranger], [machine, theirs], ["m0"], [None]):
            with pytest.raises(bigm.ConfigError, match="was not started by cluster ending"):
                cluster.shutdown(wrong)  # type: ignore[arg-type]
    for nothing in (machine, 3):
        with pytest.raises(bigm.ConfigError, match="a list of machines"):
            cluster.shutdown(nothing)  # type: ignore[arg-type]
    assert machine.state is State.RUNNING, "nothing was ended by mistake"
    machine.cancel()


@pytest.mark.parametrize("timeout", [-1.0, "3", True])
def test_a_timeout_is_no_less_than_nothing(cluster: bigm.Cluster, timeout: Any) -> None:
    with pytest.raises(bigm.ConfigError, match="0 seconds or more"):
        cluster.shutdown([], timeout=timeout)


def test_clusters_have_names_and_machines_of_their_own_side_by_side() -> None:
    with bigm.start("local", name="twin") as first, bigm.start(InProcess(), name="twin") as second:
        assert (first.name.startswith("twin"), second.name) == (True, f"twin-{int(first.name[5:] or 1) + 1}")
        machines = [cluster.start(1, services={"C": Counter()})[0] for cluster in (first, second)]
        assert [machine.call("C.add", 1) for machine in machines] == [1, 1]
        assert first.machines == machines[:1]
        assert second.machines == machines[1:]
        assert machines[0].call("C.pid") != os.getpid() == machines[1].call("C.pid")


def test_an_inner_cluster_ends_before_the_outer_and_leaves_it_alone() -> None:
    with bigm.start("local", name="outer") as outer:
        [machine] = outer.start(1, services={"C": Counter()})
        for _ in range(2):
            with bigm.start("inprocess", name="inner") as inner:
                [other] = inner.start(1, services={"C": Counter()})
                assert other.call("C.add") == 1
            assert other.state is State.STOPPED
            assert machine.call("C.add") > 0
    assert machine.state is State.STOPPED


def test_an_exception_in_the_inner_cluster_ends_what_it_passes() -> None:
    with bigm.start("local", name="outer") as outer:
        [machine] = outer.start(1, services={"C": Counter()})
        pid = machine.call("C.pid")
        started: list[bigm.Machine] = []
        with pytest.raises(ValueError, match="inside"):
            fail_in(bigm.start("inprocess", name="inner"), started)
        assert [machine.state for machine in started] == [State.STOPPED]
        assert machine.call("C.pid") == pid
    with pytest.raises(ValueError, match="inside"), bigm.start("local", name="outer") as outer:
        fail_in(outer, started)
    assert [machine.state for machine in started] == [State.STOPPED] * 2


def fail_in(cluster: bigm.Cluster, started: list[bigm.Machine]) -> None:
    with cluster:
        started += cluster.start(1, services={"C": Counter()})
        started[-1].call("C.fail", "inside")


def test_clusters_may_end_in_another_order_than_they_were_opened() -> None:
    first, second = bigm.start("inprocess", name="a"), bigm.start("inprocess", name="b")
    [theirs] = second.start(1, services={"C": Counter()})
    assert first.shutdown() == []
    assert theirs.call("C.add") == 1
    assert second.shutdown() == []


def test_every_handle_of_a_cluster_that_has_ended_says_so() -> None:
    with bigm.start("inprocess", name="over") as cluster:
        [machine] = cluster.start(1, services={"C": Counter()})
        service, view = machine.service("C", Counter), machine.options(timeout=5.0)
        assert service.add() == 1
    for use in (service.add, lambda: view.call("C.add"), lambda: machine.broadcast("C.add"), machine.memory):
        with pytest.raises(bigm.MachineStopped, match="it was shut down"):
            use()
    for opens in (
        lambda: cluster.start(1, services={"C": Counter()}),
        lambda: cluster.dial(machine.addr),
        lambda: cluster.broadcast("C.add"),
        cluster.variables,
    ):
        with pytest.raises(bigm.ConfigError, match=r"cluster over.* is shut down"):
            opens()
    assert cluster.gather([]) == []
