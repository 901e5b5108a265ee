"""The rig of the other tests of EC2 is like EC2: asked by plain boto3, with hand-written user data."""

from __future__ import annotations

import base64
import gzip
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from ec2rig.cloud import IMAGES
from ec2rig.rig import PORT, Rig
from waiting import eventually

PROGRAM = """
import json, os, socket, urllib.request
base = os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"]
def ask(path, **more):
    return urllib.request.urlopen(urllib.request.Request(base + path, **more)).read().decode()
token = ask("/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
address = ask("/latest/meta-data/local-ipv4", headers={"X-aws-ec2-metadata-token": token})
listener = socket.create_server((address, 8410))
print("listening", os.environ["GREETING"], flush=True)
while True:
    connection = listener.accept()[0]
    with connection:
        word = connection.recv(100)
        connection.sendall(address.encode())
        if word == b"end":
            os.system("systemctl --no-block poweroff")
"""
USER_DATA = f"""#cloud-config
write_files:
- path: /opt/bigm/boot.py
  encoding: b64
  content: {base64.b64encode(PROGRAM.encode()).decode()}
- path: /etc/systemd/system/bigm.service
  content: |
    [Service]
    Environment=GREETING=hello
    ExecStart=/usr/bin/python3 -I -S /opt/bigm/boot.py
"""


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with Rig() as rig:
        rig.use(monkeypatch)
        yield rig


@pytest.fixture
def ec2(rig: Rig) -> Any:
    return boto3.client("ec2", config=Config(retries={"total_max_attempts": 1}))


def make_template(ec2: Any, **more: Any) -> str:
    """A launch template whose group lets the rig's address in."""
    group = ec2.create_security_group(GroupName="test", Description="test")["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupId=group, IpProtocol="tcp", FromPort=PORT, ToPort=PORT, CidrIp="198.51.100.7/32"
    )
    data = {
        "ImageId": IMAGES[0].id,
        "UserData": base64.b64encode(gzip.compress(USER_DATA.encode())).decode(),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "SecurityGroupIds": [group],
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 50, "VolumeType": "gp3", "DeleteOnTermination": True}}
        ],
        **more,
    }
    ec2.create_launch_template(LaunchTemplateName="test", LaunchTemplateData=data)
    return str(group)


def ask_fleet(ec2: Any, count: int, *, types: tuple[str, ...] = ("m5.large",), **more: Any) -> dict[str, Any]:
    """A fleet of so many spot instances, in any of the default subnets."""
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]
    wanted: dict[str, Any] = {
        "Type": "instant",
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": "test", "Version": "$Latest"},
                "Overrides": [{"InstanceType": kind, "SubnetId": subnet} for kind in types for subnet in subnets],
            }
        ],
        "TargetCapacitySpecification": {"TotalTargetCapacity": count, "DefaultTargetCapacityType": "spot"},
        "SpotOptions": {"AllocationStrategy": "price-capacity-optimized"},
        **more,
    }
    made: dict[str, Any] = ec2.create_fleet(**wanted)
    return made


def launch(ec2: Any, count: int, **more: Any) -> list[str]:
    """Ids of what a fleet came to."""
    return [id for each in ask_fleet(ec2, count, **more)["Instances"] for id in each["InstanceIds"]]


def describe(ec2: Any, id: str) -> dict[str, Any]:
    """An instance as EC2 describes it."""
    [found] = ec2.describe_instances(InstanceIds=[id])["Reservations"]
    described: dict[str, Any] = found["Instances"][0]
    return described


def say(address: str, word: bytes = b"hello") -> str:
    """What the program of an instance answers, or how it does not."""
    try:
        with socket.create_connection((address, PORT), 1.0) as connection:
            connection.sendall(word)
            return connection.recv(100).decode()
    except OSError as error:
        return type(error).__name__


def test_an_instance_runs_its_user_data_at_an_address_of_its_own(rig: Rig, ec2: Any) -> None:
    make_template(ec2)
    ids = launch(ec2, 2)
    addresses = [describe(ec2, id)["PublicIpAddress"] for id in ids]
    assert 2 == len(set(addresses))
    for address in addresses:
        assert ip_address(address) in ip_network(rig.network)
        eventually(lambda address=address: say(address) == address, 10.0, rig.describe)  # type: ignore[misc]
    console = ec2.get_console_output(InstanceId=ids[0], Latest=True)["Output"]
    assert console.endswith("listening hello\n")
    assert "/latest/meta-data/local-ipv4" in rig.metadata[ids[0]].asked


def test_an_instance_has_what_the_template_says(rig: Rig, ec2: Any) -> None:
    group = make_template(ec2)
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "bigm:cluster", "Value": "c1"}]}]
    [id] = launch(ec2, 1, TagSpecifications=tags)
    found = describe(ec2, id)
    assert [group] == [each["GroupId"] for each in found["SecurityGroups"]]
    assert {"Key": "bigm:cluster", "Value": "c1"} in found["Tags"]
    assert "required" == found["MetadataOptions"]["HttpTokens"]
    assert "spot" == found["InstanceLifecycle"]
    [volume] = ec2.describe_volumes()["Volumes"]
    assert (50, "gp3") == (volume["Size"], volume["VolumeType"])


