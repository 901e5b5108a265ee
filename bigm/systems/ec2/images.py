"""Which image instances boot: the one whose Python is the driver's minor version, or the one that the user names.

Debian and Ubuntu tell their newest images by public parameters of SSM, in every region and for both architectures.

Source: https://wiki.debian.org/Cloud/AmazonEC2Image, https://documentation.ubuntu.com/aws, EC2's DescribeImages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bigm.errors import ConfigError
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.options import Options

# By the minor version of their python3: the parameters of images, with AWS's name of an architecture as {}.
PARAMETERS = {
    "3.10": "/aws/service/canonical/ubuntu/server/22.04/stable/current/{}/hvm/ebs-gp2/ami-id",
    "3.11": "/aws/service/debian/release/12/latest/{}",
    "3.12": "/aws/service/canonical/ubuntu/server/24.04/stable/current/{}/hvm/ebs-gp3/ami-id",
    "3.13": "/aws/service/debian/release/13/latest/{}",
}
_NEWEST = "3.13"  # for drivers of any other version: workers get an interpreter that is sent
_ARCHITECTURES = {"x86_64": "amd64", "arm64": "arm64"}  # EC2's name -> Debian's and Ubuntu's
_ID = re.compile(r"ami-[0-9a-f]+")
_PREFIX = "resolve:ssm:"  # as launch templates have it

# By the names that their makers give images; those of others tell nothing.
_PYTHONS = (
    (re.compile(r"debian-12-"), "3.11"),
    (re.compile(r"debian-13-"), "3.13"),
    (re.compile(r"(ubuntu/.*)?ubuntu-jammy-22\.04-"), "3.10"),
    (re.compile(r"(ubuntu/.*)?ubuntu-noble-24\.04-"), "3.12"),
    (re.compile(r"al2023-ami-"), "3.9"),
)


@dataclass(frozen=True)
class Image:
    """An image that instances can boot.

    Args:
        id: "ami-...".
        root_device: the name of its root disk ("/dev/xvda").
        minor: of the python3 it has ("3.11"), or "" where that is not known.
        name: as its maker calls it.
    """

    id: str
    root_device: str
    minor: str = ""
    name: str = ""


def resolve_image(account: Account, options: Options, minor: str, architecture: str) -> Image:
    """The image for a launch.

    Args:
        minor: of the Python that workers are to run, as "3.11".
        architecture: of the types, "x86_64" or "arm64".
    Raises:
        ConfigError: there is no such image, or it does not fit the types or the root disk.
        SystemFault: AWS does not tell.
    """
    named = options.image.removeprefix(_PREFIX)
    if _ID.fullmatch(named):
        return _examined(account, named, options, architecture)
    if named and not named.startswith("/"):
        raise ConfigError(
            f"ec2.image: {options.image!r} is neither an id nor the path of an SSM parameter",
            hint="write as in ami-0123456789abcdef0, or /aws/service/debian/release/12/latest/amd64",
        )
    parameter = named or PARAMETERS.get(minor, PARAMETERS[_NEWEST]).format(_ARCHITECTURES[architecture])
    found = account.ask("get_parameter", service="ssm", Name=parameter)["Parameter"]["Value"]
    if not _ID.fullmatch(found):
        raise ConfigError(f"ec2.image: the parameter {parameter} holds {found[:60]!r}, which is no image's id")
    return _examined(account, found, options, architecture)


def _examined(account: Account, id: str, options: Options, architecture: str) -> Image:
    """What EC2 knows of an image, if instances can boot it."""
    known = account.ask("describe_images", ImageIds=[id])["Images"]
    if not known:
        raise ConfigError(
            f"ec2.image: there is no image {id} in {account.region} that this account may use",
            hint="images are of one region: look with `aws ec2 describe-images --image-ids`",
        )
    record = known[0]
    _check(record, options, architecture)
    name = record.get("Name", "")
    minor = next((minor for pattern, minor in _PYTHONS if pattern.match(name)), "")
    return Image(id, record["RootDeviceName"], minor, name)


def _check(record: dict[str, Any], options: Options, architecture: str) -> None:
    subject = f"ec2.image: {record['ImageId']} ({record.get('Name', 'without a name')})"
    if record.get("Architecture", architecture) != architecture:
        raise ConfigError(
            f"{subject} is of {record['Architecture']}, and the instance types are of {architecture}",
            hint="name another image, or other types with ec2.instance_types",
        )
    if record.get("State", "available") != "available":
        raise ConfigError(f"{subject} is {record['State']}", hint="name one that is available")
    if record.get("Platform") == "windows" or record.get("RootDeviceType", "ebs") != "ebs":
        raise ConfigError(f"{subject} is no Linux on a disk of EBS", hint="name another")
    least = max(
        (disk["Ebs"].get("VolumeSize", 0) for disk in record.get("BlockDeviceMappings", ()) if _is_root(disk, record)),
        default=0,
    )
    if least > options.root_gib:
        raise ConfigError(f"{subject} needs a root disk of {least} GiB", hint=f"ec2.root_gib is {options.root_gib}")


def _is_root(disk: dict[str, Any], record: dict[str, Any]) -> bool:
    return "Ebs" in disk and disk.get("DeviceName") == record.get("RootDeviceName")
