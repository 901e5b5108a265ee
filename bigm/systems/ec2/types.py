"""Which types of instances a launch may use: those that are named, or those that have what is required.

All of a launch have one architecture, as there is one image for it. Types that are named are asked about by name;
requirements are matched against the list of all, which is kept in bigm's home for a week: that list is long, and
changes a few times a year.

Source: EC2's DescribeInstanceTypes, whose answers hold for the account's region.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigm.errors import ConfigError, SystemFault
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.kept import SECONDS, keep, path_of
from bigm.systems.ec2.options import DEFAULT_TYPES, Options
from bigm.systems.ec2.requirements import Requirements, parse_requirements

logger = logging.getLogger("bigm.ec2")

ARCHITECTURES = ("x86_64", "arm64")
_VERSION = 1  # of the listing's file: raised whenever what is read of a type changes
_NEAREST = 3  # names that a message offers
_CANDIDATES = 10  # more types do not find more capacity
_MUCH_LARGER = 1.5  # times the smallest that will do: what is larger costs as much more
_GIB_OF_A_CPU = 13.0  # GiB of memory cost about as much as a CPU does, over all families
_FAMILY = re.compile(r"[a-z]+(?P<generation>[0-9]+)(?P<extras>[a-z]*)")


@dataclass(frozen=True)
class InstanceType:
    """One kind of instance.

    Args:
        name: EC2's own ("m7i.large").
        vcpus: CPUs, as the system there counts them.
        memory: bytes.
        architecture: "x86_64" or "arm64".
        store: GiB of disks of the instance's own; 0: none.
        gpus: graphics processors.
        current: of a generation that AWS recommends.
        burstable: has its CPUs by credits only.
        plain: no bare metal, and no accelerator of another kind.
        spot: can be had as spot.
    """

    name: str
    vcpus: int
    memory: int
    architecture: str
    store: int = 0
    gpus: int = 0
    current: bool = True
    burstable: bool = False
    plain: bool = True
    spot: bool = True


def resolve_types(account: Account, options: Options, home: Path) -> list[InstanceType]:
    """The types that a launch may use, the one that suits best first.

    Args:
        home: bigm's folder, for the listing.
    Raises:
        ConfigError: no type of that name, none that has what is required, or several architectures.
        SystemFault: EC2 does not tell.
    """
    if options.instance_types and options.requires:
        raise ConfigError(
            "ec2.instance_types and ec2.requires are both given", hint="give one of them; the other empty"
        )
    if options.requires:
        return _required(account, parse_requirements(options.requires), options, home)
    found = _named(account, options.instance_types or DEFAULT_TYPES, home, own=bool(options.instance_types))
    return _of_one_architecture(found)


def list_types(account: Account, home: Path) -> list[InstanceType]:
    """All types of the region, in the order of their names; from bigm's home where they were asked for this week.

    Raises:
        SystemFault: EC2 does not tell.
    """
    path = path_of(home, "types", account.region)
    kept = _read(path)
    if kept is None:
        kept = sorted(_described(account), key=lambda one: one.name)
        keep(path, {"version": _VERSION, "types": [dataclasses.asdict(one) for one in kept]})
    return kept


def select(known: Iterable[InstanceType], wanted: Requirements) -> list[InstanceType]:
    """The types that have what is wanted, the least of them first: some of about the same size, no more.

    What nobody asked for is not taken: bare metal, CPUs by credits, accelerators; nor old generations, where there are
    others.
    """
    fit = [one for one in known if _is_enough(one, wanted)]
    fit = [one for one in fit if one.current] or fit
    least = min(map(_cost, fit), default=0.0)
    fit = [one for one in fit if _cost(one) <= least * _MUCH_LARGER]
    return sorted(fit, key=lambda one: _rank(one, wanted))[:_CANDIDATES]


def _is_enough(one: InstanceType, wanted: Requirements) -> bool:
    return (
        one.architecture == wanted.architecture
        and one.vcpus >= wanted.vcpus
        and one.memory >= wanted.memory
        and one.store >= wanted.store
        and (one.gpus >= wanted.gpus > 0 or one.gpus == wanted.gpus)
        and one.plain
        and not one.burstable
    )


def _cost(one: InstanceType) -> float:
    """What it costs about, in CPUs."""
    return one.vcpus + one.memory / 2**30 / _GIB_OF_A_CPU


def _rank(one: InstanceType, wanted: Requirements) -> tuple[float, bool, int, int, str]:
    """Small before large; then those without disks, networks and clocks that nobody asked for; then the newest."""
    family = _FAMILY.match(one.name)
    extras = set(family["extras"]) & set("nbzed") if family else set()
    unasked = one.store > 0 and not wanted.store
    return _cost(one), unasked, len(extras - {"d"}), -int(family["generation"]) if family else 0, one.name


def _required(account: Account, wanted: Requirements, options: Options, home: Path) -> list[InstanceType]:
    known = list_types(account, home)
    if options.purchase == "spot":
        known = [one for one in known if one.spot]
    found = select(known, wanted)
    if not found:
        raise ConfigError(
            f"ec2.requires: no instance type in {account.region} has {wanted}",
            hint="ask for less, or name types with ec2.instance_types",
        )
    return found


def _named(account: Account, names: Sequence[str], home: Path, *, own: bool) -> list[InstanceType]:
    """The types of these names, in their order, without those that the region has not."""
    # by filter, not by InstanceTypes, which one unknown name spoils
    described = {one.name: one for one in _described(account, [{"Name": "instance-type", "Values": list(names)}])}
    found = [described[name] for name in dict.fromkeys(names) if name in described]
    missing = [name for name in dict.fromkeys(names) if name not in described]
    if not found:
        raise ConfigError(
            f"ec2.instance_types: {account.region} has no {' and no '.join(missing)}",
            hint=_nearest(missing, account, home) if own else "name others, or another region",
        )
    if missing and own:
        text = f"ec2.instance_types: {account.region} has no {' and no '.join(missing)}; the others are used"
        logger.warning(text)
    return found


def _nearest(missing: Iterable[str], account: Account, home: Path) -> str:
    try:
        known = [one.name for one in list_types(account, home)]
    except SystemFault:  # the mistake is to be told all the same
        known = []
    near = dict.fromkeys(like for name in missing for like in difflib.get_close_matches(name, known, _NEAREST))
    return f"near are {', '.join(list(near)[:_NEAREST])}" if near else "see `aws ec2 describe-instance-types`"


def _of_one_architecture(found: list[InstanceType]) -> list[InstanceType]:
    by_kind: dict[str, list[str]] = {}
    for one in found:
        by_kind.setdefault(one.architecture, []).append(one.name)
    if len(by_kind) > 1:
        kinds = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in by_kind.items())
        raise ConfigError(
            f"ec2.instance_types are of several architectures ({kinds})",
            hint="all machines of a launch have one image: name types of one architecture",
        )
    return found


def _described(account: Account, filters: Sequence[dict[str, Any]] = ()) -> list[InstanceType]:
    asked: dict[str, Any] = {"Filters": list(filters)} if filters else {}
    found = [_parsed(record) for record in account.pages("describe_instance_types", "InstanceTypes", **asked)]
    return [one for one in found if one.architecture]


def _parsed(record: dict[str, Any]) -> InstanceType:
    kinds = record.get("ProcessorInfo", {}).get("SupportedArchitectures", ())
    others = ("FpgaInfo", "InferenceAcceleratorInfo", "MediaAcceleratorInfo", "NeuronInfo")
    return InstanceType(
        name=record["InstanceType"],
        vcpus=record["VCpuInfo"]["DefaultVCpus"],
        memory=record["MemoryInfo"]["SizeInMiB"] << 20,
        architecture=next((kind for kind in ARCHITECTURES if kind in kinds), ""),
        store=math.ceil(record.get("InstanceStorageInfo", {}).get("TotalSizeInGB", 0) * 1e9 / 2**30),
        gpus=sum(gpu.get("Count", 0) for gpu in record.get("GpuInfo", {}).get("Gpus", ())),
        current=record.get("CurrentGeneration", True),
        burstable=record.get("BurstablePerformanceSupported", False),
        plain=not record.get("BareMetal", False) and not any(record.get(other) for other in others),
        spot="spot" in record.get("SupportedUsageClasses", ("spot",)),
    )


def _read(path: Path) -> list[InstanceType] | None:
    """A listing that is fresh and whole, else None."""
    try:
        if time.time() - path.stat().st_mtime > SECONDS:
            return None
        kept = json.loads(path.read_text())
        return [InstanceType(**record) for record in kept["types"]] if kept["version"] == _VERSION else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
