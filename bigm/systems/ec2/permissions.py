"""Which of the actions in `policy` the credentials allow: asked by requests that AWS checks and does not perform.

Those have DryRun; what only looks is done. What may be done only to what bears bigm's tags can be asked about only
while there is such a thing: otherwise a refusal says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from bigm.errors import (
    BigmError,
    ConfigError,
    CredentialsError,
    PermissionDenied,
    SystemFault,
    ThrottledError,
    TransientError,
)
from bigm.systems.base import FAILED, OK, WARNING, Finding
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.faults import VCPUS_ON_DEMAND, VCPUS_SPOT
from bigm.systems.ec2.labels import CLUSTER, of_any
from bigm.systems.ec2.options import PORT, Options
from bigm.systems.ec2.policy import Need, needs
from bigm.systems.ec2.types import InstanceType
from bigm.systems.ec2.vpc import GROUP

QUOTAS = {"spot": VCPUS_SPOT, "on-demand": VCPUS_ON_DEMAND}  # by way of buying
_AT_ONCE = 8  # requests
_ALLOW = "`bigm doctor ec2 --policy` prints all that bigm needs"
_CHECK = "permissions"


@dataclass(frozen=True)
class Facts:
    """What requests are made with; what is not known is made up, as far as it is not said otherwise."""

    types: tuple[InstanceType, ...] = ()
    image: str = "ami-0123456789abcdef0"
    subnet: str = "subnet-0123456789abcdef0"
    vpc: str = "vpc-0123456789abcdef0"
    group: str = ""
    instance: str = ""
    template: str = ""
    volume: str = ""

    @property
    def type(self) -> str:
        """The name of one."""
        return self.types[0].name if self.types else "m5.large"


def look_at_permissions(account: Account, options: Options, subject: str, facts: Facts) -> Iterator[Finding]:
    """A finding for each action that is not allowed; else one for all.

    Args:
        subject: whom the findings are about.
        facts: what is known of the account.
    """
    facts = _with_things(account, facts)
    wanted = {need.operation: need for need in reversed(needs(options))}  # of several rows the first says what for
    requests = _requests(options, facts)
    asked = [operation for operation in wanted if operation in requests]
    with ThreadPoolExecutor(_AT_ONCE, "bigm-ec2-doctor") as pool:
        answers = list(pool.map(lambda operation: _ask(account, wanted[operation], requests[operation]), asked))
    refused = {operation: error for operation, error in zip(asked, answers, strict=True) if error is not None}
    denied = {name: error for name, error in refused.items() if isinstance(error, PermissionDenied)}
    uncertain = [name for name in denied if _is_uncertain(wanted[name], facts)]
    missing = {_lacking(denied[name]) or wanted[name].action: wanted[name] for name in denied if name not in uncertain}
    for action, need in missing.items():
        text = "; ".join(filter(None, (f"{action} is not allowed: {need.purpose}", need.without)))
        yield Finding(subject, _CHECK, WARNING if need.without else FAILED, text, _ALLOW)
    for name, error in refused.items():
        if name not in denied:
            yield Finding(subject, _CHECK, WARNING, f"{wanted[name].action}: {error.message}", error.hint)
    if uncertain:
        text = f"not known of {', '.join(uncertain)}: nothing of bigm's is there to ask about"
        hint = "refused for what does not exist, as it is where only what bears bigm's tags may be ended"
        yield Finding(subject, _CHECK, WARNING, text, hint)
    if not refused:
        yield Finding(subject, _CHECK, OK, f"all {len(asked)} actions that can be asked about are allowed")


def _ask(account: Account, need: Need, request: Mapping[str, Any]) -> BigmError | None:
    """Send a request that changes nothing. None: it is allowed, whatever else AWS may have against it."""
    operation = re.sub(r"(?<!^)(?=[A-Z])", "_", need.operation).lower()
    service = {"servicequotas": "service-quotas"}.get(need.action.partition(":")[0], need.action.partition(":")[0])
    try:
        account.ask(operation, service=service, **request)
    except PermissionDenied as error:
        return error
    except (ConfigError, SystemFault) as error:
        return error if _is_unchecked(error) else None
    return None


def _is_unchecked(error: BigmError) -> bool:
    """Whether AWS has not come to look at what the request is for."""
    if isinstance(error, TransientError):
        return not error.code.startswith("Invalid")  # it names something that does not exist
    return isinstance(error, (CredentialsError, ThrottledError))


def _is_uncertain(need: Need, facts: Facts) -> bool:
    """Whether a refusal may be for want of something with bigm's tags."""
    there = {
        "CreateFleet": facts.template,
        "TerminateInstances": facts.instance,
        "GetConsoleOutput": facts.instance,
        "DeleteLaunchTemplate": facts.template,
        "DeleteVolume": facts.volume,
        "AuthorizeSecurityGroupIngress": facts.group,
        "RevokeSecurityGroupIngress": facts.group,
    }
    return there.get(need.operation) == ""


