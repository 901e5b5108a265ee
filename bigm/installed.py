"""What a machine runs a program with, once its bundle is there: the bundle's paths made into that machine's own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bigm.bootstrap.records import Main, WorkerSpec
from bigm.bundle.bundle import PROGRAM, SITE, Bundle

# What would lead the environment's Python astray, set on the machine for something else. Empty means unset to Python.
_ASTRAY = ("PYTHONHOME", "PYTHONPATH", "PYTHONPLATLIBDIR", "PYTHONSAFEPATH", "PYTHONUSERBASE", "PYTHONINSPECT")


@dataclass(frozen=True)
class Installed:
    """A bundle as a machine has it.

    Args:
        python: path of the environment's interpreter.
        root: folder that has bigm.
        sys_path: for the program, in the driver's order.
        cwd: its working folder.
        main: how its main module is imported there.
        bundle: digest of what it is.
        minor: version of Python it is for.
    """

    python: str
    root: str
    sys_path: tuple[str, ...]
    cwd: str
    main: Main
    bundle: str
    minor: str

    def adapt(self, spec: WorkerSpec) -> WorkerSpec:
        """A worker's specification, made one that runs this."""
        return spec._replace(
            python=self.python,
            root=self.root,
            sys_path=self.sys_path,
            cwd=self.cwd,
            main=self.main,
            argv=(self._called(spec.argv[0]), *spec.argv[1:]),
            env={**dict.fromkeys(_ASTRAY, ""), **spec.env},
            bundle=self.bundle,
            minor=self.minor,
        )

    def _called(self, name: str) -> str:
        """What the program is called there, *name* on the driver: the same, if that leads to it."""
        file = self.main.value if self.main.kind == "path" else self.main.file
        if not file or (not os.path.isabs(name) and os.path.normpath(os.path.join(self.cwd, name)) == file):
            return name
        return file


def installed(bundle: Bundle, environment: Mapping[str, Any], root: str, tree: str) -> Installed:
    """What became of *bundle* on a machine.

    Args:
        bundle: what was brought there.
        environment: "python": the interpreter; "stdlib" and "site": entries of its `sys.path`.
        root: folder of the machine tree.
        tree: folder of the program's tree.
    """
    entries = [*_entries(bundle.sys_path, environment["stdlib"], environment["site"], tree), root]
    main = bundle.main
    file = os.path.join(tree, main.file) if main.file else ""
    value = os.path.join(tree, main.value) if main.kind == "path" else main.value
    return Installed(
        python=environment["python"],
        root=root,
        sys_path=tuple(dict.fromkeys(entries)),
        cwd=os.path.join(tree, bundle.cwd) if bundle.cwd else tree,
        main=main._replace(file=file, value=value),
        bundle=bundle.digest,
        minor=bundle.python,
    )


def _entries(places: Sequence[tuple[str, str]], stdlib: Sequence[str], site: Sequence[str], tree: str) -> Iterator[str]:
    for place, path in places:
        if place == PROGRAM:
            yield os.path.join(tree, path) if path else tree
        elif place != SITE:
            yield from stdlib
        elif path:
            yield from (os.path.join(folder, path) for folder in site[:1])
        else:
            yield from site
