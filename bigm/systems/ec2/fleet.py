"""Launches instances: one launch template, one request for a fleet (two where spot falls short), and nothing else.

A fleet of type `instant` is asked for all instances at once, in all pools (types x subnets) side by side; AWS answers
with what it could launch and with an error for each pool that it could not. The request carries a token and all tags,
so that a reply that was lost is asked for again, and what a dead driver has left is found.

The template is made for one launch, since the user data has that launch's certificate, and deleted as soon as AWS has
answered: instances do not need it any more.

Source: "Use instant fleets" of the EC2 user guide.
"""

from __future__ import annotations

import base64
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bigm.errors import ConfigError, SystemFault, ThrottledError, TransientError
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.faults import DROP, look_up
from bigm.systems.ec2.labels import LAUNCH, Labels
from bigm.systems.ec2.options import PURCHASES, Options
from bigm.systems.ec2.refusals import ON_DEMAND, SPOT, Refusal, read_refusal
from bigm.systems.ec2.userdata import data_disks

_EITHER = "spot-else-on-demand"
_POOLS = 300  # that a request may name
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0  # seconds; each is drawn between half of it and all
_APPEARS = 30.0  # seconds until all zones know of what was made a moment ago, a template or a security group
_AGAIN = 2.0  # seconds until they are asked again
_REFUSED = (ConfigError, SystemFault)
_NO_TEMPLATE = ("InvalidLaunchTemplateName.NotFoundException", "InvalidLaunchTemplateId.NotFound")


@dataclass(frozen=True)
class Order:
    """What is launched, all decided.

    Args:
        launch: the launch's id.
        image: its id.
        root_device: name of the image's root device.
        types: names, in the order in which the user likes them.
        subnets: the zone of each, by id.
        groups: ids of the security groups.
        user_data: as it is sent, not encoded.
        tags: of all that is made.
    """

    launch: str
    image: str
    root_device: str
    types: tuple[str, ...]
    subnets: Mapping[str, str]
    groups: tuple[str, ...]
    user_data: bytes
    tags: Sequence[Mapping[str, str]]

    @property
    def template(self) -> str:
        """The name of its launch template."""
        return f"bigm-{self.launch}"

    def pools(self) -> list[tuple[str, str]]:
        """Types and subnets, as many as a request may name."""
        return [(kind, subnet) for kind in self.types for subnet in self.subnets][:_POOLS]


@dataclass
class Outcome:
    """What a launch came to.

    Args:
        ids: of the instances that there are.
        refusals: what AWS said of each pool, and of the request as a whole.
    """

    ids: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


