"""EC2 as its users see it, on the rig: the contract of a system, the command, and what is asked of AWS."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bigm
from bigm.systems.ec2.system import Ec2
from bigm.testing import check_system
from ec2rig.cloud import image_by_id
from ec2rig.driving import run_bigm, start_machines
from ec2rig.rig import Rig
from waiting import eventually

PROGRAM = """
import bigm

class Adder:
    def add(self, a, b):
        print("adding", flush=True)
        return a + b

with bigm.start() as cluster:
    machines = cluster.start(cluster.nmach, services={"Adder": Adder()})
    cluster.wait(machines)
    print(sum(machine.call("Adder.add", 1, 2) for machine in machines))
"""


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with Rig() as rig:
        rig.use(monkeypatch)
        yield rig
        assert rig.is_empty(), f"left: {rig.running()}\n{rig.describe()}"


def test_ec2_keeps_the_contract_of_a_system(rig: Rig) -> None:
    check_system(lambda: Ec2(address_service=rig.address_service), timeout=30.0)
    refused = [(call.operation, call.code) for call in rig.calls() if call.code and "DryRun" not in call.parameters]
    assert [] == refused, "what doctor only asks about is refused by design"


def test_the_command_forms_five_machines_runs_the_program_and_leaves_nothing(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "none.txt").touch()
    words = ["run", "--requirements", "none.txt", "program.py", "--system", "ec2", "--nmach", "5"]
    environ = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(bigm.__file__).parents[1])}
    ran = run_bigm(*words, cwd=tmp_path, env=environ)
    assert (0, "15\n") == (ran.returncode, ran.stdout), ran.stderr
    assert "starting 5 machines on ec2" in ran.stderr
    assert "0 machines left" in ran.stderr
    eventually(rig.is_empty, 10.0, rig.describe)
    made = [call.operation for call in rig.calls() if not call.operation.startswith(("Describe", "Get", "Terminate"))]
    assert sorted(made) == [
        "AuthorizeSecurityGroupIngress",  # machines to one another
        "AuthorizeSecurityGroupIngress",  # the driver
        "CreateFleet",
        "CreateLaunchTemplate",
        "CreateSecurityGroup",
        "DeleteLaunchTemplate",
        "RevokeSecurityGroupIngress",
    ]
    [fleet] = rig.calls("CreateFleet")
    assert 5 == fleet.parameters["TargetCapacitySpecification"]["TotalTargetCapacity"]


def test_without_any_settings_machines_are_of_a_fitting_image_in_a_group_of_ours(rig: Rig) -> None:
    with bigm.start("ec2", name="defaults") as cluster:
        [machine] = start_machines(cluster, 1)
        [id] = rig.running()
        assert (id, True) == (machine.instance.id, machine.instance.spot)
        assert ["bigm"] == [group.name for group in rig.cloud.instance(id).security_groups]
        image = image_by_id(rig.cloud.instance(id).image_id)
        assert "{}.{}".format(*sys.version_info) == image.minor
        assert [image.root] == list(rig.cloud.instance(id).block_device_mapping), "another would be a second disk"
        assert [f"{rig.address}/32"] == rig.cloud.let_in()
    assert [] == rig.cloud.let_in()


# By time; and what nobody waits for, so that a quick run is over before it is asked.
AT_THEIR_OWN_PACE = ("DescribeInstances", "DescribeSpotPriceHistory", "GetProducts")


def test_requests_do_not_grow_with_the_machines(rig: Rig) -> None:
    counts = []
    for n in (1, 1, 6):  # what is found out first is kept for later
        before = len(rig.calls())
        with bigm.start("ec2", name="counted") as cluster:
            start_machines(cluster, n)
        asked = [call.operation for call in rig.calls()[before:]]
        counts.append(sorted(name for name in asked if name not in AT_THEIR_OWN_PACE))
    assert counts[1] == counts[2]


@pytest.mark.parametrize(
    ("options", "says"), [({"instance_types": ["m7i.lrge"]}, "m7i.lrge"), ({"image": "/no/such"}, "image")]
)
def test_a_wrong_setting_is_told_before_a_bundle_is_made(rig: Rig, options: dict[str, Any], says: str) -> None:
    with bigm.start("ec2", bundle={"requirements": "/no/such/file"}, ec2=options) as cluster:
        with pytest.raises(bigm.ConfigError, match=says):
            cluster.start(2)
