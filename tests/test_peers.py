"""Machines as arguments and results, and machines that call one another, on both systems."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import bigm
from bigm.peer import Peer


class Node:
    """Knows some machines, and passes them on."""

    def __init__(self, friends: tuple[Any, ...] = ()) -> None:
        self.friends = list(friends)
        self.found: list[object] = []

    def setup(self, cluster: Any) -> None:
        self.cluster = cluster

    def me(self) -> str:
        return self.cluster.machine  # type: ignore[no-any-return]

    def who_calls(self) -> str:
        return bigm.current_call().peer.uri

    def ask(self, machine: Any, method: str, *args: Any) -> Any:
        return machine.call(method, *args)

    def kind(self, machine: Any) -> tuple[str, bool]:
        """What it has become, and whether it is what the address gives."""
        return type(machine).__name__, machine is self.cluster.dial(machine.addr) is self.cluster.dial(machine)

    def keep(self, machine: Any) -> None:
        self.friends.append(machine)

    def give(self) -> list[Any]:
        return self.friends

    def ask_friends(self) -> list[str]:
        return [friend.call("N.me") for friend in self.friends]

    def ask_handle(self, handle: Any) -> str:
        return handle.me()  # type: ignore[no-any-return]

    def carry(self, machine: Any) -> None:
        raise Carrying(machine)

    def in_a_thread(self, pickled: bytes) -> str:
        """Rebuild a handle where no call runs, as a service's own thread may."""
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(pickle.loads(pickled)))
        thread.start()
        thread.join()
        return found[0].call("N.who_calls")  # type: ignore[no-any-return]

    def pickled_here(self, pickled: bytes) -> str:
        return pickle.loads(pickled).call("N.who_calls")  # type: ignore[no-any-return]

    def the_cluster(self) -> Any:
        return self.cluster

    def there_and_back(self, here: Any, there: Any, depth: int) -> int:
        """Call *there*, which calls *here*, which calls *there*..."""
        return 0 if depth == 0 else 1 + there.call("N.there_and_back", there, here, depth - 1)

    def many(self, machines: list[Any], count: int) -> list[str]:
        calls = [machine.submit("N.me") for machine in machines for _ in range(count)]
        return self.cluster.gather(calls)  # type: ignore[no-any-return]


class Carrying(Exception):
    """Carries a machine."""

    def __init__(self, machine: Any) -> None:
        super().__init__(machine)
        self.machine = machine


@pytest.fixture(scope="module", params=["inprocess", "local"])
def cluster(request: pytest.FixtureRequest) -> Iterator[bigm.Cluster]:
    with bigm.start(request.param, name="nodes") as cluster:
        cluster.wait(cluster.start(3, services={"N": Node()}), timeout=60.0)
        yield cluster


def uri(cluster: bigm.Cluster, machine: bigm.Machine) -> str:
    return f"bigm://{cluster.id}/machine/{machine.id}/worker/0"


def test_a_machine_that_is_passed_on_can_be_called_by_the_machine_that_got_it(cluster: bigm.Cluster) -> None:
    m0, m1, m2 = cluster.machines
    assert m0.call("N.ask", m1, "N.me") == m1.id
    assert m0.call("N.kind", m1) == ("Peer", True)
    assert m0.call("N.ask", m1, "N.ask", m2, "N.me") == m2.id


def test_a_machine_may_be_passed_itself(cluster: bigm.Cluster) -> None:
    m0 = cluster.machines[0]
    assert m0.call("N.ask", m0, "N.me") == m0.id


def test_calls_between_machines_are_made_with_the_callers_own_certificate(cluster: bigm.Cluster) -> None:
    m0, m1, _ = cluster.machines
    assert m1.call("N.who_calls") == f"bigm://{cluster.id}/driver"
    assert m0.call("N.ask", m1, "N.who_calls") == uri(cluster, m0)
    assert m1.call("N.ask", m0, "N.ask", m1, "N.who_calls") == uri(cluster, m0)


def test_a_machine_that_comes_back_is_the_drivers_own(cluster: bigm.Cluster) -> None:
    m0, m1, m2 = cluster.machines
    m0.call("N.keep", m1)
    m0.call("N.keep", m2)
    assert m0.call("N.give")[-2:] == [m1, m2]
    assert asyncio.run(m0.acall("N.give"))[-1] is m2
    assert m0.submit("N.give").result(10.0)[-1] is m2