class Fleet:
    """Makes what is ordered.

    Args:
        account: where.
        options: how instances are bought, and what they are like.
        labels: of the cluster.
        given_up: set when nobody waits for a launch any more.
        rest: waits for so many seconds, or until *given_up*; a test that has no time gives another.
    """

    def __init__(
        self,
        account: Account,
        options: Options,
        labels: Labels,
        given_up: threading.Event,
        rest: Callable[[float], object] | None = None,
    ) -> None:
        check_purchase(options)
        self._account = account
        self._options = options
        self._labels = labels
        self._given_up = given_up
        self._rest = rest or given_up.wait
        self._buying = threading.Lock()
        self._bought = 0  # on demand, where so many are to be
        self._templates: dict[str, None] = {}  # names; those of requests whose answer was lost too

    def launch(self, n: int, order: Order, deadline: float) -> Outcome:
        """Launch *n* instances, or as many as there are.

        Args:
            n: from 1.
            order: what.
            deadline: monotonic clock, until which AWS's own trouble is waited out.
        Raises:
            SystemFault, ConfigError: nothing was launched, and why.
        """
        outcome = Outcome()
        try:
            template = self._make_template(order, deadline)
            for number, (spot, on_demand) in enumerate(self._purchases(n, outcome)):
                token = f"{order.launch}-{number}" if number else order.launch
                self._buy(spot, on_demand, template, token, order, outcome, deadline)
        except _REFUSED as error:
            if not outcome.ids:
                raise
            outcome.refusals.append(Refusal(getattr(error, "code", ""), error=error))
        finally:
            self._delete_template(order.template)
        return outcome

    def delete_templates(self) -> None:
        """Delete those that are left."""
        for template in list(self._templates):
            self._delete_template(template)

    def _delete_template(self, name: str) -> None:
        """Delete one. If it cannot be it is tried again at the end, and found by its tags after that."""
        try:
            self._account.ask("delete_launch_template", LaunchTemplateName=name)
        except _REFUSED as error:
            if getattr(error, "code", "") not in _NO_TEMPLATE:
                return
        self._templates.pop(name, None)

    def _purchases(self, n: int, outcome: Outcome) -> Iterator[tuple[int, int]]:
        """How many to ask for as spot and on demand, request by request."""
        purchase = self._options.purchase
        if purchase.isdecimal():
            with self._buying:
                on_demand = min(n, max(0, int(purchase) - self._bought))
                self._bought += on_demand
            yield n - on_demand, on_demand
        elif purchase == ON_DEMAND:
            yield 0, n
        else:
            yield n, 0
            if purchase == _EITHER and len(outcome.ids) < n and not any(one.is_final for one in outcome.refusals):
                yield 0, n - len(outcome.ids)

    def _buy(
        self,
        spot: int,
        on_demand: int,
        template: str,
        token: str,
        order: Order,
        outcome: Outcome,
        deadline: float,
    ) -> None:
        useless = {(one.kind, one.subnet) for one in outcome.refusals if look_up(one.code, one.message).then == DROP}
        pools = [pool for pool in order.pools() if pool not in useless] or order.pools()
        request = _fleet_request(spot, on_demand, template, token, pools, order.tags)
        end = min(deadline, time.monotonic() + _APPEARS)
        for attempt in itertools.count(1):
            made, refusals = self._ask_for(request, spot + on_demand, order.launch, deadline)
            passes = bool(refusals) and all(one.passes for one in refusals)
            if made or not passes or self._given_up.is_set() or time.monotonic() > end:
                break
            request = {**request, "ClientToken": f"{token}.{attempt}"}  # with the same one nothing would happen again
            self._rest(_AGAIN)
        outcome.ids += [id for id in dict.fromkeys(made) if id not in outcome.ids]
        outcome.refusals += refusals

    def _ask_for(
        self, request: Mapping[str, Any], n: int, launch: str, deadline: float
    ) -> tuple[list[str], list[Refusal]]:
        """One fleet of *n* instances: ids of those that there are, and why they are not all."""
        try:
            answer, repeated = self._persist("create_fleet", request, deadline)
        except SystemFault as error:
            way = request["TargetCapacitySpecification"]["DefaultTargetCapacityType"]
            refusal = Refusal(error.code, error.message, way, error=error)
            if refusal.is_final:
                raise
            return [], [refusal]
        made = [id for group in answer.get("Instances", ()) for id in group.get("InstanceIds", ())]
        if repeated and len(made) < n:
            made += self._made(launch)
        return made, [read_refusal(error) for error in answer.get("Errors", ())]

    def _made(self, launch: str) -> list[str]:
        """What a launch has made, by its tag: AWS does not say whether a repeated request is answered in full."""
        filters = [{"Name": f"tag:{LAUNCH}", "Values": [launch]}]
        found = self._account.pages("describe_instances", "Reservations", Filters=filters)
        return [str(instance["InstanceId"]) for reservation in found for instance in reservation["Instances"]]

    def _make_template(self, order: Order, deadline: float) -> str:
        request = {
            "LaunchTemplateName": order.template,
            "ClientToken": order.launch,
            "LaunchTemplateData": template_data(order, self._options),
            "TagSpecifications": [{"ResourceType": "launch-template", "Tags": order.tags}],
        }
        self._templates[order.template] = None
        answer, _ = self._persist("create_launch_template", request, deadline)
        return str(answer["LaunchTemplate"]["LaunchTemplateId"])

    def _persist(self, operation: str, request: Mapping[str, Any], deadline: float) -> tuple[dict[str, Any], bool]:
        """Send a request, and again while AWS or the network is in trouble: its token makes it one request.

        Returns:
            The answer, and whether an earlier one may have been lost.
        """
        pause, repeated = _FIRST_PAUSE, False
        while True:
            try:
                return self._account.make(operation, **request), repeated
            except (ThrottledError, TransientError):
                repeated = True
                wait = random.uniform(pause / 2, pause)  # so that many drivers do not come back at once
                if self._given_up.is_set() or time.monotonic() + wait > deadline:
                    raise
                self._rest(wait)
                pause = min(2 * pause, _LONGEST_PAUSE)


def check_purchase(options: Options) -> None:
    """Refuse what is no way of buying.

    Raises:
        ConfigError: the user's.
    """
    if options.purchase not in PURCHASES and not options.purchase.isdecimal():
        raise ConfigError(f"ec2.purchase must be {', '.join(PURCHASES)} or a number, not {options.purchase!r}")


def template_data(order: Order, options: Options) -> dict[str, Any]:
    """What the launch template says: all that instances of a launch have in common."""
    root = {"VolumeSize": options.root_gib, "VolumeType": "gp3", "DeleteOnTermination": True}
    interface: dict[str, Any] = {"DeviceIndex": 0, "Groups": list(order.groups), "DeleteOnTermination": True}
    if options.connect == "public":  # else the subnet says
        interface["AssociatePublicIpAddress"] = True
    data: dict[str, Any] = {
        "ImageId": order.image,
        "UserData": base64.b64encode(order.user_data).decode(),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
        "BlockDeviceMappings": [{"DeviceName": order.root_device, "Ebs": root}, *data_disks(options)],
        "NetworkInterfaces": [interface],
        "TagSpecifications": [{"ResourceType": "network-interface", "Tags": order.tags}],
    }
    if options.key_pair:
        data["KeyName"] = options.key_pair
    if options.instance_profile:
        key = "Arn" if options.instance_profile.startswith("arn:") else "Name"
        data["IamInstanceProfile"] = {key: options.instance_profile}
    return data


def _fleet_request(
    spot: int,
    on_demand: int,
    template: str,
    token: str,
    pools: Sequence[tuple[str, str]],
    tags: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    request: dict[str, Any] = {
        "Type": "instant",
        "ClientToken": token,
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": spot + on_demand,
            "SpotTargetCapacity": spot,
            "OnDemandTargetCapacity": on_demand,
            "DefaultTargetCapacityType": SPOT if spot else ON_DEMAND,
        },
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "1"},
                "Overrides": [{"InstanceType": kind, "SubnetId": subnet} for kind, subnet in pools],
            }
        ],
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("fleet", "instance", "volume")],
    }
    if spot:  # never a maximum price: what is too dear is a matter of types and zones
        request["SpotOptions"] = {"AllocationStrategy": "price-capacity-optimized"}
    if on_demand:
        request["OnDemandOptions"] = {"AllocationStrategy": "lowest-price"}
    return request
