"""What bigm asks of an AWS account: every action, what for, and how far IAM can limit it.

One table, from which come the policy that `bigm doctor ec2 --policy` prints, what `bigm doctor ec2` asks for, and the
table in docs/ec2.md. IAM can tell apart what bigm has made by its tags alone: what exists before a run (images,
subnets, key pairs) it may use, and what it ends or changes must bear the tag of a cluster.

Source: the Service Authorization Reference, "Actions, resources, and condition keys for Amazon EC2"; how launches by
CreateFleet are limited by tags is as in the policy that Karpenter documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bigm.systems.ec2.labels import CLUSTER
from bigm.systems.ec2.options import Options
from bigm.systems.ec2.vpc import GROUP

_TAGGED = {"Null": {f"aws:ResourceTag/{CLUSTER}": "false"}}
_TAGGING = {"Null": {f"aws:RequestTag/{CLUSTER}": "false"}}
_PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
_CREATING = (
    "CreateFleet",
    "RunInstances",
    "CreateLaunchTemplate",
    "CreateSecurityGroup",
    "AuthorizeSecurityGroupIngress",
)


@dataclass(frozen=True)
class Scope:
    """What actions are limited to: one statement of the policy.

    Args:
        sid: the statement's name.
        what: the same in words.
        resources: ARNs without their beginning ("ec2:*:*:instance/*"); empty: "*", where IAM knows no finer one.
        condition: as IAM writes it.
    """

    sid: str
    what: str
    resources: tuple[str, ...] = ()
    condition: Mapping[str, object] = field(default_factory=dict)


LOOK = Scope("Look", "all")
PARAMETERS = Scope("PublicParameters", "AWS's own parameters", ("ssm:*::parameter/aws/service/*",))
OWN_IMAGE = Scope("OwnImage", "the account's parameters", ("ssm:*:*:parameter/*",))
LAUNCH = Scope(
    "LaunchTagged",
    f"with the tag `{CLUSTER}`",
    ("ec2:*:*:fleet/*", "ec2:*:*:instance/*", "ec2:*:*:volume/*", "ec2:*:*:network-interface/*"),
    _TAGGING,
)
USE = Scope(
    "LaunchWith",
    "what instances are made of",
    (
        "ec2:*::image/*",
        "ec2:*::snapshot/*",
        "ec2:*:*:key-pair/*",
        "ec2:*:*:security-group/*",
        "ec2:*:*:subnet/*",
        "ec2:*:*:spot-instances-request/*",
    ),
)
BY_TEMPLATE = Scope("LaunchByTemplate", f"templates with the tag `{CLUSTER}`", ("ec2:*:*:launch-template/*",), _TAGGED)
MAKE_TEMPLATE = Scope("MakeTemplate", f"with the tag `{CLUSTER}`", ("ec2:*:*:launch-template/*",), _TAGGING)
MAKE_GROUP = Scope(
    "MakeGroup",
    f"with the tag `Name={GROUP}`",
    ("ec2:*:*:security-group/*",),
    {"StringEquals": {"aws:RequestTag/Name": GROUP}},
)
IN_NETWORK = Scope("MakeInNetwork", "in any network", ("ec2:*:*:vpc/*",))
TAGS = Scope(
    "TagOnlyWhatIsMade",
    "as part of a request that makes something",
    ("ec2:*:*:*/*",),
    {"StringEquals": {"ec2:CreateAction": list(_CREATING)}},
)
GROUPS = Scope(
    "OpenAndClose",
    f"the group with the tag `Name={GROUP}`",
    ("ec2:*:*:security-group/*",),
    {"StringEquals": {"aws:ResourceTag/Name": GROUP}},
)
RULES = Scope("Rules", "rules of that group", ("ec2:*:*:security-group-rule/*",))
END = Scope(
    "EndTagged",
    f"what has the tag `{CLUSTER}`",
    ("ec2:*:*:instance/*", "ec2:*:*:launch-template/*", "ec2:*:*:volume/*"),
    _TAGGED,
)
ROLE = Scope(
    "GiveRole",
    "to instances",
    ("iam::*:role/*",),
    {"StringEquals": {"iam:PassedToService": ["ec2.amazonaws.com", "ec2.amazonaws.com.cn"]}},  # the latter in China
)
SPOT_ROLE = Scope(
    "SpotRole",
    "the role that EC2 itself has for spot instances",
    ("iam::*:role/aws-service-role/*",),
    {"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}},
)


@dataclass(frozen=True)
class Need:
    """One action, on what it is limited to.

    Args:
        action: as IAM writes it: "ec2:CreateFleet".
        scope: what it is limited to.
        purpose: what bigm does with it.
        without: what is missing where it is not allowed; "": nothing can be started.
        option: the option that it is for; "": it is needed without.
        unless: the option that makes it needless, or "".
    """

    action: str
    scope: Scope
    purpose: str
    without: str = ""
    option: str = ""
    unless: str = ""

    @property
    def operation(self) -> str:
        """The request's name: "CreateFleet"."""
        return self.action.partition(":")[2]


