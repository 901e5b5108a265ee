"""EC2 as its users see it, on the rig: the contract of a system, the command, and what is asked of AWS."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bigm
from bigm.systems.ec2.system import Ec2
from bigm.testing import check_system
from ec2rig.driving import start_machines
from ec2rig.rig import Rig
from launching import Launching
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
        for name, value in rig.environ.items():
            monkeypatch.setenv(name, value)
        yield rig
        assert rig.is_empty(), f"left: {rig.running()}\n{rig.describe()}"


def only(found: list[Any]) -> Any:
    [one] = found
    return one


def test_ec2_keeps_the_contract_of_a_system(rig: Rig) -> None:
    check_system(lambda: Ec2(address_service=rig.address_service), timeout=30.0)
    assert "" == "".join(call.code for call in rig.calls()), "no request was refused"


def test_the_command_forms_five_machines_runs_the_program_and_leaves_nothing(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "none.txt").touch()
    words = ["run", "--requirements", "none.txt", "program.py", "--system", "ec2", "--nmach", "5"]
    ran = subprocess.run(
        [sys.executable, "-m", "bigm", *words],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(bigm.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
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
    assert [5] == [call.parameters["TargetCapacitySpecification"]["TotalTargetCapacity"] for call in fleets(rig)]


def fleets(rig: Rig) -> list[Any]:
    return rig.calls("CreateFleet")


def test_all_that_an_instance_is_to_be_is_in_the_requests_that_make_it(rig: Rig) -> None:
    with bigm.start("ec2", name="requests") as cluster:
        start_machines(cluster, 1)
        [id] = rig.running()
        instance = rig.cloud.instance(id)
        assert "terminate" == instance.instance_initiated_shutdown_behavior
        assert "spot" == instance.lifecycle
    data = only(rig.calls("CreateLaunchTemplate")).parameters["LaunchTemplateData"]
    assert ("required", 1) == (
        data["MetadataOptions"]["HttpTokens"],
        data["MetadataOptions"]["HttpPutResponseHopLimit"],
    )
    root = data["BlockDeviceMappings"][0]
    assert "/dev/xvda" == root["DeviceName"], "of Debian's images; another would be a second disk"
    assert {"VolumeSize": 50, "VolumeType": "gp3", "DeleteOnTermination": True} == root["Ebs"]
    card = only(data["NetworkInterfaces"])
    assert card["AssociatePublicIpAddress"] is True
    assert ["bigm"] == [rig.cloud.ec2.get_security_group_from_id(group).name for group in card["Groups"]]
    fleet = only(fleets(rig)).parameters
    assert "instant" == fleet["Type"]
    assert "price-capacity-optimized" == fleet["SpotOptions"]["AllocationStrategy"]
    assert fleet["ClientToken"]
    assert "MaxTotalPrice" not in fleet["SpotOptions"]
    bear = {each["ResourceType"]: each["Tags"] for each in [*data["TagSpecifications"], *fleet["TagSpecifications"]]}
    assert {"instance", "volume", "network-interface"} <= set(bear)
    for kind in ("instance", "volume", "network-interface"):
        tags = {tag["Key"]: tag["Value"] for tag in bear[kind]}
        assert {"Name", "bigm:cluster", "bigm:launch", "bigm:user", "bigm:expires", "bigm:version"} <= set(tags), kind
        assert len(tags["Name"]) <= 255


def test_requests_do_not_grow_with_the_machines(rig: Rig) -> None:
    counts = []
    for n in (1, 1, 6):  # what is found out first is kept for later
        before = len(rig.calls())
        with bigm.start("ec2", name="counted") as cluster:
            start_machines(cluster, n)
        asked = [call for call in rig.calls()[before:] if call.operation != "DescribeInstances"]
        counts.append(sorted(call.operation for call in asked))
    assert counts[1] == counts[2]


@pytest.mark.parametrize(
    ("purchase", "bought"), [("spot", "sss"), ("on-demand", "ddd"), ("spot-else-on-demand", "sdd"), ("2", "dds")]
)
def test_instances_are_bought_as_the_policy_says(rig: Rig, purchase: str, bought: str) -> None:
    rig.limit({"spot-else-on-demand": 1}.get(purchase, 9), spot=True)
    system = Ec2(purchase=purchase, address_service=rig.address_service)
    with contextlib.closing(system):
        launched = Launching(system).launch(3)
        assert sorted(bought) == sorted("s" if each.spot else "d" for each in launched.instances)
        assert () == launched.failures
    eventually(rig.is_empty, 10.0, rig.describe)
