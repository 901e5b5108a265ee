"""Rules of security groups that let a driver's address in: made, found by their tags, and revoked.

AWS takes no two equal rules in a group, and several drivers may have one address: those of an office, or two runs of
one user. So that each has a rule of its own, which goes with its cluster, one that exists already is made for one port
more: nothing of bigm's listens there, and only the same address gets there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bigm.errors import QuotaError, SystemFault
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.labels import CLUSTER, expired, of_any, of_cluster, read_tags
from bigm.systems.ec2.options import PORT

_SIDE_BY_SIDE = 50  # clusters of one address in one group; a group may have 60 rules
_TWICE = "InvalidPermission.Duplicate"
_FULL = "RulesPerSecurityGroupLimitExceeded"
_UNKNOWN = ("InvalidSecurityGroupRuleId.NotFound", "InvalidPermission.NotFound")


@dataclass(frozen=True)
class Rule:
    """One rule of ours.

    Args:
        id: "sgr-...".
        group: the id of its security group.
        address: the network it lets in, "203.0.113.7/32".
        tags: all of them.
    """

    id: str
    group: str
    address: str
    tags: Mapping[str, str]

    @property
    def cluster(self) -> str:
        """The cluster it was made for."""
        return self.tags.get(CLUSTER, "")


def allow(account: Account, group: str, address: str, tags: Sequence[dict[str, str]]) -> Rule:
    """Let an address in on the port of agents.

    Args:
        group: the id of a security group.
        address: a network, "203.0.113.7/32".
        tags: with the cluster and its end, as AWS's requests have them.
    Raises:
        QuotaError: the group has as many rules as it may have, and none of ours is past its end.
        SystemFault: AWS would not.
    """
    try:
        return _allow(account, group, address, tags)
    except QuotaError as error:
        past = [rule for rule in leftover_rules(account) if rule.group == group and expired(rule.tags)]
        if error.code != _FULL or not past:
            raise
        revoke(account, past)
        return _allow(account, group, address, tags)


def rules_of(account: Account, cluster: str) -> list[Rule]:
    """The rules of a cluster, in whatever groups of the region.

    Raises:
        SystemFault: AWS does not tell.
    """
    return _find(account, of_cluster(cluster))


def leftover_rules(account: Account) -> list[Rule]:
    """The rules of all clusters of the region, of whoever; `labels.expired` tells of which no machine is left.

    Raises:
        SystemFault: AWS does not tell.
    """
    return _find(account, of_any())


def revoke(account: Account, rules: Iterable[Rule]) -> None:
    """Take rules away; those that are gone already are no error.

    Raises:
        SystemFault: AWS would not.
    """
    by_group: dict[str, list[str]] = {}
    for rule in rules:
        by_group.setdefault(rule.group, []).append(rule.id)
    for group, ids in by_group.items():
        try:
            _revoke(account, group, ids)
        except SystemFault as error:
            if error.code not in _UNKNOWN:
                raise
            for id in ids:  # one that is gone has spoilt it for the others
                with _gone_is_fine():
                    _revoke(account, group, [id])


def lets_in(rules: Iterable[Mapping[str, Any]], address: str) -> bool:
    """Whether one of the rules, as AWS describes them, lets an address in on the port of agents.

    Rules that name a list of prefixes or another group are not looked into, and count as no.
    """
    import ipaddress

    source = ipaddress.IPv4Network(address)
    return any(
        not rule["IsEgress"]
        and rule["IpProtocol"] in ("-1", "tcp")
        and (rule["IpProtocol"] == "-1" or rule["FromPort"] <= PORT <= rule["ToPort"])
        and source.subnet_of(ipaddress.IPv4Network(rule["CidrIpv4"], strict=False))
        for rule in rules
        if rule.get("CidrIpv4")
    )


def _allow(account: Account, group: str, address: str, tags: Sequence[dict[str, str]]) -> Rule:
    for more in range(_SIDE_BY_SIDE):
        source = {"CidrIp": address, "Description": "the driver of a cluster of bigm"}
        wanted = {"IpProtocol": "tcp", "FromPort": PORT, "ToPort": PORT + more, "IpRanges": [source]}
        try:
            made = account.ask(
                "authorize_security_group_ingress",
                GroupId=group,
                IpPermissions=[wanted],
                TagSpecifications=[{"ResourceType": "security-group-rule", "Tags": list(tags)}],
            )
        except SystemFault as error:
            if error.code != _TWICE:
                raise
        else:
            return _read(made["SecurityGroupRules"][0])
    raise QuotaError(
        f"{_SIDE_BY_SIDE} clusters of {address} have a rule in {group} already",
        code=_FULL,
        hint="`bigm gc --system ec2` finds those that nobody needs",
    )


def _find(account: Account, filters: list[dict[str, object]]) -> list[Rule]:
    found = account.pages("describe_security_group_rules", "SecurityGroupRules", Filters=filters)
    return [_read(rule) for rule in found if not rule["IsEgress"]]


def _revoke(account: Account, group: str, ids: list[str]) -> None:
    account.ask("revoke_security_group_ingress", GroupId=group, SecurityGroupRuleIds=ids)


@contextlib.contextmanager
def _gone_is_fine() -> Any:
    try:
        yield
    except SystemFault as error:
        if error.code not in _UNKNOWN:
            raise


def _read(rule: Mapping[str, Any]) -> Rule:
    return Rule(rule["SecurityGroupRuleId"], rule["GroupId"], rule.get("CidrIpv4", ""), read_tags(rule))