_GC = "`bigm gc` cannot remove them"
_PRICES = "prices are not shown"
_OWN_GROUPS = "security_groups"
NEEDS = (
    Need("ec2:DescribeInstanceTypes", LOOK, "what the types have"),
    Need("ec2:DescribeImages", LOOK, "what the image needs"),
    Need("ec2:DescribeVpcs", LOOK, "which addresses a network has", "with `connect: ssh` nobody is let in"),
    Need("ec2:DescribeSubnets", LOOK, "where instances can be"),
    Need("ec2:DescribeSecurityGroups", LOOK, "the group that lets the driver in"),
    Need("ec2:DescribeSecurityGroupRules", LOOK, "whom it lets in"),
    Need("ec2:DescribeInstances", LOOK, "how instances are, and which are left"),
    Need("ec2:DescribeRegions", LOOK, "where something may be left", "`bigm gc` looks in one, or in those named"),
    Need("ec2:DescribeLaunchTemplates", LOOK, "launch templates that are left", _GC),
    Need("ec2:DescribeVolumes", LOOK, "disks that are left", _GC),
    Need("ec2:DescribeSpotPriceHistory", LOOK, "what spot instances cost", _PRICES),
    Need("pricing:GetProducts", LOOK, "what instances on demand cost", _PRICES),
    Need("servicequotas:GetServiceQuota", LOOK, "`bigm doctor`: how much may run", "quotas are not known"),
    Need("ssm:GetParameter", PARAMETERS, "the id of the default image"),
    Need("ssm:GetParameter", OWN_IMAGE, "the id of an image by a parameter of your own", option="image"),
    Need("ec2:CreateLaunchTemplate", MAKE_TEMPLATE, "what instances are launched from"),
    Need("ec2:CreateSecurityGroup", MAKE_GROUP, "the group that lets the driver in, once", unless=_OWN_GROUPS),
    Need("ec2:CreateSecurityGroup", IN_NETWORK, "the same", unless=_OWN_GROUPS),
    Need("ec2:AuthorizeSecurityGroupIngress", GROUPS, "opens the agent's port to the driver", unless=_OWN_GROUPS),
    Need("ec2:AuthorizeSecurityGroupIngress", RULES, "the same", unless=_OWN_GROUPS),
    Need("ec2:RevokeSecurityGroupIngress", GROUPS, "closes it", unless=_OWN_GROUPS),
    Need("ec2:RevokeSecurityGroupIngress", RULES, "the same", unless=_OWN_GROUPS),
    Need("ec2:CreateFleet", LAUNCH, "launches instances"),
    Need("ec2:RunInstances", LAUNCH, "what CreateFleet does in your name"),
    Need("ec2:CreateFleet", USE, "the same"),
    Need("ec2:RunInstances", USE, "the same"),
    Need("ec2:CreateFleet", BY_TEMPLATE, "the same"),
    Need("ec2:RunInstances", BY_TEMPLATE, "the same"),
    Need("ec2:CreateTags", TAGS, "tags of all that is made"),
    Need("iam:CreateServiceLinkedRole", SPOT_ROLE, "an account's first spot instance", "it cannot be launched"),
    Need("iam:PassRole", ROLE, "gives instances their role", option="instance_profile"),
    Need("ec2:TerminateInstances", END, "ends instances"),
    Need("ec2:DeleteLaunchTemplate", END, "removes launch templates"),
    Need("ec2:DeleteVolume", END, "removes disks that are left", _GC),
    Need("ec2:GetConsoleOutput", END, "what an instance said that never answered", "its error is shown without"),
)


def needs(options: Options) -> list[Need]:
    """The rows of the table that runs with *options* need."""
    return [
        need
        for need in NEEDS
        if (not need.option or getattr(options, need.option)) and not (need.unless and getattr(options, need.unless))
    ]


def partition_of(region: str) -> str:
    """What the ARNs of a region begin with; "aws" where there is none yet."""
    return next((name for start, name in _PARTITIONS.items() if region.startswith(start)), "aws")


def policy(wanted: Sequence[Need], partition: str = "aws") -> dict[str, object]:
    """The least policy that allows *wanted*, as IAM reads it.

    Args:
        wanted: rows of the table.
        partition: as `partition_of` tells it.
    """
    by_scope: dict[str, list[Need]] = {}
    for need in wanted:
        by_scope.setdefault(need.scope.sid, []).append(need)
    statements = [_statement(of_scope, partition) for of_scope in by_scope.values()]
    return {"Version": "2012-10-17", "Statement": statements}


def _statement(wanted: Sequence[Need], partition: str) -> dict[str, object]:
    scope = wanted[0].scope
    statement: dict[str, object] = {
        "Sid": scope.sid,
        "Effect": "Allow",
        "Action": [need.action for need in wanted],
        "Resource": [f"arn:{partition}:{each}" for each in scope.resources] or "*",
    }
    return {**statement, "Condition": scope.condition} if scope.condition else statement
