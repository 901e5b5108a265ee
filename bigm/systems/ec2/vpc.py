"""What of an account's networks instances are put into: subnets, and security groups. Found, and made where missing."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import Any, TypeVar

from bigm.errors import ConfigError, SystemFault
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.labels import Labels
from bigm.systems.ec2.options import Options

GROUP = "bigm"  # the name of the security group in each VPC
_GROUP_THERE = "InvalidGroup.Duplicate"
_RULE_THERE = "InvalidPermission.Duplicate"
_APPEARS = 20.0  # seconds until all of AWS knows of a group that it has made; mostly it is one or two
_PAUSE = 1.0  # seconds between two questions

T = TypeVar("T")


def find_subnets(account: Account, options: Options) -> tuple[dict[str, str], str]:
    """The zone of each subnet that instances may be in, by its id, and the VPC they are in; one in each zone.

    Raises:
        ConfigError: there is none, or they are of several VPCs.
    """
    if options.subnets:
        found = account.ask("describe_subnets", SubnetIds=list(options.subnets))["Subnets"]
    else:
        filters = [{"Name": "default-for-az", "Values": ["true"]}, {"Name": "state", "Values": ["available"]}]
        found = account.ask("describe_subnets", Filters=filters)["Subnets"]
    if not found:
        raise ConfigError(
            f"{account.region} has no default network, and ec2.subnets names none",
            hint=f"make one, which costs nothing: `aws ec2 create-default-vpc --region {account.region}`",
        )
    vpcs = sorted({subnet["VpcId"] for subnet in found})
    if len(vpcs) > 1:
        raise ConfigError(f"ec2.subnets are of several VPCs: {', '.join(vpcs)}", hint="name those of one")
    roomiest: dict[str, dict[str, Any]] = {}  # a fleet takes one in each zone
    for subnet in sorted(found, key=lambda one: (one.get("AvailableIpAddressCount", 0), one["SubnetId"])):
        roomiest[subnet["AvailabilityZone"]] = subnet
    return {roomiest[zone]["SubnetId"]: zone for zone in sorted(roomiest)}, vpcs[0]


def check_groups(account: Account, options: Options, vpc: str) -> tuple[str, ...]:
    """The security groups that the user names, if they are of the VPC.

    Raises:
        ConfigError: they are not, or do not exist.
    """
    found = account.ask("describe_security_groups", GroupIds=list(options.security_groups))["SecurityGroups"]
    strange = [group["GroupId"] for group in found if group["VpcId"] != vpc]
    if strange:
        raise ConfigError(
            f"ec2.security_groups: {', '.join(strange)} are not of {vpc}, where the subnets are",
            hint="name groups and subnets of one VPC; ec2.subnets empty means the default one",
        )
    return options.security_groups


def find_group(account: Account, vpc: str, labels: Labels) -> str:
    """The id of bigm's security group in a VPC, made where there is none: its members reach one another at all ports.

    It stays when the cluster ends: other clusters use it, and it costs nothing.

    Raises:
        SystemFault: AWS would not.
    """
    group = _group_named(account, vpc) or _make_group(account, vpc, labels)
    id: str = group["GroupId"]
    pairs = [pair for rule in group["IpPermissions"] for pair in rule.get("UserIdGroupPairs", ())]
    if not any(pair.get("GroupId") == id for pair in pairs):
        one_another = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": id}]}
        try:
            _until_known(
                lambda: account.ask("authorize_security_group_ingress", GroupId=id, IpPermissions=[one_another])
            )
        except SystemFault as error:
            if error.code != _RULE_THERE:
                raise
    return id


def _make_group(account: Account, vpc: str, labels: Labels) -> dict[str, Any]:
    """The group, made, or found where another driver was quicker."""
    own = [{"Key": key, "Value": value} for key, value in {**labels.extra, "Name": GROUP}.items()]
    try:
        account.ask(
            "create_security_group",
            GroupName=GROUP,
            Description="Machines of bigm, which reach one another",
            VpcId=vpc,
            TagSpecifications=[{"ResourceType": "security-group", "Tags": own}],  # no cluster's: it stays
        )
    except SystemFault as error:
        if error.code != _GROUP_THERE:
            raise

    def look() -> dict[str, Any]:
        group = _group_named(account, vpc)
        if group is None:
            raise ConfigError(f"AWS has made the security group {GROUP} of {vpc}, and does not know it")
        return group

    return _until_known(look)


def _until_known(request: Callable[[], T]) -> T:
    """Repeat a request about what was made a moment ago, as long as AWS says that there is no such thing.

    Source: "Eventual consistency in the Amazon EC2 API" of its developer guide, which has just this example.
    """
    end = time.monotonic() + _APPEARS
    while True:
        try:
            return request()
        except ConfigError:
            if time.monotonic() > end:
                raise
            time.sleep(_PAUSE)  # nobody tells when it is known


def _group_named(account: Account, vpc: str) -> dict[str, Any] | None:
    filters = [{"Name": "group-name", "Values": [GROUP]}, {"Name": "vpc-id", "Values": [vpc]}]
    found: list[dict[str, Any]] = account.ask("describe_security_groups", Filters=filters)["SecurityGroups"]
    return found[0] if found else None


def first_host(account: Account, subnet: str) -> str:
    """An address in a subnet: that of its router."""
    block = account.ask("describe_subnets", SubnetIds=[subnet])["Subnets"][0]["CidrBlock"]
    return str(ipaddress.IPv4Network(block)[1])


def blocks(account: Account, vpc: str) -> list[str]:
    """The networks that a VPC consists of."""
    described = account.ask("describe_vpcs", VpcIds=[vpc])["Vpcs"][0]
    associated = [block["CidrBlock"] for block in described.get("CidrBlockAssociationSet", ())]
    return associated or [described["CidrBlock"]]
