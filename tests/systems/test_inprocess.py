"""Clusters on machines in process, with a clock that is turned."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import bigm
from bigm import Cause, State
from bigm.errors import ConfigError
from bigm.systems.inprocess import InProcess, ManualClock
from bigm.testing.faults import Faults
from cluster_services import Counter
from waiting import eventually

HOUR = 3600.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cluster(clock: ManualClock) -> Iterator[bigm.Cluster]:
    with bigm.start(InProcess(clock=clock), name="turned", timeouts={"lifetime": 2 * HOUR}) as cluster:
        yield cluster


def start(cluster: bigm.Cluster, n: int) -> list[bigm.Machine]:
    machines = cluster.start(n, services={"C": Counter()})
    cluster.wait(machines, timeout=30.0)
    return machines


def test_machines_that_the_driver_renews_live_on_however_far_the_clock_is_turned(
    cluster: bigm.Cluster, clock: ManualClock
) -> None:
    machines = start(cluster, 2)
    clock.turn(HOUR)
    assert clock() == HOUR
    assert [machine.state for machine in machines] == [State.RUNNING] * 2
    assert [machine.call("C.add") for machine in machines] == [1, 1]
    assert [machine.ping() < 10.0 for machine in machines] == [True, True]


def test_a_machine_is_renewed_on_time_by_the_turned_clock_and_not_by_the_real_one(
    cluster: bigm.Cluster, clock: ManualClock
) -> None:
    (machine,) = start(cluster, 1)
    assert machine.next_keepalive == 5.0
    clock.turn(2.0)
    assert machine.next_keepalive == 3.0
    clock.turn(4.0)
    assert machine.next_keepalive == 4.0


def test_a_machine_whose_lifetime_is_over_is_stopped_with_that_cause(cluster: bigm.Cluster, clock: ManualClock) -> None:
    (machine,) = start(cluster, 1)
    clock.turn(3 * HOUR)
    assert (machine.state, machine.cause) == (State.STOPPED, Cause.LIFETIME)
    with pytest.raises(bigm.MachineStopped, match="its lifetime of 7200 s is over"):
        machine.wait(State.STOPPED, timeout=10.0)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_clock_goes_on_only_and_only_so_far(clock: ManualClock, seconds: float) -> None:
    with pytest.raises(ConfigError, match="time only goes on"):
        clock.turn(seconds)


def test_a_turned_clock_stops_at_each_moment_at_which_something_is_due(clock: ManualClock) -> None:
    seen = []

    def again() -> None:
        seen.append(clock())
        clock.after(10.0, again)

    clock.after(10.0, again)
    clock.after(15.0, lambda: seen.append(clock()))
    clock.turn(35.0)
    assert seen == [10.0, 15.0, 20.0, 30.0]
    assert clock() == 35.0


def test_a_turned_clock_goes_on_only_when_what_was_due_has_its_outcome(clock: ManualClock) -> None:
    seen: list[str] = []

    def begin() -> None:
        token = clock.hold()

        def end() -> None:
            seen.append("first")
            clock.release(token)

        threading.Thread(target=end, name="answer").start()

    clock.after(1.0, begin)
    clock.after(2.0, lambda: seen.append("second"))
    clock.turn(2.0)
    assert seen == ["first", "second"]


def mine() -> tuple[set[str], int]:
    """Names of bigm's threads, and the count of open descriptors."""
    return {thread.name for thread in threading.enumerate()}, len(os.listdir("/dev/fd"))


def test_machines_leave_neither_threads_nor_descriptors_behind() -> None:
    with bigm.start("inprocess") as warm:
        start(warm, 1)  # what the process keeps: its I/O thread, say
    names, descriptors = mine()
    with bigm.start("inprocess") as cluster:
        machines = start(cluster, 20)
        assert [call.result() for call in [machine.submit("C.add") for machine in machines]] == [1] * 20
    eventually(lambda: mine()[0] <= names, 10.0, lambda: f"threads: {mine()[0] - names}")
    eventually(lambda: mine()[1] <= descriptors, 10.0, lambda: f"{mine()[1] - descriptors} descriptors")


LIMITED = """
import resource, sys
import bigm
from cluster_services import Counter

resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[1])))
with bigm.start("inprocess") as cluster:
    machines = cluster.start(20, services={"C": Counter()})
    cluster.wait(machines)
    print(sum(machine.call("C.add") for machine in machines))
"""


@pytest.mark.parametrize(
    ("limit", "status", "out", "err"),
    [
        (1000, 0, "20\n", ""),
        (400, 0, "9\n", "only 9 of 20 machines could be launched: 20 machines in process need some 320 descriptors"),
        (200, 1, "", "at most 200 are allowed here; raise `ulimit -Hn`, or start fewer"),
    ],
)
def test_the_limit_of_descriptors_is_raised_as_far_as_it_may_be_and_then_said(
    tmp_path: Path, limit: int, status: int, out: str, err: str
) -> None:
    (tmp_path / "limited.py").write_text(LIMITED)
    path = os.pathsep.join(filter(None, sys.path))
    shown = subprocess.run(
        [sys.executable, str(tmp_path / "limited.py"), str(limit)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (shown.returncode != 0) == (status != 0), shown.stderr
    assert shown.stdout == out
    assert err in shown.stderr


class Puller:
    """Reads a stream of another machine. Its events are those of all machines: they are threads of this process."""

    begun, closed = threading.Event(), threading.Event()

    def endless(self) -> Iterator[bytes]:
        self.begun.set()
        try:
            while True:
                yield bytes(10_000)
        finally:
            self.closed.set()

    def pull(self, other: bigm.Machine) -> int:
        return sum(map(len, other.stream("Puller.endless")))


@pytest.mark.parametrize("end", ["machine", "worker"])
def test_what_a_killed_machine_reads_of_others_ends_with_it(end: str) -> None:
    Puller.begun.clear()
    Puller.closed.clear()
    faults = Faults()
    with bigm.start(InProcess(network=faults)) as cluster:
        reader, writer = cluster.start(2, services={"Puller": Puller()})
        cluster.wait(timeout=30.0)  # machines do not wait for one another to have started
        call = reader.submit("Puller.pull", writer)
        assert Puller.begun.wait(10)
        faults.kill(reader) if end == "machine" else faults.run_out_of_memory(reader)
        with pytest.raises(bigm.MachineStopped):
            call.result(10)
        assert Puller.closed.wait(10)