def test_an_instance_that_is_terminated_has_no_process_and_one_whose_process_ends_is_terminated(
    rig: Rig, ec2: Any
) -> None:
    make_template(ec2)
    first, second = launch(ec2, 2)
    address = describe(ec2, second)["PublicIpAddress"]
    eventually(lambda: say(address) == address, 10.0, rig.describe)
    ec2.terminate_instances(InstanceIds=[first])
    eventually(lambda: not rig.guests[first].processes())
    assert [second] == rig.running()
    say(address, b"end")
    eventually(rig.is_empty, 10.0, rig.describe)
    assert "Client.InstanceInitiatedShutdown" == describe(ec2, second)["StateReason"]["Code"]


def test_a_port_that_no_rule_opens_swallows_connections_until_one_does(rig: Rig, ec2: Any) -> None:
    group = make_template(ec2)
    rig.move("198.51.100.8")
    [id] = launch(ec2, 1)
    address = describe(ec2, id)["PublicIpAddress"]
    assert say(address) in ("timeout", "TimeoutError")
    ec2.authorize_security_group_ingress(
        GroupId=group, IpProtocol="tcp", FromPort=PORT, ToPort=PORT, CidrIp="198.51.100.8/32"
    )
    eventually(lambda: say(address) == address, 10.0, rig.describe)


def test_what_there_is_not_enough_of_is_launched_in_part_and_told_of(rig: Rig, ec2: Any) -> None:
    make_template(ec2)
    zones = rig.cloud.zones()
    rig.limit(0, zone=zones[0])
    rig.limit(2, "UnfulfillableCapacity", zone=zones[1])
    rig.limit(0, "MaxSpotInstanceCountExceeded", zone=zones[2])
    made = ask_fleet(ec2, 3)
    assert [2] == [len(each["InstanceIds"]) for each in made["Instances"]]
    codes = [each["ErrorCode"] for each in made["Errors"]]
    assert ["InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded"] == codes
    assert "spot" == made["Errors"][0]["Lifecycle"]


def test_a_client_token_is_one_launch_and_its_reuse_for_another_is_refused(rig: Rig, ec2: Any) -> None:
    make_template(ec2)
    first = launch(ec2, 2, ClientToken="token")
    assert first == launch(ec2, 2, ClientToken="token")
    assert first == rig.running()
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        launch(ec2, 3, ClientToken="token")


def test_what_is_to_fail_fails_so_often_and_is_recorded(rig: Rig, ec2: Any) -> None:
    rig.fail("DescribeVpcs", "RequestLimitExceeded", times=2)
    for _ in range(2):
        with pytest.raises(ClientError, match="RequestLimitExceeded") as caught:
            ec2.describe_vpcs()
        assert 503 == caught.value.response["ResponseMetadata"]["HTTPStatusCode"]
    assert rig.network == ec2.describe_vpcs()["Vpcs"][0]["CidrBlock"]
    assert ["RequestLimitExceeded"] * 2 + [""] == [call.code for call in rig.calls("DescribeVpcs")]


def test_a_lost_reply_had_its_effect_and_a_closed_connection_had_none(rig: Rig, ec2: Any) -> None:
    make_template(ec2)
    rig.close_connection("CreateFleet")
    with pytest.raises(ConnectionClosedError):
        launch(ec2, 1)
    assert [] == rig.running()
    rig.lose_reply("CreateFleet")
    with pytest.raises(ConnectionClosedError):
        launch(ec2, 1)
    assert 1 == len(rig.running())


def test_what_ec2_refuses_the_rig_refuses(rig: Rig, ec2: Any) -> None:
    with pytest.raises(ClientError, match="InvalidUserData"):
        make_template(ec2, UserData=base64.b64encode(os.urandom(16400)).decode())
    with pytest.raises(ClientError, match="InvalidLaunchTemplateName"):
        ask_fleet(ec2, 1)
    ec2.delete_security_group(GroupName="test")
    make_template(ec2, InstanceInitiatedShutdownBehavior="stop")
    assert {"InvalidParameterCombination"} == {each["ErrorCode"] for each in ask_fleet(ec2, 1)["Errors"]}
    made = ask_fleet(ec2, 1, types=("m7g.large",))
    assert {"InvalidParameterValue"} == {each["ErrorCode"] for each in made["Errors"]}


def test_images_prices_and_addresses_are_known(rig: Rig, ec2: Any) -> None:
    path = "/aws/service/debian/release/12/latest/amd64"
    id = boto3.client("ssm").get_parameter(Name=path)["Parameter"]["Value"]
    [image] = ec2.describe_images(ImageIds=[id])["Images"]
    assert ("x86_64", "/dev/xvda") == (image["Architecture"], image["RootDeviceName"])
    prices = ec2.describe_spot_price_history(InstanceTypes=["m5.large"])["SpotPriceHistory"]
    assert rig.cloud.zones() == [each["AvailabilityZone"] for each in prices]
    filters = [{"Type": "TERM_MATCH", "Field": "instanceType", "Value": "m5.large"}]
    products = boto3.client("pricing").get_products(ServiceCode="AmazonEC2", Filters=filters)["PriceList"]
    assert 1 == len(products)
    assert "123456789012" == boto3.client("sts").get_caller_identity()["Account"]
