"""CreateFleet as EC2 does it: moto's drops security groups, disks, metadata options, and never has too little.

Instances are made by moto's RunInstances, with all that template and overrides say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ec2rig.cloud import Cloud, architectures, image_by_id
from ec2rig.wire import Refused

UNLIMITED = 1 << 30


@dataclass
class Pool:
    """How much there is of something; what is "" or None is any.

    Args:
        left: instances that can still be launched.
        code: the error when there are none.
        type: of instance.
        zone: where.
        spot: whether it is about spot instances.
    """

    left: int
    code: str = "InsufficientInstanceCapacity"
    type: str = ""
    zone: str = ""
    spot: bool | None = None

    def is_of(self, type: str, zone: str, spot: bool) -> bool:
        """Whether instances of that kind are taken out of it."""
        return self.type in ("", type) and self.zone in ("", zone) and self.spot in (None, spot)


class Fleets:
    """Makes instances.

    Args:
        cloud: where.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.pools: list[Pool] = []
        self._cloud = cloud
        self._count = 0

    def create(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """CreateFleet: its parameters, and what it answers.

        Raises:
            Refused: the request as a whole.
        """
        _check(wanted)
        places = list(self._places(wanted))
        if wanted.get("DryRun"):
            raise Refused("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
        self._count += 1
        made: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for spot, count in _targets(wanted["TargetCapacitySpecification"]):
            self._fill(wanted, places, spot, count, made, errors)
        least = (wanted.get("SpotOptions") or {}).get("MinTargetCapacity", 0)
        if sum(len(each["InstanceIds"]) for each in made) < least:
            self._cloud.ec2.terminate_instances([id for each in made for id in each["InstanceIds"]])
            made = []
        return {"FleetId": f"fleet-{self._count:08x}", "Instances": made, "Errors": errors}

    def _fill(
        self,
        wanted: dict[str, Any],
        places: list[tuple[dict[str, Any], dict[str, Any]]],
        spot: bool,
        count: int,
        made: list[dict[str, Any]],
        errors: list[dict[str, Any]],
    ) -> None:
        """Launch *count* instances where there are any."""
        for told, data in places:
            if count == 0:
                return
            shown = {"LaunchTemplateAndOverrides": told, "Lifecycle": "spot" if spot else "on-demand"}
            try:
                ids = self._launch(data, wanted, spot, count)
            except Refused as error:
                errors.append({**shown, "ErrorCode": error.code, "ErrorMessage": str(error)})
                continue
            count -= len(ids)
            made.append({**shown, "InstanceIds": ids, "InstanceType": data["InstanceType"]})

    def _launch(self, data: dict[str, Any], wanted: dict[str, Any], spot: bool, count: int) -> list[str]:
        """As many of *count* instances as the pools have; what they are is checked as EC2 checks it."""
        subnet = self._subnet(data)
        kind, zone = data["InstanceType"], subnet.availability_zone
        pools = [pool for pool in self.pools if pool.is_of(kind, zone, spot)]
        empty = next((pool for pool in pools if pool.left <= 0), None)
        if empty is not None:
            raise Refused(empty.code)
        image = image_by_id(data["ImageId"])
        if image is None:
            raise Refused("InvalidAMIID.NotFound", f"The image id '[{data['ImageId']}]' does not exist")
        if image.architecture not in architectures(kind):
            raise Refused("InvalidParameterValue", f"The architecture of {kind} does not match that of {image.id}")
        if spot and data.get("InstanceInitiatedShutdownBehavior") != "terminate":
            raise Refused("InvalidParameterCombination", "spot instances do not stop")
        count = min([count, *(pool.left for pool in pools)])
        ids = self._run(data, wanted, subnet, spot, count)
        for pool in pools:
            pool.left -= count
        return ids

    def _run(self, data: dict[str, Any], wanted: dict[str, Any], subnet: Any, spot: bool, count: int) -> list[str]:
        [card] = data.get("NetworkInterfaces") or [{}]
        groups = card.get("Groups") or data.get("SecurityGroupIds") or []
        for group in groups:
            if self._cloud.ec2.get_security_group_from_id(group) is None:
                raise Refused("InvalidGroup.NotFound", f"The security group '{group}' does not exist")
        key = data.get("KeyName")
        if key and not any(pair.name == key for pair in self._cloud.ec2.describe_key_pairs()):
            raise Refused("InvalidKeyPair.NotFound", f"The key pair '{key}' does not exist")
        public = card.get("AssociatePublicIpAddress", subnet.map_public_ip_on_launch in (True, "true"))
        reservation = self._cloud.ec2.run_instances(
            data["ImageId"],
            count,
            data.get("UserData"),
            [],
            instance_type=data["InstanceType"],
            is_instance_type_default=False,
            placement=None,
            region_name=self._cloud.region,
            subnet_id=subnet.id,
            key_name=key,
            security_group_ids=groups or [self._cloud.default_group()],
            nics=[],
            associate_public_ip=public,
            tags=_tags(data, wanted),
            instance_market_options="spot" if spot else {},
            instance_initiated_shutdown_behavior=data.get("InstanceInitiatedShutdownBehavior"),
            metadata_options=data.get("MetadataOptions", {}),
            block_device_mappings=[each for each in data.get("BlockDeviceMappings", []) if "Ebs" in each],
            client_token=wanted.get("ClientToken"),
        )
        for instance in reservation.instances:
            for interface in instance.nics.values():
                interface.add_tags(_tags(data, wanted).get("network-interface", {}))
                interface.public_ip = instance.private_ip if public else None  # the only address that Linux can dial
        return [instance.id for instance in reservation.instances]

    def _subnet(self, data: dict[str, Any]) -> Any:
        [card] = data.get("NetworkInterfaces") or [{}]
        wanted, subnets = data.get("SubnetId") or card.get("SubnetId"), self._cloud.subnets()
        if wanted:
            found = [subnet for subnet in subnets if subnet.id == wanted]
        else:
            zone = data.get("AvailabilityZone") or (data.get("Placement") or {}).get("AvailabilityZone")
            found = [subnet for subnet in subnets if zone in (None, subnet.availability_zone)]
        if not found:
            raise Refused("InvalidSubnetID.NotFound", f"The subnet ID '{wanted}' does not exist")
        return found[0]

    def _places(self, wanted: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Each template with each of its overrides: as it is told in the reply, and all that holds for it."""
        for config in wanted["LaunchTemplateConfigs"]:
            asked = config["LaunchTemplateSpecification"]
            template = self._template(asked)
            data = template.get_version(asked["Version"]).data
            named = {"LaunchTemplateId": template.id, "Version": str(template.latest_version_number)}
            for override in config.get("Overrides") or [{}]:
                told = {"LaunchTemplateSpecification": named, "Overrides": override}
                yield told, {**data, **override}

    def _template(self, asked: dict[str, Any]) -> Any:
        id, name = asked.get("LaunchTemplateId"), asked.get("LaunchTemplateName")
        for template in self._cloud.ec2.launch_templates.values():
            if id == template.id or (name and name == template.name):
                return template
        if id:
            raise Refused("InvalidLaunchTemplateId.NotFound", f"The launch template '{id}' does not exist")
        raise Refused("InvalidLaunchTemplateName.NotFoundException", f"there is no launch template '{name}'")


def _check(wanted: dict[str, Any]) -> None:
    """What EC2 refuses at once.

    Raises:
        Refused: the request as a whole.
    """
    if wanted.get("Type") != "instant":
        raise Refused("InvalidParameterValue", "the rig makes instant fleets only")
    check_tags(wanted.get("TagSpecifications", []))
    configs = wanted["LaunchTemplateConfigs"]
    if any("MaxPrice" in each for config in configs for each in config.get("Overrides") or []):
        raise Refused("InvalidParameterValue", "nobody should set a maximum price")


def check_tags(specifications: list[dict[str, Any]]) -> None:
    """Hold tags to the limits of EC2.

    Raises:
        Refused: they are not within them.
    """
    for each in specifications:
        for tag in each.get("Tags", []):
            if len(tag["Key"]) > 128 or len(tag.get("Value", "")) > 256 or tag["Key"].startswith("aws:"):
                raise Refused("InvalidParameterValue", f"the tag {tag['Key']!r} is not within the limits")
        if len(each.get("Tags", [])) > 50:
            raise Refused("TagLimitExceeded", "more than 50 tags")


def _targets(wanted: dict[str, Any]) -> list[tuple[bool, int]]:
    """How many on demand, and how many spot."""
    on_demand, spot = wanted.get("OnDemandTargetCapacity", 0), wanted.get("SpotTargetCapacity", 0)
    rest = wanted["TotalTargetCapacity"] - on_demand - spot
    if wanted.get("DefaultTargetCapacityType", "on-demand") == "spot":
        return [(False, on_demand), (True, spot + rest)]
    return [(False, on_demand + rest), (True, spot)]


def _tags(data: dict[str, Any], wanted: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Tags by the type of what bears them, of the template and of the request."""
    found: dict[str, dict[str, str]] = {}
    for each in (*data.get("TagSpecifications", []), *wanted.get("TagSpecifications", [])):
        tags = {tag["Key"]: tag.get("Value", "") for tag in each.get("Tags", [])}
        found.setdefault(each["ResourceType"], {}).update(tags)
    return found
