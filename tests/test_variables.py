"""Counters, gauges and functions that machines keep, and what the driver reads of them."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

import bigm
from bigm import variables
from bigm.variables import Failed
from waiting import eventually

OF_MODULE = bigm.counter("of the module")


class Keeps:
    """Keeps variables of every kind."""

    def __init__(self) -> None:
        self.travelled = bigm.counter("travelled")

    def setup(self, cluster: Any) -> None:
        self.place = f"{cluster.machine}/{cluster.proc}"
        bigm.variable("place", lambda: self.place)

    def count(self, name: str, n: float = 1) -> None:
        OF_MODULE.add()
        self.travelled.add(2)
        bigm.counter(name).add(n)

    def count_in_threads(self, name: str, threads: int, times: int) -> None:
        counter = bigm.counter(name)
        with ThreadPoolExecutor(threads) as pool:
            for _ in range(threads):
                pool.submit(lambda: [counter.add() for _ in range(times)])

    def set(self, name: str, value: Any) -> None:
        bigm.gauge(name).set(value)

    def value(self, name: str) -> Any:
        return bigm.gauge(name).value

    def define(self, name: str, value: Any) -> None:
        bigm.variable(name, lambda: value() if callable(value) else value)

    def define_slow(self, name: str, seconds: float) -> None:
        bigm.variable(name, lambda: bigm.current_call().wait_cancelled(seconds))

    def clash(self) -> None:
        bigm.counter("clash")
        bigm.gauge("clash")

    def pid(self) -> int:
        return os.getpid()


def explode() -> None:
    raise ValueError("no reading")


@pytest.fixture(scope="module", params=["inprocess", "local"])
def cluster(request: pytest.FixtureRequest) -> Iterator[bigm.Cluster]:
    with bigm.start(request.param, name="variables") as cluster:
        cluster.wait(cluster.start(2, services={"K": Keeps()}), timeout=60.0)
        yield cluster


def test_counters_are_told_for_each_machine_and_summed(cluster: bigm.Cluster) -> None:
    m0, m1 = cluster.machines
    before = cluster.variables()
    for machine, times in ((m0, 3), (m1, 4)):
        for _ in range(times):
            machine.call("K.count", "a")
    m1.call("K.count", "b", 0.5)
    read = cluster.variables()
    assert (read.machines["m0"]["a"], read.machines["m1"]["a"], read.total["a"]) == (3, 4, 7)
    assert ("b" in read.machines["m0"], read.total["b"]) == (cluster._system.name == "inprocess", 0.5)
    assert read.total["of the module"] - before.total.get("of the module", 0) == 8
    assert read.total["travelled"] - before.total.get("travelled", 0) == 16
    assert read.errors == {}


def test_what_is_no_number_is_told_for_each_machine_and_in_no_total(cluster: bigm.Cluster) -> None:
    read = cluster.variables()
    assert [read.machines[each]["place"] for each in ("m0", "m1")] == ["m0/0", "m1/0"]
    assert "place" not in read.total


def test_a_gauge_holds_what_it_was_last_set_to(cluster: bigm.Cluster) -> None:
    m0, m1 = cluster.machines
    for machine, value in ((m0, 2), (m1, 1), (m0, 5)):
        machine.call("K.set", "queue", value)
    read = cluster.variables()
    assert (read.machines["m0"]["queue"], read.machines["m1"]["queue"], read.total["queue"]) == (5, 1, 6)
    assert m1.call("K.value", "queue") == 1
    assert m0.call("K.value", "never set") == 0


def test_a_function_is_asked_each_time_and_defined_anew_by_its_name(cluster: bigm.Cluster) -> None:
    m0 = cluster.machines[0]
    m0.call("K.define", "answer", 1)
    assert cluster.variables().machines["m0"]["answer"] == 1
    m0.call("K.define", "answer", 42)
    read = cluster.variables()
    assert read.machines["m0"]["answer"] == read.total["answer"] == 42
    assert "answer" not in read.machines["m1"]


def test_a_function_that_raises_shows_its_error_and_hides_nothing_else(cluster: bigm.Cluster) -> None:
    m0, m1 = cluster.machines
    m0.call("K.define", "reading", explode)
    m1.call("K.define", "reading", 3)
    read = cluster.variables()
    assert read.machines["m0"]["reading"] == Failed("ValueError: no reading")
    assert read.machines["m1"]["reading"] == 3
    assert read.total["reading"] == Failed("m0: ValueError: no reading"), "a sum of some would be taken for all"
    assert read.machines["m0"]["place"] == "m0/0"


def test_a_value_that_cannot_be_sent_shows_that(cluster: bigm.Cluster) -> None:
    m0 = cluster.machines[0]
    m0.call("K.define", "lock", threading.Lock)
    shown = cluster.variables().machines["m0"]["lock"]
    assert isinstance(shown, Failed)
    assert "cannot pickle '_thread.lock'" in shown.text
    assert "failed" in repr(shown)


def test_one_name_is_one_kind_of_variable(cluster: bigm.Cluster) -> None:
    with pytest.raises(bigm.ConfigError, match="'clash' is a counter already"):
        cluster.machines[0].call("K.clash")


def test_the_driver_counts_for_nobody(cluster: bigm.Cluster) -> None:
    counter = bigm.counter("only here")
    counter.add(5)
    assert counter.value == 5
    assert cluster.variables().total.get("only here", 0) == 0
    assert bigm.counter("only here") is counter is pickle.loads(pickle.dumps(counter))


def test_a_machine_that_does_not_answer_is_told_and_holds_up_nobody() -> None:
    with bigm.start("inprocess", name="slow", timeouts={"variables": 0.5}) as cluster:
        m0, m1 = cluster.start(2, services={"K": Keeps()})
        cluster.wait()
        m0.call("K.define_slow", "slow", 60.0)
        read = cluster.variables()
        assert isinstance(read.errors["m0"], bigm.DeadlineExceeded)
        assert list(read.machines) == [m1.id]


def test_machines_that_are_not_running_are_left_out_and_none_are_no_error() -> None:
    with bigm.start("inprocess", name="few") as cluster:
        assert cluster.variables().total == {}
        [machine] = cluster.start(1, services={"K": Keeps()})
        machine.wait()
        machine.call("K.count", "a")
        assert cluster.variables().machines["m0"]["a"] == 1
        machine.shutdown()
        assert cluster.variables().machines == {}
    with pytest.raises(bigm.ConfigError, match="shut down"):
        cluster.variables()


def test_the_workers_of_a_machine_are_summed_and_each_can_be_seen() -> None:
    with bigm.start("local", name="workers") as cluster:
        [machine] = cluster.start(1, services={"K": Keeps()}, procs=2)
        for proc, times in enumerate((1, 2)):
            for _ in range(times):
                machine.options(proc=proc).call("K.count", "a")
        machine.options(proc=1).call("K.define", "odd", explode)
        read = cluster.variables()
        assert read.machines["m0"]["a"] == 3
        assert [values["a"] for values in read.workers["m0"]] == [1, 2]
        assert read.machines["m0"]["place"] == ("m0/0", "m0/1")
        assert read.machines["m0"]["odd"] == Failed("worker 1: ValueError: no reading")
        assert "place" not in read.total


def test_no_count_is_lost_between_threads() -> None:
    with bigm.start("local", name="threads") as cluster:
        [machine] = cluster.start(1, services={"K": Keeps()})
        machine.call("K.count_in_threads", "t", 8, 5_000)
        assert cluster.variables().total["t"] == 40_000


def test_a_worker_that_has_ended_leaves_no_values_in_this_process() -> None:
    with bigm.start("inprocess", name="gone") as cluster:
        [machine] = cluster.start(1, services={"K": Keeps()})
        machine.call("K.count", "left over")
    counter = bigm.counter("left over")
    eventually(lambda: not counter._counts)


@pytest.mark.parametrize("name", ["", 3, None, "a\nb"])
def test_a_variable_has_a_printable_name(name: Any) -> None:
    for make in (bigm.counter, bigm.gauge):
        with pytest.raises(bigm.ConfigError, match="cannot be called"):
            make(name)


def test_a_variable_needs_a_function() -> None:
    with pytest.raises(bigm.ConfigError, match="needs a function, not 3"):
        bigm.variable("three", 3)  # type: ignore[arg-type]


def test_numbers_of_every_kind_add_up_and_others_do_not() -> None:
    def total(*values: Any) -> Any:
        return variables.total((str(where), value) for where, value in enumerate(values))

    assert total(1, 2.5, Fraction(1, 2)) == 4.0
    assert total(True, True, False) == 2
    assert total(Decimal(1), 0.5) is None
    assert total("a", "a") is None
    assert total(1, "a") is None
    assert total(1, Failed("no")) == Failed("1: no")


def test_a_function_is_found_while_others_define_theirs() -> None:
    found = variables._Function("place")

    class Worker:
        """A worker, as another defines the variable too at the moment when this one is looked at."""

        @property
        def worker(self) -> bool:
            found.functions[object()] = int  # type: ignore[index]  # stands for a home
            return True

    found.functions[Worker()] = int  # type: ignore[index]  # as above
    found.functions[None] = lambda: 7
    assert found._read(None) == 7
    assert found._shared() is found.functions[None]
