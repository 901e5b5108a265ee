"""What machines on EC2 cost beyond AWS itself: on the rig of the tests, where a fleet is processes on this computer.

The limit beside it is the same rig without bigm: as many instances, launched by boto3, that answer on their port. What
a real account takes for a fleet, a boot and its network is not measured here.
"""

from __future__ import annotations

import base64
import socket
import sys
import time
from pathlib import Path

import boto3
from measure import Row, alternate

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from ec2rig.cloud import IMAGES
from ec2rig.driving import Driver
from ec2rig.rig import PORT, Rig
from waiting import eventually

_FEW, _MANY = 5, 50  # instances
_LEASE = 120.0  # seconds; longer than any measurement
_ANSWERS = """
import http.client, os, socket, urllib.parse
base = urllib.parse.urlsplit(os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"])
def ask(method, path, headers):
    service = http.client.HTTPConnection(base.netloc)
    service.request(method, base.path + path, headers=headers)
    return service.getresponse().read().decode()
token = ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
address = ask("GET", "/latest/meta-data/local-ipv4", {"X-aws-ec2-metadata-token": token})
listener = socket.create_server((address, 8410))
while True:
    listener.accept()[0].close()
"""
_USER_DATA = f"""#cloud-config
write_files:
- {{path: /opt/bigm/boot.py, encoding: b64, content: {base64.b64encode(_ANSWERS.encode()).decode()}}}
- {{path: /etc/systemd/system/bigm.service, content: "ExecStart=/usr/bin/python3 -I -S /opt/bigm/boot.py"}}
"""


def rows(repeats: int) -> list[Row]:
    """Measure."""
    changes: dict[int, int] = {}
    took = alternate(
        {
            "few": lambda: start(_FEW, changes),
            "bare": lambda: launch(_FEW),
            "many": lambda: start(_MANY, changes),
        },
        min(repeats, 2),  # fifty machines on this computer take it a while
    )
    few, many = changes[_FEW], changes[_MANY]
    return [
        Row(
            f"ec2: {_FEW} machines, from the cluster to RUNNING",
            f"{took['few']:.1f} s",
            f"{took['bare']:.1f} s boto3 and a process each",
            took["few"] / took["bare"],
            1.5,
            1.2,
            note="on the rig; the processes of the limit are brought nothing and start no worker",
        ),
        Row(
            f"ec2: {_MANY} machines",
            f"{took['many']:.1f} s",
            f"{took['few']:.1f} s for {_FEW}",
            took["many"] / took["few"],
            3.0,
            2.0,
        ),
        Row(
            f"ec2: requests that change something, {_MANY} machines",
            f"{many}",
            f"{few} for {_FEW}",
            many / few,
            1.0,
            1.0,
        ),
    ]


def start(n: int, changes: dict[int, int]) -> float:
    """Start *n* machines by a driver of its own process: seconds. *changes* gets the requests that made or ended."""
    with Rig() as rig, Driver(rig, n, _LEASE) as driver:
        driver.reaches("open")
        began = time.perf_counter()
        driver.reaches("running")
        took = time.perf_counter() - began
        changes[n] = len([call for call in rig.calls() if not call.operation.startswith(("Describe", "Get"))])
        return took


def launch(n: int) -> float:
    """Launch *n* instances without bigm, until each answers: seconds."""
    with Rig() as rig:
        names = {"aws_access_key_id": "rig", "aws_secret_access_key": "rig", "region_name": rig.cloud.region}
        ec2 = boto3.client("ec2", endpoint_url=rig.endpoint, **names)
        began = time.perf_counter()
        group = ec2.create_security_group(GroupName="bench", Description="bench")["GroupId"]
        ec2.authorize_security_group_ingress(
            GroupId=group, IpProtocol="tcp", FromPort=PORT, ToPort=PORT, CidrIp=f"{rig.address}/32"
        )
        data = {
            "ImageId": IMAGES[0].id,
            "UserData": base64.b64encode(_USER_DATA.encode()).decode(),
            "InstanceInitiatedShutdownBehavior": "terminate",
            "SecurityGroupIds": [group],
        }
        ec2.create_launch_template(LaunchTemplateName="bench", LaunchTemplateData=data)
        template = {"LaunchTemplateName": "bench", "Version": "1"}
        ec2.create_fleet(
            Type="instant",
            LaunchTemplateConfigs=[
                {"LaunchTemplateSpecification": template, "Overrides": [{"InstanceType": "m5.large"}]}
            ],
            TargetCapacitySpecification={"TotalTargetCapacity": n, "DefaultTargetCapacityType": "spot"},
        )
        for id in rig.running():
            address = rig.cloud.instance(id).private_ip
            eventually(lambda address=address: answers(address), 60.0, rig.describe)  # type: ignore[misc]
        return time.perf_counter() - began


def answers(address: str) -> bool:
    """Whether somebody listens at an instance's address."""
    with socket.socket() as probe:
        return probe.connect_ex((address, PORT)) == 0
