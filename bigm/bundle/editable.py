"""Projects that are installed editable: where their sources are, and under which names they are imported.

Most need nothing: a `.pth` file has put their folder on `sys.path`. Others have a finder on `sys.meta_path` that maps
names to folders; it stays behind on the driver, so what it maps must be found by `sys.path` on machines. So must their
metadata, which are among the installed distributions: version and entry points.

Source: PEP 610 (direct_url.json), PEP 660; the finders of setuptools (`command/editable_wheel.py`), of the package
`editables` (hatchling, pdm) and of scikit-build-core (`_editable_redirect.py`). What another finder has imported
already is found by its modules (`bigm.bundle.layout`).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from bigm.bundle.environment import normal

METADATA = frozenset({"METADATA", "entry_points.txt", "top_level.txt"})  # the rest is of this computer


class Project(NamedTuple):
    """One that is installed editable.

    Args:
        folder: where it is.
        metadata: its `.dist-info` folder among the installed distributions.
    """

    folder: str
    metadata: str

    @property
    def name(self) -> str:
        """Of the distribution, normalised."""
        return normal(os.path.basename(self.metadata).partition("-")[0])


def projects(site: Iterable[str]) -> list[Project]:
    """What is installed editable in these folders of distributions."""
    found: dict[str, Project] = {}
    for folder in site:
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(folder)):
                path = os.path.join(folder, name)
                project = _project_of(path) if name.endswith(".dist-info") else ""
                if project:
                    found.setdefault(name, Project(project, path))
    return list(found.values())


def search_entries(site: Iterable[str]) -> set[str]:
    """What `.pth` files in these folders of distributions add to `sys.path`."""
    found: set[str] = set()
    for folder in site:
        for path in Path(folder).glob("*.pth"):
            with contextlib.suppress(OSError):
                lines = path.read_text("utf-8", "replace").splitlines()
                found.update(
                    os.path.join(folder, line.strip()) for line in lines if not line.startswith(("import", "#"))
                )
    return found


def mapped(finders: Iterable[object], modules: Mapping[str, ModuleType]) -> dict[str, list[str]]:
    """What finders of editable projects map: import name -> its folders, or the file of a single module.

    More than one folder where the name is a namespace package.

    Args:
        finders: as `sys.meta_path`.
        modules: where the modules of the finders are, as `sys.modules`.
    """
    found: dict[str, list[str]] = {}
    for finder in finders:
        kind = finder if isinstance(finder, type) else type(finder)
        module = modules.get(kind.__module__)
        tables = [getattr(module, "MAPPING", None), getattr(finder, "_redirections", None)]
        tables.append(getattr(finder, "known_source_files", None))
        for table in tables:
            for name, path in table.items() if isinstance(table, dict) else ():
                found.setdefault(str(name), [_folder(str(path))])
        spaces = getattr(module, "NAMESPACES", None)
        for name, paths in spaces.items() if isinstance(spaces, dict) else ():
            found[str(name)] = [str(path) for path in paths]
    return found


def search_folder(name: str, path: str) -> str | None:
    """The folder that, on `sys.path`, lets *name* be imported from *path*; None: it is laid out under other names.

    Args:
        name: as it is imported, "a.b".
        path: the folder of a package, or the file of a module.
    """
    for step in reversed(name.split(".")):
        path, base = os.path.split(path)
        if (base if base == step else base.partition(".")[0]) != step:
            return None
    return path


def finders() -> list[object]:
    """Those of this process."""
    return list(sys.meta_path)


def _project_of(metadata: str) -> str:
    try:
        with open(os.path.join(metadata, "direct_url.json"), encoding="utf-8") as file:
            said = json.load(file)
        url = urlsplit(said["url"])
        if said["dir_info"]["editable"] and url.scheme == "file":
            return unquote(url.path)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or not of an editable project
    return ""


def _folder(path: str) -> str:
    """The folder of a package that is named by its `__init__.py`."""
    return os.path.dirname(path) if os.path.basename(path).startswith("__init__.") else path
