"""What the distributions of an environment ask of one another and do not get.

An environment can be at odds with itself and run all the same: pip warns, and installs. pex does not take it as it is,
so it is told which requirements to pass over, and the user is told that they are.

Source: `pip check`; PEP 508 by `packaging`.
"""

from __future__ import annotations

import email.parser
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from bigm.bundle.environment import Installed, normal


class Metadata(NamedTuple):
    """What a distribution says about itself.

    Args:
        name: as its author writes it.
        version: exactly.
        requires: its requirements, those of extras among them.
    """

    name: str
    version: str
    requires: tuple[str, ...]

    @property
    def pinned(self) -> str:
        """The requirement that nothing else meets."""
        try:
            Version(self.version)
        except InvalidVersion:
            return f"{self.name}==={self.version}"
        return f"{self.name}=={self.version}"


class Conflict(NamedTuple):
    """One requirement that is not met.

    Args:
        requiring: the distribution that has it, "pandas 2.1".
        requirement: "numpy>=2".
        name: of what is required, normalised.
        installed: version of it that is there; "" when there is none.
    """

    requiring: str
    requirement: str
    name: str
    installed: str

    def __str__(self) -> str:
        there = f"{self.name} {self.installed} is installed" if self.installed else f"{self.name} is not installed"
        return f"{self.requiring} requires {self.requirement}, and {there}"


def metadata_of(each: Installed) -> Metadata:
    """Read a distribution's METADATA."""
    found = email.parser.HeaderParser().parsestr(each.read("METADATA").decode("utf-8", "replace"))
    name, version = found.get("Name", each.name), found.get("Version", each.version)
    return Metadata(str(name), str(version), tuple(map(str, found.get_all("Requires-Dist", []))))


def conflicts(installed: Mapping[str, Metadata], markers: Mapping[str, str]) -> Iterator[Conflict]:
    """The requirements among distributions, by normalised name, that are not met. Extras nobody may have asked for.

    Args:
        markers: environment that requirements depend on, where it is not the running interpreter's.
    """
    for each in installed.values():
        for requirement in _requirements(each.requires):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": "", **markers}):
                continue
            name = normal(requirement.name)
            version = installed[name].version if name in installed else ""
            if not version or not _meets(requirement, version):
                yield Conflict(f"{each.name} {each.version}", str(requirement), name, version)


def requires(installed: Iterable[Metadata], name: str) -> bool:
    """Any of them depends on *name*."""
    return any(
        normal(found.name) == name for each in installed for found in _requirements(each.requires) if not found.marker
    )


def _requirements(texts: Iterable[str]) -> Iterator[Requirement]:
    for text in texts:
        try:
            yield Requirement(text)
        except InvalidRequirement:
            continue  # of a distribution older than the rules; pip passes over it too


def _meets(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return False
