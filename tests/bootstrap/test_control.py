"""The channel between agent and worker, both ends joined."""

from __future__ import annotations

import os
import socket

import pytest

from bigm.bootstrap.control import FAILED, AgentEnd, WorkerEnd
from bigm.bootstrap.records import SERVING, Main, WorkerSpec


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    agent, worker = AgentEnd(ours), WorkerEnd(theirs.detach())
    yield agent, worker
    agent.close()
    worker.close()


def spec(**fields) -> WorkerSpec:
    return WorkerSpec(0, "/usr/bin/python3", "bigm://c/machine/m0/worker/0", b"ca", b"cert", b"key", **fields)


def test_a_spec_arrives_as_it_was_but_for_its_environment(ends):
    agent, worker = ends
    sent = spec(main=Main("module", "pkg.main"), argv=("a", "ü\udcff"), sys_path=("", "/x"), env={"A": "1"}, procs=3)
    agent.start(sent, 5.0)
    received = worker.receive(5.0)
    assert received == sent._replace(env={})


def test_connections_arrive_in_order_among_beats_and_can_be_used(ends):
    agent, worker = ends
    pairs = [socket.socketpair() for _ in range(5)]
    for number, (_, far) in enumerate(pairs):
        assert agent.hand_over(far)
        assert agent.beat(number)
        far.close()
    for number, (near, _) in enumerate(pairs):
        connection = worker.receive(5.0)
        assert worker.receive(5.0) == number
        assert not connection.get_inheritable()
        connection.sendall(b"%d" % number)
        assert near.recv(10) == b"%d" % number
        connection.close()
        near.close()


def test_a_worker_that_reads_nothing_is_refused_connections_and_never_waited_for(ends):
    agent, worker = ends
    near, far = socket.socketpair()
    accepted = 0
    while agent.hand_over(far):
        accepted += 1
        assert accepted < 100_000
    assert accepted > 20
    assert not agent.beat(1)
    for _ in range(accepted):
        worker.receive(5.0).close()
    assert agent.beat(2)
    assert worker.receive(5.0) == 2
    near.close()
    far.close()


def test_the_worker_tells_that_it_serves_or_why_it_cannot(ends):
    agent, worker = ends
    worker.serving()
    worker.failed("Traceback ...\nNameError: x")
    assert agent.heard() == ([(SERVING, ""), (FAILED, "Traceback ...\nNameError: x")], True)
    assert agent.heard() == ([], True)


def test_each_end_learns_of_the_other_ends_death(ends):
    agent, worker = ends
    worker.close()
    assert agent.heard() == ([], False)
    assert not agent.beat(1)
    agent.start(spec(), 1.0)  # says nothing: the death is told by `heard`


def test_the_worker_learns_of_the_agents_death_and_of_its_silence(ends):
    agent, worker = ends
    with pytest.raises(TimeoutError):
        worker.receive(0.01)
    agent.close()
    assert worker.receive(5.0) is None
    worker.serving()


def test_a_spec_nobody_reads_is_given_up_in_time(ends):
    agent, _ = ends
    with pytest.raises(TimeoutError):
        agent.start(spec(argv=("x" * (4 << 20),)), 0.05)


def test_descriptors_are_not_inherited_by_the_workers_own_children(ends):
    _, worker = ends
    assert not os.get_inheritable(worker._sock.fileno())
