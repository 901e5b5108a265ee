"""Dependency layers of several platforms as one packed pex, from which pex then takes distributions.

What is the same on all platforms is in it once. What only some of them have is required there alone: a requirement that
not all layers share gets the markers of those that have it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bigm.bootstrap import trees
from bigm.bundle.bundle import Dependencies
from bigm.bundle.platforms import Platform
from bigm.parts import Parts

_INFO = "PEX-INFO"  # pex's description of a pex, JSON
_WHEELS = ".deps/"
_MARKERS = ("sys_platform", "platform_machine")  # that tell platforms from one another, whatever is in their names


def merge(layers: Sequence[tuple[Platform, Dependencies]], store: Parts, folder: Path) -> list[str]:
    """Lay out layers as one.

    Args:
        layers: one for each platform.
        store: has their content.
        folder: to be made. Others are made beside it, which the caller removes.
    Returns:
        list: requirements of PEP 508 that name all the distributions, exactly.
    """
    for number, (_, layer) in enumerate(layers):
        one = folder.with_name(f"{folder.name}-{number}") if number else folder
        trees.write(layer.manifest, store, str(one), work=str(folder.parent))
        if number:
            _add(one, folder)
    return requirements([(platform, wheels_of(layer)) for platform, layer in layers])


def wheels_of(layer: Dependencies) -> list[str]:
    """File names of its wheels."""
    return [file.path[len(_WHEELS) :] for file in layer.manifest.files if file.path.startswith(_WHEELS)]


def requirements(wheels: Sequence[tuple[Platform, Sequence[str]]]) -> list[str]:
    """What platforms require that have these wheels, sorted."""
    found: dict[str, list[Platform]] = {}
    for platform, names in wheels:
        for name in names:
            distribution, version = name.split("-")[:2]
            found.setdefault(f"{distribution}=={version.replace('_', '-')}", []).append(platform)
    return sorted(
        requirement if len(where) == len(wheels) else f"{requirement}; {' or '.join(map(_marker, where))}"
        for requirement, where in found.items()
    )


def _marker(platform: Platform) -> str:
    return "(" + " and ".join(f'{name} == "{platform.markers[name]}"' for name in _MARKERS) + ")"


def _add(layer: Path, to: Path) -> None:
    """Move what *to* lacks of a layer there."""
    for wheel in (layer / _WHEELS).iterdir():
        if not (to / _WHEELS / wheel.name).exists():
            wheel.rename(to / _WHEELS / wheel.name)
    info, more = (json.loads((each / _INFO).read_bytes()) for each in (to, layer))
    info["distributions"].update(more["distributions"])
    (to / _INFO).write_text(json.dumps(info))
