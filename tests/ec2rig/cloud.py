"""The account that moto keeps, set up as a real one is: a default network, images, and what they are found by.

Its network is below 127.0.0.0/8, so that every instance has an address of its own on the loopback interface.
"""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_network
from itertools import product
from typing import Any, NamedTuple

os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"  # thousands, read by moto when it is imported

from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.instance_types import INSTANCE_TYPES, InstanceType, InstanceTypeBackend
from moto.moto_api._internal.models import moto_api_backend
from moto.ssm.models import Parameter, ssm_backends

ACCOUNT = "123456789012"
FAMILIES = (  # all of them take moto ten seconds to tell
    *("t3", "t4g", "m5", "m5d", "m6i", "m6a", "m7i", "m7i-flex", "m7a", "m7g", "m7gd", "m8g"),
    *("c7i", "c7g", "r7i", "i4i", "g5"),
)
CANONICAL = "/aws/service/canonical/ubuntu/server/{}/stable/current/{{amd}}/hvm/ebs-{}/ami-id"
AMAZON = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{arch}"


class Image(NamedTuple):
    """An image there is: its id, name, owner, root device, architecture, the minor version of its python3, by SSM."""

    id: str
    name: str
    owner: str
    root: str
    architecture: str
    minor: str
    parameter: str


KINDS = (  # as of Image, with {arch} for "x86_64" and {amd} for "amd64"
    ("debian-12-{amd}-20261020", "136693071363", "/dev/xvda", "3.11", "/aws/service/debian/release/12/latest/{amd}"),
    ("debian-13-{amd}-20261020", "136693071363", "/dev/xvda", "3.13", "/aws/service/debian/release/13/latest/{amd}"),
    ("ubuntu-noble-24.04-{amd}-server", "099720109477", "/dev/sda1", "3.12", CANONICAL.format("24.04", "gp3")),
    ("ubuntu-jammy-22.04-{amd}-server", "099720109477", "/dev/sda1", "3.10", CANONICAL.format("22.04", "gp2")),
    ("al2023-ami-2023.9-kernel-6.1-{arch}", "137112412989", "/dev/xvda", "3.9", AMAZON),
)
IMAGES = tuple(
    Image(f"ami-{number:017x}", name.format(**words), owner, root, words["arch"], minor, parameter.format(**words))
    for number, (words, (name, owner, root, minor, parameter)) in enumerate(
        product(({"arch": "x86_64", "amd": "amd64"}, {"arch": "arm64", "amd": "arm64"}), KINDS)
    )
)


class Cloud:
    """One account in one region, empty but for what every account has.

    Args:
        region: its name.
        network: of its default VPC, as in "127.77.0.0/16".
    """

    def __init__(self, region: str, network: str) -> None:
        moto_api_backend.reset()
        kinds = [name for name in INSTANCE_TYPES if name.split(".")[0] in FAMILIES]
        InstanceTypeBackend.instance_types = [InstanceType(name) for name in kinds]
        self.region = region
        self.ec2: Any = ec2_backends[ACCOUNT][region]
        self.ssm: Any = ssm_backends[ACCOUNT][region]
        self._make_network(network)
        for image in IMAGES:
            self._add_image(image)

    def _make_network(self, network: str) -> None:
        vpc = self.ec2.get_default_vpc()
        for subnet in self.subnets():
            self.ec2.delete_subnet(subnet.id)
        vpc.cidr_block = network
        for association in vpc._cidr_block_association_set.values():
            association["cidr_block"] = network
        for zone in self.ec2.describe_availability_zones():
            self.ec2.create_default_subnet(zone.name)

    def _add_image(self, image: Image) -> None:
        self.ec2.amis[image.id] = Ami(
            self.ec2,
            image.id,
            name=image.name,
            description=image.name,
            owner_id=image.owner,
            owner_alias="amazon",
            public=True,
            virtualization_type="hvm",
            architecture=image.architecture,
            hypervisor="xen",
            root_device_type="ebs",
            root_device_name=image.root,
        )
        # The interface refuses names that begin with /aws.
        self.ssm._parameters[image.parameter] = [
            Parameter(
                account_id=ACCOUNT,
                name=image.parameter,
                value=image.id,
                parameter_type="String",
                description=None,
                allowed_pattern=None,
                keyid=None,
                last_modified_date=1.79e9,
                version=1,
                data_type="aws:ec2:image",
            )
        ]

    def subnets(self) -> list[Any]:
        """All subnets, in the order of their zones."""
        found = [subnet for zone in self.ec2.subnets.values() for subnet in zone.values()]
        return sorted(found, key=lambda subnet: str(subnet.availability_zone))

    def zones(self) -> list[str]:
        """The names of the zones there are subnets in."""
        return sorted({subnet.availability_zone for subnet in self.subnets()})

    def remove_network(self) -> None:
        """Leave no default network, as in accounts where it was deleted."""
        for subnet in self.subnets():
            self.ec2.delete_subnet(subnet.id)
        self.ec2.get_default_vpc().is_default = False

    def instances(self) -> list[Any]:
        """All instances there ever were."""
        return [each for reservation in self.ec2.reservations.values() for each in reservation.instances]

    def instance(self, id: str) -> Any:
        """An instance by its id."""
        return self.ec2.get_instance(id)

    def default_group(self) -> str:
        """Id of the security group of instances that name none."""
        return str(self.ec2.get_security_group_from_name("default", self.ec2.get_default_vpc().id).id)

    def let_in(self) -> list[str]:
        """The addresses that any security group lets in."""
        groups = [group for vpc in self.ec2.groups.values() for group in vpc.values()]
        return [rule.ip_range["CidrIp"] for group in groups for rule in group.ingress_rules if rule.ip_range]

    def is_open(self, instance: Any, port: int, address: str) -> bool:
        """Whether a security group of the instance lets *address* in."""
        for rule in [rule for group in instance.security_groups for rule in group.ingress_rules]:
            right_port = rule.from_port is None or int(rule.from_port) <= port <= int(rule.to_port)
            if right_port and rule.ip_range and ip_address(address) in ip_network(rule.ip_range["CidrIp"]):
                return True
        return False


def architectures(type_name: str) -> list[str]:
    """The architectures of a type of instance; none: there is no such type."""
    found = INSTANCE_TYPES.get(type_name)
    return list(found["ProcessorInfo"]["SupportedArchitectures"]) if found else []


def image_by_id(id: str) -> Image | None:
    """The image of that id, if it is one of the rig's."""
    return next((image for image in IMAGES if image.id == id), None)
