"""What goes wrong between a driver and instances that were launched, and what its user is told."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bigm
from bigm import State
from bigm.bundle.bundle import Bundle
from bigm.errors import BigmError, CapacityError, MachineStopped
from bigm.parts import Parts
from ec2rig.driving import start_machines
from ec2rig.rig import Rig
from handmade import make_bundle
from waiting import eventually


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with Rig() as rig:
        rig.use(monkeypatch)
        yield rig


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(Parts(str(tmp_path)), data=b"next to nothing")


def test_an_instance_that_never_boots_is_told_of_with_its_console_and_ended(rig: Rig, bundle: Bundle) -> None:
    rig.boots = lambda number: math.inf
    with bigm.start("ec2", timeouts={"boot": 2.0}) as cluster:
        [machine] = cluster.start(1, bundle=bundle)
        with pytest.raises(BigmError, match=r"Linux version 6\.1\.0") as caught:
            cluster.wait([machine], timeout=60.0)
        assert 75 == caught.value.exit_code
        eventually(rig.is_empty, 30.0)


@pytest.mark.slow
def test_an_instance_that_boots_late_is_awaited(rig: Rig) -> None:
    rig.boots = lambda number: 3.0
    with bigm.start("ec2") as cluster:
        [machine] = start_machines(cluster, 1)
        assert State.RUNNING == machine.state


@pytest.mark.slow
def test_a_computer_that_has_moved_since_it_asked_for_its_address_is_let_in(rig: Rig) -> None:
    rig.told = "198.51.100.99"
    rig.after("CreateFleet", lambda request: rig.move("198.51.100.8"))
    with bigm.start("ec2") as cluster:
        [machine] = start_machines(cluster, 1)
        assert State.RUNNING == machine.state
        assert "198.51.100.8/32" in rig.cloud.let_in()
    assert [] == rig.cloud.let_in()


def test_a_port_that_stays_closed_is_explained(rig: Rig, bundle: Bundle) -> None:
    rig.address = "203.0.113.50"  # the address service tells another, as behind two lines
    with bigm.start("ec2", timeouts={"boot": 8.0, "dial": 3.0}) as cluster:
        [machine] = cluster.start(1, bundle=bundle)
        with pytest.raises(BigmError, match=r"198\.51\.100\.7") as caught:
            cluster.wait([machine], timeout=60.0)
        assert "8410" in str(caught.value)
    eventually(rig.is_empty, 30.0)


def test_a_machine_that_was_taken_away_silently_stops_within_seconds(rig: Rig) -> None:
    with bigm.start("ec2", timeouts={"keepalive": 3.0, "ping": 2.0}) as cluster:
        taken, left = start_machines(cluster, 2)
        call = taken.submit("Functions.run", time.sleep, 60.0)
        rig.take_away(taken.instance.id)
        began = time.monotonic()
        with pytest.raises(MachineStopped, match="terminated by a request to AWS"):
            call.result(60.0)
        assert time.monotonic() - began < 45.0, "half a lease"
        assert State.RUNNING == left.state


@pytest.mark.slow
def test_a_recycled_address_is_not_taken_for_the_machine_that_had_it(rig: Rig) -> None:
    with bigm.start("ec2", name="first") as first, bigm.start("ec2", name="second") as second:
        [gone] = start_machines(first, 1)
        id = gone.instance.id
        rig.fail("DescribeInstances", "InternalError", times=3)  # it is not AWS that tells
        rig.take_away(id)
        address = rig.recycle(id)
        [other] = start_machines(second, 1)
        assert address in other.addr
        with pytest.raises(BigmError):
            gone.options(timeout=30.0).run(int)
        assert 0 == other.run(int)
        eventually(lambda: gone.state is State.STOPPED, 30.0)


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("InsufficientInstanceCapacity", 77, "name more types"),
        ("VcpuLimitExceeded", 77, "L-1216C47A"),
        ("UnauthorizedOperation", 76, "ec2:RunInstances"),
        ("InvalidKeyPair.NotFound", 2, "ec2.key_pair"),
        ("ExpiredToken", 76, "aws sso login"),
    ],
)
def test_what_aws_says_of_its_pools_ends_the_program_with_what_to_do(
    rig: Rig, bundle: Bundle, code: str, exit_code: int, said: str
) -> None:
    rig.limit(0, code)
    with bigm.start("ec2") as cluster:
        with pytest.raises(BigmError) as caught:
            cluster.start(2, bundle=bundle)
    assert (exit_code, True) == (caught.value.exit_code, said in str(caught.value)), str(caught.value)
    assert rig.is_empty()


def test_throttling_of_some_seconds_delays_a_launch_and_no_more(rig: Rig) -> None:
    rig.fail("*", "RequestLimitExceeded", times=10_000, seconds=4.0)
    with bigm.start("ec2") as cluster:
        assert [State.RUNNING] * 2 == [machine.state for machine in start_machines(cluster, 2)]


def test_with_fewer_machines_than_are_enough_none_is_left(rig: Rig, bundle: Bundle) -> None:
    rig.limit(2)
    with bigm.start("ec2", min_mach=3) as cluster, pytest.raises(CapacityError, match="of 4 instances"):
        cluster.start(4, bundle=bundle)
    eventually(rig.is_empty, 30.0)
