"""An environment for pex to read: a folder of links that has what is to travel and nothing else.

pex takes distributions from virtual environments alone, all of them or with their dependencies; an editable project
makes it build wheels over the network. This folder is a virtual environment to it, whatever the real one is: a Python
of pyenv, of the system, of a container, or several site-packages laid over one another. A project whose modules travel
with the program has its metadata here, without its modules.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from bigm.bundle.environment import Installed
from bigm.bundle.whereabouts import Whereabouts

_METADATA = ("METADATA", "WHEEL", "entry_points.txt", "top_level.txt")


def make_facade(folder: Path, of: Whereabouts, distributions: Iterable[Installed]) -> Path:
    """Make the environment in *folder*, which does not exist yet.

    Args:
        of: the interpreter that pex is to ask about platform and version.
        distributions: what pex shall find.
    Returns:
        Path: *folder*.
    """
    site = folder / "lib" / f"python{of.version}" / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(of.base)
    (folder / "pyvenv.cfg").write_text(f"home = {Path(of.base).parent}\ninclude-system-site-packages = false\n")
    listed = list(distributions)
    for each in listed:
        if each.in_place:
            _describe(each, site / os.path.basename(each.folder))
    present = [each for each in listed if not each.in_place]
    roots: dict[str, set[str]] = {}
    for each in present:
        for path, _ in each.files():
            roots.setdefault(path.partition("/")[0], set()).add(each.site)
    for each in present:
        _link(each, folder, site, {name for name, sites in roots.items() if len(sites) == 1})
    return folder


def _describe(each: Installed, folder: Path) -> None:
    """Make a `.dist-info` without modules; without direct_url.json too, which says that it is editable."""
    folder.mkdir()
    written = [name for name in _METADATA if (content := each.read(name)) and (folder / name).write_bytes(content)]
    (folder / "RECORD").write_text("".join(f"{folder.name}/{name},,\n" for name in [*written, "RECORD"]))


def _link(each: Installed, folder: Path, site: Path, whole: Collection[str]) -> None:
    """Link what a distribution has.

    Args:
        folder: the environment.
        site: its site-packages.
        whole: names in site-packages that can be linked as they are. A folder that stands in several site-packages (a
            namespace), or none of them (scripts, data), is one of links to each file.
    """
    for path, _ in each.files():
        root = path.partition("/")[0]
        recorded = root if root in whole and root != ".." else path
        target = os.path.normpath(site / recorded)
        if os.path.lexists(target) or os.path.isabs(recorded) or not target.startswith(f"{folder}/"):
            continue  # outside of the environment: pex would not take it either
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(os.path.normpath(os.path.join(each.site, recorded)), target)
