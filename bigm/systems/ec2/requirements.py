"""What an instance must have, as a user writes it: "8 vCPU, 32 GiB, arm64, local NVMe"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bigm.errors import ConfigError

ANY = 1.0  # GiB of local disks, where no size is asked for
_EXAMPLE = 'write as in "8 vCPU, 32 GiB, arm64, local NVMe, 1 GPU"'

_NUMBER = r"(?P<number>[0-9]+(?:\.[0-9]+)?)"
_UNITS = {"mib": 2**20, "mb": 2**20, "gib": 2**30, "gb": 2**30, "tib": 2**40, "tb": 2**40}  # loosely, as of memory
_DISK_UNITS = {**_UNITS, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = rf"{_NUMBER}\s*(?P<unit>{'|'.join(_UNITS)})"
_CPUS = re.compile(rf"{_NUMBER}\s*(?:vcpus?|cpus?|cores?)")
_MEMORY = re.compile(rf"{_SIZE}(?:\s+(?:of\s+)?(?:memory|ram))?")
_STORE = re.compile(rf"(?:{_SIZE}\s+(?:of\s+)?)?(?:local\s+(?:nvme|ssd|disk)|nvme|instance\s+store)")
_GPUS = re.compile(r"(?:(?P<number>[0-9]+)\s*)?gpus?")
_KINDS = {
    "arm64": "arm64",
    "aarch64": "arm64",
    "arm": "arm64",
    "x86_64": "x86_64",
    "x86-64": "x86_64",
    "amd64": "x86_64",
    "x86": "x86_64",
}


@dataclass(frozen=True)
class Requirements:
    """What an instance must have at least.

    Args:
        vcpus: CPUs.
        memory: bytes; less than by default is too little for most programs.
        architecture: "x86_64" or "arm64".
        store: GiB of disks of its own; 0: none are needed.
        gpus: graphics processors; 0: it has none.
    """

    vcpus: float = 1
    memory: float = 2 * 2**30
    architecture: str = "x86_64"
    store: float = 0
    gpus: int = 0

    def __str__(self) -> str:
        """As `parse_requirements` reads it."""
        parts = [f"{self.vcpus:g} vCPU", f"{self.memory / 2**30:g} GiB", self.architecture]
        if self.store:
            parts.append("local NVMe" if self.store == ANY else f"{self.store:g} GiB local NVMe")
        if self.gpus:
            parts.append(f"{self.gpus} GPU")
        return ", ".join(parts)


def parse_requirements(text: str) -> Requirements:
    """Read "8 vCPU, 32 GiB, arm64, local NVMe": parts in any order, in any case, none of them twice.

    Raises:
        ConfigError: a part says nothing that can be required, or what another has said.
    """
    found: dict[str, Any] = {}
    for part in text.split(","):
        field, value = _part(" ".join(part.split()))
        if field in found:
            raise ConfigError(f"ec2.requires: {part.strip()!r} says again what another part says", hint=_EXAMPLE)
        found[field] = value
    return Requirements(**found)


def _part(text: str) -> tuple[str, float | str]:
    """The field of `Requirements` that a part sets, and its value."""
    word = text.lower()
    if word in _KINDS:
        return "architecture", _KINDS[word]
    if match := _CPUS.fullmatch(word):
        return "vcpus", float(match["number"])
    if match := _MEMORY.fullmatch(word):
        return "memory", float(match["number"]) * _UNITS[match["unit"]]
    if match := _STORE.fullmatch(word):
        return "store", float(match["number"]) * _DISK_UNITS[match["unit"]] / 2**30 if match["number"] else ANY
    if match := _GPUS.fullmatch(word):
        return "gpus", int(match["number"] or 1)
    raise ConfigError(f"ec2.requires: {text!r} is nothing that can be required of an instance", hint=_EXAMPLE)