def _lacking(error: PermissionDenied) -> str:
    """The action that AWS itself names: RunInstances needs others too."""
    found = re.search(r"permission ([\w-]+:\w+)", error.message)
    return found[1] if found else ""


def _requests(options: Options, facts: Facts) -> dict[str, dict[str, Any]]:
    """A request for each operation, by its name, that is checked and not performed, or that only looks."""
    tags = [{"Key": CLUSTER, "Value": "doctor"}, {"Key": "Name", "Value": GROUP}]

    def tagged(*kinds: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": tags} for kind in kinds]

    template = {"LaunchTemplateId": facts.template or "lt-0123456789abcdef0"}
    group = {"GroupId": facts.group or "sg-0123456789abcdef0"}
    rule = {"IpProtocol": "tcp", "FromPort": PORT, "ToPort": PORT, "IpRanges": [{"CidrIp": "192.0.2.1/32"}]}
    instance = facts.instance or "i-0123456789abcdef0"
    profile = options.instance_profile
    role = {"IamInstanceProfile": {"Arn" if profile.startswith("arn:") else "Name": profile}} if profile else {}
    changing: dict[str, dict[str, Any]] = {
        "CreateLaunchTemplate": {
            "LaunchTemplateName": "bigm-doctor",
            "LaunchTemplateData": {"ImageId": facts.image},
            "TagSpecifications": tagged("launch-template"),
        },
        "CreateSecurityGroup": {
            "GroupName": "bigm-doctor",
            "Description": "not made",
            "VpcId": facts.vpc,
            "TagSpecifications": tagged("security-group"),
        },
        "AuthorizeSecurityGroupIngress": {
            **group,
            "IpPermissions": [rule],
            "TagSpecifications": tagged("security-group-rule"),
        },
        "RevokeSecurityGroupIngress": {**group, "IpPermissions": [rule]},
        "CreateFleet": {
            "Type": "instant",
            "TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "on-demand"},
            "LaunchTemplateConfigs": [{"LaunchTemplateSpecification": {**template, "Version": "1"}}],
            "TagSpecifications": tagged("fleet", "instance", "volume"),
        },
        "RunInstances": {
            "MinCount": 1,
            "MaxCount": 1,
            "ImageId": facts.image,
            "InstanceType": facts.type,
            "SubnetId": facts.subnet,
            "TagSpecifications": tagged("instance", "volume", "network-interface"),
            **role,
        },
        "TerminateInstances": {"InstanceIds": [instance]},
        "DeleteLaunchTemplate": template,
        "DeleteVolume": {"VolumeId": facts.volume or "vol-0123456789abcdef0"},
        "GetConsoleOutput": {"InstanceId": instance},
    }
    looking = [need.operation for need in needs(options) if need.operation.startswith("Describe")]
    changing.update({operation: {} for operation in looking})
    return {
        **{operation: {**request, "DryRun": True} for operation, request in changing.items()},
        "GetProducts": {"ServiceCode": "AmazonEC2", "MaxResults": 1},
        "GetServiceQuota": {"ServiceCode": "ec2", "QuotaCode": QUOTAS["on-demand"]},
    }


def _with_things(account: Account, facts: Facts) -> Facts:
    """The facts, with something of bigm's for each kind of which there is something."""

    def first(operation: str, key: str, id: str, inside: str = "") -> str:
        try:
            found = next(account.pages(operation, key, Filters=of_any()), None)
        except (ConfigError, SystemFault):
            return ""  # the permission for it is looked at anyway
        return str((found[inside][0] if inside else found)[id]) if found else ""

    return replace(
        facts,
        instance=first("describe_instances", "Reservations", "InstanceId", "Instances"),
        template=first("describe_launch_templates", "LaunchTemplates", "LaunchTemplateId"),
        volume=first("describe_volumes", "Volumes", "VolumeId"),
    )