def test_an_exception_can_bring_a_machine_back(cluster: bigm.Cluster) -> None:
    m0, m1, _ = cluster.machines
    with pytest.raises(Carrying) as caught:
        m0.call("N.carry", m1)
    assert caught.value.machine is m1


def test_a_service_can_be_started_with_machines_it_knows(cluster: bigm.Cluster) -> None:
    m0, m1, _ = cluster.machines
    [knowing] = cluster.start(1, services={"N": Node((m0, m1))})
    assert knowing.call("N.ask_friends") == [m0.id, m1.id]
    knowing.shutdown()


def test_views_and_typed_handles_can_be_passed_too(cluster: bigm.Cluster) -> None:
    m0, m1, _ = cluster.machines
    assert m0.call("N.ask", m1.options(timeout=20.0, proc=0), "N.me") == m1.id
    handle = m1.service("N", Node)
    assert handle.me() == m1.id
    assert m0.call("N.ask_handle", handle) == m1.id


def test_a_function_can_be_run_with_machines(cluster: bigm.Cluster) -> None:
    m0, m1, _ = cluster.machines
    assert m0.run(Peer.call, m1, "N.who_calls") == uri(cluster, m0)
    assert m0.run(lambda machine: machine.call("N.me"), m1) == m1.id


def test_a_handle_that_a_method_unpickles_is_the_machines_own(cluster: bigm.Cluster) -> None:
    m0, m1, _ = cluster.machines
    assert m0.call("N.pickled_here", pickle.dumps(m1)) == uri(cluster, m0)


def test_a_handle_unpickled_in_a_services_own_thread_is_the_machines_own() -> None:
    with bigm.start("local", name="threads") as cluster:
        m0, m1 = cluster.start(2, services={"N": Node()})
        cluster.wait()
        assert m0.call("N.in_a_thread", pickle.dumps(m1)) == uri(cluster, m0)


def test_on_the_driver_a_handle_is_copied_and_unpickled_as_itself(cluster: bigm.Cluster) -> None:
    m0, _, _ = cluster.machines
    assert pickle.loads(pickle.dumps(m0)) is copy.deepcopy(m0) is cluster.dial(m0) is m0


def test_a_machine_of_another_cluster_is_refused_with_both_their_names(cluster: bigm.Cluster) -> None:
    m0 = cluster.machines[0]
    with bigm.start("inprocess", name="others") as others:
        [stranger] = others.start(1, services={"N": Node()})
        stranger.wait(timeout=30.0)
        for here, there in ((m0, stranger), (stranger, m0)):
            with pytest.raises(bigm.NotPicklable, match=f"{there.addr} belongs to cluster .*not open here"):
                here.call("N.ask", there, "N.me")
        with pytest.raises(bigm.ConfigError, match=f"belongs to cluster {others.id}, and this is {cluster.id}"):
            cluster.dial(stranger)
        pickled = pickle.dumps(stranger)
        assert pickle.loads(pickled) is stranger
    with pytest.raises(bigm.ConfigError, match="is shut down"):
        pickle.loads(pickled)
    del others, stranger


@pytest.mark.parametrize("wrong", [3, None, ("127.0.0.1", 3)])
def test_what_is_no_machine_cannot_be_dialled(cluster: bigm.Cluster, wrong: Any) -> None:
    with pytest.raises(bigm.ConfigError, match="cannot dial"):
        cluster.dial(wrong)


def test_neither_the_drivers_cluster_nor_a_machines_view_of_it_can_be_sent(cluster: bigm.Cluster) -> None:
    m0 = cluster.machines[0]
    with pytest.raises(bigm.NotPicklable, match="argument 1: a cluster belongs to the process that opened it"):
        m0.call("N.keep", cluster)
    with pytest.raises(bigm.NotPicklable, match="as this machine sees it"):
        m0.call("N.the_cluster")


def test_two_machines_that_call_one_another_fifty_levels_deep_do_not_block(cluster: bigm.Cluster) -> None:
    m0, m1, _ = cluster.machines
    assert m0.options(timeout=60.0).call("N.there_and_back", m0, m1, 50) == 50


def test_every_machine_calls_every_other_at_once(cluster: bigm.Cluster) -> None:
    machines = cluster.machines
    answers = cluster.gather(machine.submit("N.many", machines, 20) for machine in machines)
    assert answers == [[machine.id for machine in machines for _ in range(20)]] * len(machines)
