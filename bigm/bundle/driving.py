"""What a driver needs besides its program's dependencies: bigm's own, where a file is to have all that there is.

A machine needs none of it. An environment that runs a driver has it; a script's block, or a file of requirements, may
say nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution

import bigm
from bigm.bundle.bundle import Dependencies
from bigm.bundle.environment import DependencyError, normal, some
from bigm.bundle.origins import Origins


def driving(origins: Origins) -> Origins:
    """The same, with what bigm depends on, where a script's block says what there is to be."""
    if origins.block is None:
        return origins
    dependencies = (*origins.block.dependencies, f"bigm=={bigm.__version__}")
    return replace(origins, block=replace(origins.block, dependencies=dependencies))


def check_drives(layers: Iterable[Dependencies]) -> None:
    """Refuse layers that no driver can run from.

    Raises:
        DependencyError: something that bigm depends on, and that is installed here, is missing in one; names it.
    """
    needed = _needed()
    for layer in layers:
        missing = sorted(needed - {normal(name.partition(" ")[0]) for name in layer.distributions})
        if missing:
            raise DependencyError(
                f"a driver could not run from the file: it would have no {some(missing)}, which bigm depends on",
                hint="add bigm to what says which distributions there are to be",
            )


def _needed() -> set[str]:
    """Names of the distributions that bigm asks for and that are installed here."""
    from packaging.requirements import Requirement

    found = set()
    for requirement in map(Requirement, distribution("bigm").requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            try:
                distribution(requirement.name)
                found.add(normal(requirement.name))
            except PackageNotFoundError:
                continue
    return found
