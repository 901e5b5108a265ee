"""Machines on hosts that call one another: by way of the driver, directly, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import bigm
import sshd
from bigm.errors import ConfigError, NotSupported
from bigm.systems.ssh.system import Ssh

pytestmark = pytest.mark.skipif(bool(sshd.MISSING), reason=sshd.MISSING)


@pytest.fixture(scope="module")
def rig() -> Iterator[sshd.Rig]:
    with sshd.Rig() as rig:
        rig.add("alpha")
        rig.add("beta")
        rig.add("apart", settings={"AllowStreamLocalForwarding": "local"})
        yield rig


class Speaker:
    """Calls other machines."""

    def setup(self, cluster: Any) -> None:
        self.cluster = cluster

    def echo(self, value: Any) -> Any:
        return value

    def ask(self, address: str, value: Any) -> Any:
        return self.cluster.dial(address).call("S.echo", value)

    def locator(self, address: str) -> str:
        """Where the connection to a machine really leads."""
        peer = self.cluster.dial(address)
        sock = peer._link.connect(peer._locator, 5.0)
        with sock:
            name = sock.getpeername()
            return str(name if isinstance(name, str) else f"{name[0]}:{name[1]}")


def start(rig: sshd.Rig, hosts: str, n: int, peers: str) -> Any:
    cluster = bigm.start(Ssh(hosts=hosts, config=rig.config, peers=peers, in_place=True))
    try:
        machines = cluster.start(n, services={"S": Speaker()})
        cluster.wait(machines)
    except BaseException:
        cluster.shutdown()
        raise
    return cluster


def test_machines_on_different_hosts_call_one_another_by_way_of_the_driver(rig: sshd.Rig) -> None:
    with start(rig, "alpha,beta*2", 3, "driver") as cluster:
        machines = cluster.machines
        big = bytes(range(256)) * 40_000
        for caller in machines:
            for other in machines:
                assert "hello" == caller.call("S.ask", other.addr, "hello")
        assert big == machines[0].call("S.ask", machines[1].addr, big)
        near, far = (m for m in machines[:2] if "beta" in m.addr), (m for m in machines if "alpha" in m.addr)
        neighbours = [machine for machine in machines if "ssh:beta#" in machine.addr]
        assert neighbours[0].call("S.locator", neighbours[1].addr).endswith("/s")
        assert next(far).call("S.locator", next(near).addr).endswith("/relay")
    assert rig["alpha"].is_empty()
    assert rig["beta"].is_empty()


@pytest.mark.slow
def test_machines_that_can_dial_one_another_do_so_directly(rig: sshd.Rig) -> None:
    with start(rig, "alpha,beta", 2, "direct") as cluster:
        first, second = cluster.machines
        assert "hello" == first.call("S.ask", second.addr, "hello")
        assert second.addr.rpartition("/")[0] == first.call("S.locator", second.addr)
        assert {"127.99.0.1", "127.99.0.2"} == {machine.addr.partition(":")[0] for machine in (first, second)}


@pytest.mark.slow
def test_machines_that_are_to_be_apart_refuse_to_call_one_another(rig: sshd.Rig) -> None:
    with start(rig, "alpha,beta", 2, "off") as cluster:
        first, second = cluster.machines
        with pytest.raises(NotSupported, match=r"cannot reach ssh:beta#1 from here: machines of this cluster are kept"):
            first.call("S.ask", second.addr, "hello")


@pytest.mark.slow
def test_a_host_that_forwards_nothing_back_has_machines_that_say_so_to_one_another(rig: sshd.Rig) -> None:
    with start(rig, "apart,beta", 2, "driver") as cluster:
        apart, second = cluster.machines
        assert "hello" == second.call("S.ask", apart.addr, "hello")
        with pytest.raises(NotSupported, match=r"cannot reach ssh:beta#1 from here: apart: ssh could not forward"):
            apart.call("S.ask", second.addr, "hello")


def test_a_way_between_machines_that_is_none_is_refused(rig: sshd.Rig) -> None:
    with pytest.raises(ConfigError, match=r"ssh\.peers must be driver, direct or off, not 'maybe'"):
        Ssh(hosts="alpha", peers="maybe")


@pytest.mark.slow
def test_machines_that_come_when_all_others_have_ended_are_led_to_one_another_too(rig: sshd.Rig) -> None:
    with start(rig, "alpha,beta", 2, "driver") as cluster:
        cluster.shutdown(cluster.machines)
        first, second = cluster.start(2, services={"S": Speaker()})
        cluster.wait([first, second])
        assert "hello" == first.call("S.ask", second.addr, "hello")
