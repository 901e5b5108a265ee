"""The ways to real machines on the rig: through a command, at private addresses, and from a computer that has moved."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import bigm
from bigm.parts import Parts
from bigm.systems.ec2.system import Ec2
from ec2rig.rig import Rig
from handmade import make_bundle
from proxies import proxy_command
from waiting import eventually


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with Rig() as rig:
        rig.use(monkeypatch)
        yield rig
        assert rig.is_empty(), f"left: {rig.running()}\n{rig.describe()}"


def start_machines(cluster: bigm.Cluster, n: int) -> list[bigm.Machine]:
    with tempfile.TemporaryDirectory() as folder:
        machines = cluster.start(n, bundle=make_bundle(Parts(folder), **{"empty.py": b""}))
        cluster.wait(machines, timeout=60.0)
    return machines


def commands() -> dict[int, int]:
    """The proxy commands that run: the process that started each, by the process."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        if any(word.endswith(b"/proxies.py") for word in words):
            found[int(entry.name)] = int(stat[1])
    return found


def test_machines_behind_a_command_are_called_and_kept_through_it_and_no_command_is_left(rig: Rig) -> None:
    system = Ec2(connect="ssh", proxy_command=proxy_command("%h", "%p"), own_address=rig.address)
    with bigm.start(system, name="behind") as cluster:
        machines = start_machines(cluster, 2)
        assert [3, 3] == [machine.run(sum, [1, 2]) for machine in machines]
        parents = set(commands().values())
        assert os.getpid() in parents
        eventually(lambda: set(commands().values()) - {os.getpid()}, 10.0, "the keeper has ways of its own")
    assert {} == commands()
    eventually(rig.is_empty, 10.0, rig.describe)


def test_a_command_that_fails_says_why_in_the_error_of_the_launch(rig: Rig) -> None:
    system = Ec2(connect="ssh", proxy_command="sh -c 'echo no route to %h >&2; exit 255'", own_address=rig.address)
    with bigm.start(system, name="shut", timeouts={"boot": 5.0}) as cluster:
        with pytest.raises(bigm.BigmError, match=r"the proxy command ended with code 255: no route to 127\."):
            start_machines(cluster, 1)


def test_machines_reach_one_another_at_private_addresses_whatever_way_the_driver_takes(rig: Rig) -> None:
    with bigm.start(Ec2(connect="private", own_address=rig.address), name="private") as cluster:
        first, second = start_machines(cluster, 2)
        locator, _, _ = second.addr.partition("/")
        private = [rig.cloud.instance(id).private_ip for id in rig.running()]
        assert locator.rpartition(":")[0] in private
        dial = f"__import__('bigm.routes').routes.reach('', {locator!r}, 5.0).getpeername()"
        assert locator == "{}:{}".format(*first.run(eval, dial))


def test_a_computer_whose_address_was_told_wrong_gets_in_when_it_is_told_right(rig: Rig) -> None:
    """The service told another address before: instances do not answer, until the dial has it looked at again."""
    rig.told = "192.0.2.99"
    rig.after("CreateFleet", lambda _: setattr(rig, "told", rig.address))
    with bigm.start(Ec2(address_service=rig.address_service), name="moved") as cluster:
        (machine,) = start_machines(cluster, 1)
        assert 3 == machine.run(sum, [1, 2])
    opened = [
        call.parameters["IpPermissions"][0]["IpRanges"] for call in rig.calls("AuthorizeSecurityGroupIngress")[1:]
    ]
    assert ["192.0.2.99/32", f"{rig.address}/32"] == [sources[0]["CidrIp"] for sources in opened]
