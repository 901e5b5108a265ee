"""Streams of machines: between driver and machine, between machines, and when a machine dies in the middle."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

import bigm
from bigm.systems.inprocess import InProcess
from cluster_services import Mortal
from waiting import eventually


class Flow(Mortal):
    """Streams, and passes streams on."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster: Any = None
        self.closed = 0
        self.read = 0

    def setup(self, cluster: Any) -> None:
        self.cluster = cluster

    def count(self, n: int) -> Iterator[int]:
        try:
            yield from range(n)
        finally:
            self.closed += 1

    async def acount(self, n: int) -> Any:
        for i in range(n):
            yield i

    def endless(self) -> Iterator[bytes]:
        try:
            while True:
                yield bytes(10_000)
        finally:
            self.closed += 1

    def times_closed(self) -> int:
        return self.closed

    def slow(self) -> Iterator[int]:
        for self.read in itertools.count():
            yield self.read
            time.sleep(0.01)  # the pace of this stream

    def times_read(self) -> int:
        return self.read

    def total(self, items: Iterator[int]) -> int:
        return sum(items)

    def relay(self, addrs: list[str], n: int) -> int:
        """Send a stream through all the others, and sum up what comes back."""
        items: Any = iter(range(n))
        for addr in addrs:
            items = self.cluster.dial(addr).stream("F.passed", items)
        return sum(items)

    def passed(self, items: Iterator[int]) -> Iterator[int]:
        for item in items:
            yield item + 1

    def pull(self, addr: str) -> int:
        return sum(1 for _ in self.cluster.dial(addr).stream("F.slow"))

    def ping_pong(self, addrs: list[str], depth: int) -> int:
        """A calls B calls A: a stream of one item at each depth."""
        if depth == 0:
            return 0
        other = self.cluster.dial(addrs[depth % 2])
        return 1 + next(other.stream("F.ping_pong_stream", addrs, depth - 1))

    def ping_pong_stream(self, addrs: list[str], depth: int) -> Iterator[int]:
        yield self.ping_pong(addrs, depth)


@pytest.fixture(params=["inprocess", "local"])
def cluster(request: pytest.FixtureRequest) -> Iterator[bigm.Cluster]:
    with bigm.start(request.param, verbosity="quiet") as cluster:
        yield cluster


def test_streams_of_every_kind_on_machines(cluster: bigm.Cluster) -> None:
    [machine] = cluster.start(1, services={"F": Flow()})
    assert list(range(100)) == list(machine.stream("F.count", 100)), "opened while the machine was starting"
    assert list(range(100)) == list(machine.submit("F.acount", 100).result(20.0))
    assert 4950 == machine.call("F.total", iter(range(100)))
    flow = machine.service("F", Flow)
    assert [0, 1] == list(flow.count(2))
    assert [0, 1] == list(flow.count.stream(2))  # type: ignore[attr-defined]  # the handle's own
    assert 1 == machine.statistics()["F.total"].count
    with pytest.raises(bigm.CallError, match="returned int, which is no stream"):
        machine.stream("F.add", 1)
    with pytest.raises(bigm.DeadlineExceeded, match="had not ended within"):
        list(machine.options(timeout=0.2).stream("F.slow"))

    async def awaited() -> list[int]:
        found = [item async for item in machine.astream("F.count", 3)]
        stream = machine.astream("F.endless")
        async for _ in stream:
            break
        return found + [item async for item in flow.acount.astream(2)]  # type: ignore[attr-defined]  # as above

    assert [0, 1, 2, 0, 1] == asyncio.run(awaited())
    eventually(lambda: machine.in_flight == 0)


def kill(cluster: bigm.Cluster, machine: bigm.Machine) -> None:
    """End a machine as a failure does: its worker's process, or where that is ours, the machine from outside."""
    system = cluster._system
    if isinstance(system, InProcess):
        system.kill(next(each.instance.id for each in cluster._stewards if each.machine is machine))
    else:
        machine.submit("F.kill", signal.SIGKILL)


def test_a_machine_that_dies_in_the_middle_of_a_stream_says_why(cluster: bigm.Cluster) -> None:
    [machine] = cluster.start(1, services={"F": Flow()})
    stream = machine.stream("F.slow")
    assert 0 == next(stream)
    sent = itertools.count()
    total = machine.submit("F.total", sent)
    eventually(lambda: next(sent) > 1000)
    kill(cluster, machine)
    with pytest.raises(bigm.MachineStopped) as caught:
        for _ in stream:
            pass
    assert caught.value.cause in (bigm.Cause.SIGNAL, bigm.Cause.AGENT_LOST)
    with pytest.raises(bigm.MachineStopped):
        total.result(20.0)
    with pytest.raises(bigm.MachineStopped):
        machine.stream("F.count", 1)


def test_shutdown_ends_open_streams(cluster: bigm.Cluster) -> None:
    [machine] = cluster.start(1, services={"F": Flow()})
    stream = machine.stream("F.slow")
    next(stream)
    cluster.shutdown()
    with pytest.raises(bigm.MachineStopped, match="shut down"):
        for _ in stream:
            pass


def test_a_reader_that_leaves_closes_the_generator_on_the_machine(cluster: bigm.Cluster) -> None:
    [machine] = cluster.start(1, services={"F": Flow()})
    for _ in machine.stream("F.endless"):
        break
    eventually(lambda: machine.call("F.times_closed") == 1)


def test_streams_flow_from_machine_to_machine(cluster: bigm.Cluster) -> None:
    machines = cluster.start(3, services={"F": Flow()})
    cluster.wait(machines)
    others = [machine.addr for machine in machines[1:]]
    assert sum(range(2000)) + 2 * 2000 == machines[0].call("F.relay", others, 2000)


def test_calls_back_and_forth_do_not_deadlock(cluster: bigm.Cluster) -> None:
    machines = cluster.start(2, services={"F": Flow()})
    cluster.wait(machines)
    addrs = [machine.addr for machine in machines]
    assert 40 == machines[0].options(timeout=60.0).call("F.ping_pong", addrs, 40)


def test_a_machine_that_dies_ends_the_streams_that_others_read_of_it(cluster: bigm.Cluster) -> None:
    reader, writer = cluster.start(2, services={"F": Flow()})
    cluster.wait()
    reading = reader.submit("F.pull", writer.addr)
    eventually(lambda: writer.call("F.times_read") > 1)
    kill(cluster, writer)
    failure = reading.exception(30.0)
    assert isinstance(failure, (bigm.ServiceError, bigm.WireError)), failure
    assert reader.state is bigm.State.RUNNING
