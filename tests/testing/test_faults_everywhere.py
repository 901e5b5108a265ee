"""What is made of calls (executors, streams, calls between machines) when machines and connections fail underneath."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import bigm
from bigm import MachineStopped, State
from bigm.testing import Faults
from cluster_services import Counter, SetUp
from waiting import eventually

GATE = threading.Event()  # machines in process share this module
RUNS: list[int] = []


@pytest.fixture(autouse=True)
def _closed_gate() -> Iterator[None]:
    GATE.clear()
    RUNS.clear()
    yield
    GATE.set()


def square(n: int) -> int:
    """Once the gate is open."""
    RUNS.append(n)
    GATE.wait(30.0)
    return n * n


class Numbers:
    def count(self, size: int = 1) -> Iterator[bytes]:
        for number in itertools.count():
            yield number.to_bytes(4, "big") * size

    def held(self) -> Iterator[int]:
        yield 0
        yield 1
        GATE.wait(30.0)
        yield 2

    def wait(self) -> None:
        RUNS.append(0)
        GATE.wait(30.0)

    def total(self, numbers: Any) -> int:
        return sum(numbers)


def start(cluster: bigm.Cluster, n: int) -> list[bigm.Machine]:
    machines = cluster.start(n, services={"C": Counter(), "S": SetUp(), "N": Numbers()})
    cluster.wait(machines, timeout=30.0)
    return machines


def test_a_map_in_the_middle_of_which_a_machine_dies_gives_every_result_where_tasks_may_run_twice(
    cluster: bigm.Cluster, faults: Faults
) -> None:
    start(cluster, 3)
    with cluster.executor(retries=3) as pool:
        results = pool.map(square, range(30))
        eventually(lambda: len(RUNS) >= 3, 30.0)
        faults.kill()
        GATE.set()
        assert list(results) == [n * n for n in range(30)]


def test_a_task_that_was_lost_with_its_machine_says_so_and_the_others_are_not_lost(
    cluster: bigm.Cluster, faults: Faults
) -> None:
    start(cluster, 2)
    with cluster.executor() as pool:
        futures = [pool.submit(square, n) for n in range(10)]
        eventually(lambda: len(RUNS) >= 2, 30.0)
        faults.kill("m0")
        GATE.set()
        errors = [future.exception(30.0) for future in futures]
        assert {type(error) for error in errors} == {type(None), MachineStopped}
        assert {error.cause for error in errors if isinstance(error, MachineStopped)} == {"agent-lost"}
        assert all(future.result() == n * n for n, future in enumerate(futures) if errors[n] is None)


def test_a_stream_in_the_middle_of_which_its_machine_dies_ends_behind_its_items_with_the_cause(
    cluster: bigm.Cluster, faults: Faults
) -> None:
    (machine,) = start(cluster, 1)
    with machine.stream("N.held") as numbers:
        assert [next(numbers), next(numbers)] == [0, 1]
        faults.kill(machine)
        with pytest.raises(MachineStopped, match="its agent is gone: killed"):
            next(numbers)


def test_a_stream_whose_machine_runs_out_of_memory_ends_with_that_cause(cluster: bigm.Cluster, faults: Faults) -> None:
    (machine,) = start(cluster, 1)
    with machine.stream("N.count") as numbers:
        next(numbers)
        faults.run_out_of_memory(machine)
        with pytest.raises(MachineStopped) as caught:
            for _ in numbers:
                pass
        assert caught.value.cause == "memory"


def test_a_stream_whose_connection_is_cut_says_so_and_its_machine_lives_on(
    cluster: bigm.Cluster, faults: Faults
) -> None:
    (machine,) = start(cluster, 1)
    with machine.stream("N.held") as numbers:
        assert [next(numbers), next(numbers)] == [0, 1]
        faults.drop(machine)
        with pytest.raises(bigm.MayHaveRun):
            next(numbers)
    assert machine.options(idempotent=True).call("C.echo", 1) == (1, {})
    assert machine.state is State.RUNNING


def test_an_argument_that_is_streamed_to_a_machine_which_dies_is_read_no_further(
    cluster: bigm.Cluster, faults: Faults
) -> None:
    (machine,) = start(cluster, 1)
    read = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            if number == 3:
                faults.kill(machine)
            yield number

    with pytest.raises(MachineStopped):
        machine.call("N.total", numbers())
    count = len(read)
    with pytest.raises(MachineStopped):
        machine.call("C.add")
    assert len(read) == count


def test_a_stream_over_slow_connections_arrives_whole_and_in_order(cluster: bigm.Cluster, faults: Faults) -> None:
    (machine,) = start(cluster, 1)
    faults.slow(machine, 0.02)
    with machine.stream("N.count", 10_000) as numbers:
        items = list(itertools.islice(numbers, 50))
    assert items == [number.to_bytes(4, "big") * 10_000 for number in range(50)]


def test_a_call_between_machines_that_a_partition_cuts_off_fails_there_and_is_told_to_the_driver(
    cluster: bigm.Cluster, faults: Faults
) -> None:
    first, second = start(cluster, 2)
    assert first.call("S.ask", second.addr, "C.add") == 1  # they are connected
    asked = first.submit("S.ask", second.addr, "N.wait")
    eventually(lambda: RUNS)
    faults.partition(first, second)
    with pytest.raises(bigm.ServiceError, match=r"MayHaveRun|there is a partition between m0 and m1"):
        asked.result(30.0)
    assert [machine.state for machine in (first, second)] == [State.RUNNING] * 2
    faults.heal()
    assert first.call("S.ask_idempotent", second.addr, "C.echo", 1) == (1, {})


def test_machines_tell_each_other_of_one_that_died(cluster: bigm.Cluster, faults: Faults) -> None:
    first, second = start(cluster, 2)
    assert first.call("S.ask", second.addr, "C.add") == 1
    asked = first.submit("S.ask", second.addr, "N.wait")
    eventually(lambda: RUNS)
    faults.kill(second)
    with pytest.raises(bigm.ServiceError, match=r"MachineStopped: machine .*/m1 stopped: its agent is gone"):
        asked.result(30.0)
