"""What an account has of bigm's, in all its regions, and its removal: by tags alone, for `bigm gc` and `bigm ps`.

Four kinds of things bear the tags of a cluster: instances, launch templates, rules of the security group, and disks
that outlived their instance. Instances end by themselves; what is found beside them is left of a driver that was killed
between two requests. Only things of the same user are found, as `bigm:user` tells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from bigm.errors import BigmError, ConfigError, SystemFault
from bigm.systems.base import Instance
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.ends import end_instances
from bigm.systems.ec2.labels import CLUSTER, EXPIRES, LAUNCH, USER, of_any, read_tags, user_of
from bigm.systems.ec2.options import Options
from bigm.systems.ec2.refusals import as_fault
from bigm.systems.ec2.rules import leftover_rules, revoke
from bigm.systems.ec2.states import read_instance

TEMPLATE, RULE, DISK = "launch template", "rule", "disk"
_AT_ONCE = 8  # regions
_GONE = ("InvalidLaunchTemplateId.NotFound", "InvalidVolume.NotFound")
_ELSEWHERE = "every other region"


class Remains:
    """Looks, and removes.

    Args:
        account: whose.
        options: which regions, and which user's.
    """

    def __init__(self, account: Account, options: Options) -> None:
        self._account = account
        self._options = options
        self._accounts: dict[str, Account] = {}
        self._lock = threading.Lock()
        self.overlooked: dict[str, SystemFault] = {}  # regions that the last look did not reach, and why

    def discover(self) -> list[Instance]:
        """All there is.

        Raises:
            ConfigError: there is no region to begin with.
            SystemFault: not even one region could be looked at.
        """
        self.overlooked = {}
        found: list[Instance] = []

        def look(region: str) -> None:
            try:
                found.extend(self._find(region))
            except (ConfigError, SystemFault) as error:
                self.overlooked[region] = as_fault(error)

        regions = self._regions()
        with ThreadPoolExecutor(_AT_ONCE, "bigm-ec2-remains") as pool:
            list(pool.map(look, regions))
        if len([region for region in regions if region in self.overlooked]) == len(regions):
            raise self.overlooked[regions[0]]
        return found

    def remove(self, things: Sequence[Instance]) -> dict[str, SystemFault | None]:
        """End or remove what was found; says for each id what prevented it. Idempotent."""
        outcome: dict[str, SystemFault | None] = {}
        by_region: dict[str, list[Instance]] = {}
        for thing in things:
            by_region.setdefault(thing.host, []).append(thing)
        for region, there in by_region.items():
            account = self._in(region)
            by_kind: dict[str, list[str]] = {}
            for thing in there:
                by_kind.setdefault(thing.kind, []).append(thing.id)
            for kind, ids in by_kind.items():
                outcome.update(_REMOVALS.get(kind, end_instances)(account, ids))
        return outcome

    def _regions(self) -> list[str]:
        """Those that are named; else all that the account has enabled, the own one first."""
        if self._options.regions:
            return list(dict.fromkeys(self._options.regions))
        own = self._account.region
        try:
            known = [str(each["RegionName"]) for each in self._account.ask("describe_regions")["Regions"]]
        except SystemFault as error:
            self.overlooked[_ELSEWHERE] = error
            known = []
        return list(dict.fromkeys([own, *sorted(known)]))

    def _in(self, region: str) -> Account:
        with self._lock:
            if region not in self._accounts:
                self._accounts[region] = self._account.elsewhere(region)
            return self._accounts[region]

    def _find(self, region: str) -> Iterator[Instance]:
        account = self._in(region)
        filters = [*of_any(), {"Name": f"tag:{USER}", "Values": [user_of(self._options)]}]
        for reservation in account.pages("describe_instances", "Reservations", Filters=filters):
            for each in reservation["Instances"]:
                seen = read_instance(each)
                if not seen.gone:
                    yield _labelled(replace(seen.instance, host=region), seen.tags)
        for each in account.pages("describe_launch_templates", "LaunchTemplates", Filters=filters):
            since = each["CreateTime"].timestamp()
            yield _thing(TEMPLATE, region, each["LaunchTemplateId"], read_tags(each), since, "")
        for rule in leftover_rules(account):
            if rule.tags.get(USER) == user_of(self._options):
                yield _thing(RULE, region, rule.id, rule.tags, 0.0, f"lets {rule.address} in")
        free = [*filters, {"Name": "status", "Values": ["available", "error"]}]  # others go with their instance
        for each in account.pages("describe_volumes", "Volumes", Filters=free):
            since = each["CreateTime"].timestamp()
            yield _thing(DISK, region, each["VolumeId"], read_tags(each), since, f"{each['Size']} GiB, unused")


def _thing(kind: str, region: str, id: str, tags: Mapping[str, str], since: float, reason: str) -> Instance:
    return _labelled(Instance(id=id, kind=kind, host=region, since=since, reason=reason), tags)


def _labelled(instance: Instance, tags: Mapping[str, str]) -> Instance:
    end = tags.get(EXPIRES, "")
    return replace(
        instance,
        cluster=tags.get(CLUSTER, ""),
        launch=tags.get(LAUNCH, ""),
        user=tags.get(USER, ""),
        expires=float(end) if end.isdecimal() else 0.0,
    )


def _each(remove: Callable[[Account, str], Any]) -> Callable[[Account, list[str]], dict[str, SystemFault | None]]:
    """Removes several things one by one."""

    def remove_all(account: Account, ids: list[str]) -> dict[str, SystemFault | None]:
        outcome: dict[str, SystemFault | None] = dict.fromkeys(ids)
        for id in ids:
            try:
                remove(account, id)
            except BigmError as error:
                if getattr(error, "code", "") not in _GONE:
                    outcome[id] = as_fault(error)
        return outcome

    return remove_all


def _revoke(account: Account, ids: list[str]) -> dict[str, SystemFault | None]:
    try:
        revoke(account, [rule for rule in leftover_rules(account) if rule.id in ids])
    except BigmError as error:
        return dict.fromkeys(ids, as_fault(error))
    return dict.fromkeys(ids)


_REMOVALS: dict[str, Callable[[Account, list[str]], dict[str, SystemFault | None]]] = {
    TEMPLATE: _each(lambda account, id: account.ask("delete_launch_template", LaunchTemplateId=id)),
    RULE: _revoke,
    DISK: _each(lambda account, id: account.ask("delete_volume", VolumeId=id)),
}
