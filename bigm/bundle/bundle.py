"""The record of a bundle: layers, what is imported from where, and the store that has every part's content."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bigm.bootstrap.records import Main
from bigm.manifest import Manifest
from bigm.parts import Parts

if TYPE_CHECKING:
    from bigm.bundle.origins import Origins

PROGRAM, SITE, STDLIB = "program", "site", "stdlib"  # where an entry of `Bundle.sys_path` lies


@dataclass(frozen=True)
class Dependencies:
    """The dependency layer: a packed pex as a tree of files, from which a machine makes a virtual environment.

    Args:
        manifest: `__main__.py`, `PEX-INFO`, `.bootstrap`, `.deps/*`, as pex lays them out.
        key: names the environment that is made of it; same key, same content.
        python: minor version it is for, "3.11".
        distributions: what is in it, "numpy 2.1.0", sorted.
        notes: what the user should know about it: what was patched in place, what conflicts.
        hold: keeps its parts in the driver's store, for as long as it is referred to.
    """

    manifest: Manifest
    key: str
    python: str
    distributions: tuple[str, ...]
    notes: tuple[str, ...] = ()
    hold: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Bundle:
    """All that machines need to run the program.

    Args:
        program: the user's files, as one tree.
        machine: bigm's own modules, as a tree that has `bigm/` in it.
        dependencies: the distributions of the environment, by machine platform where they differ; "": any.
        sys_path: the driver's order, as pairs of place and path: PROGRAM and a path in its tree, SITE, STDLIB.
        main: how the main module is imported; `value` (of kind "path") and `file` are paths in the program's tree.
        cwd: working folder, in the program's tree; "" is its root.
        python: minor version of Python that machines must have, "3.11".
        store: has the content of every part, as it was when the bundle was made.
        left_out: paths on this computer of what the rules left out of the program's folders.
        origins: what says what the program depends on, for machines whose platform none of the layers is for; None:
            the bundle has all that there is.
        hold: keeps the program's parts in the driver's store, for as long as it is referred to.
    """

    program: Manifest
    machine: Manifest
    dependencies: Mapping[str, Dependencies]
    sys_path: tuple[tuple[str, str], ...]
    main: Main
    cwd: str
    python: str
    store: Parts
    left_out: tuple[str, ...] = field(default=(), repr=False, compare=False)
    origins: Origins | None = field(default=None, repr=False, compare=False)
    hold: object = field(default=None, repr=False, compare=False)

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of everything that a machine runs, hexadecimal; workers report it."""
        layers = [[platform, layer.key] for platform, layer in sorted(self.dependencies.items())]
        facts = [self.program.digest, self.machine.digest, layers, self.sys_path, self.main, self.cwd, self.python]
        return hashlib.sha256(json.dumps(facts).encode("ascii")).hexdigest()

    def layer(self, platform: str = "") -> Dependencies | None:
        """The dependency layer of machines of *platform*, if there is one."""
        return self.dependencies.get(platform) or self.dependencies.get("")

    def parts(self, platform: str = "", *, dependencies: bool = True) -> dict[str, int]:
        """Every part a machine of *platform* needs, the manifests among them, with its size in bytes.

        Args:
            platform: the machine's.
            dependencies: those of the dependency layer too; a machine that has its environment needs none of them.
        """
        layer = self.layer(platform) if dependencies else None
        return parts_of(self.program, self.machine, *([layer.manifest] if layer else []))


def parts_of(*trees: Manifest) -> dict[str, int]:
    """Every part of some trees, the manifests among them, with its size in bytes."""
    found = {file.digest: file.size for tree in trees for file in tree.files}
    found.update((tree.digest, len(tree.to_bytes())) for tree in trees)
    return found
