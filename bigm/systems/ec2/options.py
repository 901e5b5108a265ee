"""The section `ec2` of the configuration: every argument of the system, with its default. Checked where it is used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DEFAULT_TYPES = ("m7i-flex.large", "m7i.large", "m7a.large", "m6i.large", "m6a.large", "m5.large")
PORT = 8410  # of the agent on every instance; any would do, it is open to the driver alone
PURCHASES = ("spot-else-on-demand", "spot", "on-demand")
WAYS = ("public", "private", "ssh")


def _option(default: Any, what: str) -> Any:
    return field(default=default, metadata={"what": what})


@dataclass(frozen=True)
class Options:
    """The arguments of the system. Its fields are the keys."""

    region: str = _option("", "the AWS region; empty: as AWS's own settings say; there is no default beyond")
    regions: tuple[str, ...] = _option(
        (), "regions where `bigm gc` and `bigm ps --system ec2` look; empty: all that the account has enabled"
    )
    aws_profile: str = _option("", "the profile of AWS's own settings whose credentials are used; empty: their default")

    instance_types: tuple[str, ...] = _option(
        (), f"types of instances, tried side by side; empty: as `requires` says, else {', '.join(DEFAULT_TYPES)}"
    )
    requires: str = _option(
        "", 'what an instance must have, instead of types, as in "8 vCPU, 32 GiB, arm64, local NVMe" or "1 GPU"'
    )
    purchase: str = _option(
        "spot-else-on-demand",
        "how instances are bought: `spot`, `on-demand`, `spot-else-on-demand` where there is no spot capacity or no "
        "quota for it, or a number: so many on demand, the others spot",
    )

    image: str = _option(
        "",
        "the image, by its id or by the path of an SSM parameter; empty: of Debian or Ubuntu, the one whose Python is "
        "the driver's minor version",
    )
    instance_profile: str = _option("", "name or ARN of the instance profile that programs there have as credentials")
    security_groups: tuple[str, ...] = _option(
        (), "ids of the groups instances are in, which must let the driver in; empty: one that bigm makes"
    )
    subnets: tuple[str, ...] = _option((), "ids of the subnets instances are in; empty: the default ones of each zone")
    root_gib: int = _option(50, "GiB of the root disk (gp3)")
    data_gib: int = _option(
        0,
        "GiB of data disks (gp3, 250 MiB/s each) at /mnt/data, where the type has no instance store, which is used "
        "without being asked",
    )
    data_stripes: int = _option(1, "disks that data_gib is striped over, each of at least 16 GiB; 25 at most")
    ssh_keys: tuple[str, ...] = _option(
        (), "public keys, or files of such, that may log in, for looking around; port 22 has to be opened besides"
    )
    key_pair: str = _option("", "name of a key pair of the account that may log in; as ssh_keys")
    tags: tuple[str, ...] = _option((), "further tags of all that is made, each as name=value")
    files: tuple[str, ...] = _option((), "files that instances are given, each as path-here:path-there")
    units: tuple[str, ...] = _option((), "files of systemd units that instances are given and start")
    user: str = _option("", "whose instances they are, in tags; empty: this computer's user")
    open_files: int = _option(1048576, "files that a process there may have open")
    connect: str = _option(
        "public",
        "how the driver reaches instances: at their `public` or `private` addresses, or by `proxy_command` (`ssh`)",
    )
    proxy_command: str = _option(
        "",
        "with connect: ssh, the command whose standard input and output lead to port %p of %h, an instance's private "
        "address; %n is its id",
    )
    own_address: str = _option(
        "",
        "the address that the port is opened to, as 203.0.113.7 or 203.0.113.0/24; empty: found; all of the VPC "
        "with connect: ssh",
    )
    address_service: str = _option(
        "https://checkip.amazonaws.com", "what tells this computer's public address when it is asked by http"
    )
    immortal: bool = _option(
        False,
        "instances outlive a killed driver, lease and lifetime until they are ended by hand: only to look into a fault",
    )
