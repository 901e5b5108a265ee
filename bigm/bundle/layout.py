"""Which of this computer's folders are the user's program, and where each lies in the program's tree.

By folder, not by guessed imports: what a program opens, imports late or starts is beside it more often than anyone can
tell from its text. The folders are called anchors:

* the project of the script: the nearest folder above it with one of `MARKERS`, else the script's own folder;
* each entry of `sys.path` that is not the interpreter's, whatever put it there: PYTHONPATH, a `.pth` file, the program;
* each project that is installed editable (`bigm.bundle.editable`);
* what has been imported from anywhere else, by itself.

An anchor within another one is no further anchor. Each lies in the tree under its own name, and those that are
siblings on this computer are siblings there, so that `../data` leads to the same file.

Some folders are too wide to be anybody's program: the home folder, `/`, `/tmp`, and whatever they lie in. They are no
project, whatever is in them; of one that must be an anchor, because the script lies in it, only Python modules and the
packages that are imported already are taken.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType

from bigm.bundle.bundle import PROGRAM
from bigm.bundle.interpreter import Interpreter, is_within

MARKERS = ("pyproject.toml", "setup.py", "setup.cfg", ".git")  # any of them makes a folder a project
_WIDE = ("/tmp", "/var/tmp", "/dev/shm", "/home", "/Users", "/usr", "/usr/local", "/opt", "/srv", "/mnt", "/media")
_OWN = os.path.realpath(os.path.join(os.path.dirname(__file__), os.pardir))  # the package bigm itself


@dataclass(frozen=True)
class Anchor:
    """One folder of the user's, or one zip file, and where it lies in the tree.

    Args:
        path: absolute, without links.
        name: its path in the tree.
        only: names of the entries that are taken; None: all.
        wanted: paths below it that are on `sys.path` or the script itself: they travel whatever is left out.
        copy: it lies in the tree at another place already, and stands here once more to be imported by this name.
    """

    path: str
    name: str = ""
    only: frozenset[str] | None = None
    wanted: frozenset[str] = frozenset()
    copy: bool = False

    def relative(self, path: str) -> str | None:
        """*path* as seen from here, "" for the anchor itself; None when it is not of this anchor."""
        if not is_within(path, self.path):
            return None
        below = path[len(self.path) :].lstrip("/")
        if below and self.only is not None and below.partition("/")[0] not in self.only:
            return None
        return below


@dataclass(frozen=True)
class Layout:
    """Where everything of the user's lies in the program's tree.

    Args:
        anchors: none within another, but for copies.
        search_path: what `sys.path` is on machines, as `bigm.bundle.bundle.Bundle.sys_path`.
        cwd: the working folder there, as a path in the tree; "" is its root.
        notes: what the user should know.
    """

    anchors: tuple[Anchor, ...]
    search_path: tuple[tuple[str, str], ...] = ()
    cwd: str = ""
    notes: tuple[str, ...] = ()

    def place(self, path: str) -> str | None:
        """Where a file or folder of this computer is in the tree, whether or not it travels; None: it is not in it.

        Args:
            path: absolute. One that leads through a link to an anchor is found too.
        """
        folder, name = os.path.split(os.path.normpath(path))
        found = (os.path.normpath(path), os.path.join(os.path.realpath(folder), name), os.path.realpath(path))
        for candidate in dict.fromkeys(found):
            for anchor in sorted(self.anchors, key=lambda anchor: len(anchor.path), reverse=True):
                below = None if anchor.copy else anchor.relative(candidate)
                if below is not None:
                    return f"{anchor.name}/{below}" if below else anchor.name
        return None


def find_layout(
    script: str,
    sys_path: Sequence[str],
    cwd: str,
    *,
    interpreter: Interpreter | None = None,
    modules: Mapping[str, ModuleType] | None = None,
) -> Layout:
    """Find the folders of a program.

    Args:
        script: `__file__` of the main module, absolute; "" at a prompt, in a notebook, in `python -c`.
        sys_path: its search path, absolute.
        cwd: its working folder, absolute. It is no anchor by itself, only when there is no script.
        interpreter: whose standard library and distributions are no part of it; None: this process's.
        modules: what it has imported; None: this process's.
    Returns:
        Layout: the anchors that exist. Nothing is read but the folders' names.
    """
    found = _Found(interpreter or Interpreter.current(), sys.modules if modules is None else modules)
    if script:
        found.add_script(script)
    elif cwd in sys_path:
        found.add_project(cwd)
    for entry in sys_path:
        found.add_entry(entry)
    anchors = tuple(_named(found.merged()))
    layout = Layout(anchors, notes=tuple(found.notes))
    home = layout.place(cwd)
    if home is None and script:
        home = layout.place(os.path.dirname(script))
    return replace(layout, search_path=tuple(_search_path(layout, sys_path, found.interpreter)), cwd=home or "")


def project_of(folder: str) -> str:
    """The nearest folder from *folder* upwards that is a project; *folder* itself when there is none."""
    candidate = folder
    while not is_wide(candidate):
        if any(os.path.exists(os.path.join(candidate, marker)) for marker in MARKERS):
            return candidate
        candidate = os.path.dirname(candidate)
    return folder


def is_wide(folder: str) -> bool:
    """Whether a folder holds too much of too many to be anybody's program. *folder* is a real path."""
    shared = [os.path.realpath(os.path.expanduser("~")), os.path.realpath(tempfile.gettempdir())]
    return folder in _WIDE or any(is_within(each, folder) for each in shared)


@dataclass
class _Found:
    """Anchors as they are found, in that order; merged at the end."""

    interpreter: Interpreter
    modules: Mapping[str, ModuleType]
    whole: dict[str, None] = field(default_factory=dict)  # in order, each once
    some: dict[str, set[str]] = field(default_factory=dict)  # folder -> names of the entries wanted of it
    wanted: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add_script(self, script: str) -> None:
        """The project that the script belongs to."""
        path = os.path.realpath(script)
        folder, name = os.path.split(os.path.abspath(script))
        if self.interpreter.is_command(folder):
            # A command that the environment has installed: a few lines that import its module.
            self.some.setdefault(os.path.realpath(folder), set()).add(name)
        elif os.path.isfile(path) and not self.interpreter.owns(path):
            self.wanted[path] = None
            self.add_project(os.path.dirname(path), name=os.path.basename(path))

    def add_project(self, folder: str, *, name: str = "") -> None:
        """The project that *folder* belongs to, or what can be taken of *folder*: modules, and the script *name*."""
        root = project_of(os.path.realpath(folder))
        if is_wide(root):
            self._add_modules_of(root, {name} if name else set())
        else:
            self.whole[root] = None

    def add_entry(self, entry: str) -> None:
        """An entry of `sys.path`."""
        path = os.path.realpath(entry)
        if self.interpreter.owns(entry) or self.interpreter.owns(path) or path == os.path.dirname(_OWN):
            return
        file = _file_above(path)
        if file:
            self.some.setdefault(os.path.dirname(file), set()).add(os.path.basename(file))
        elif os.path.isdir(path):
            if is_wide(path):
                self._add_modules_of(path, set())
            else:
                self.whole[path] = None
                self.wanted[path] = None

    def _add_modules_of(self, folder: str, names: set[str]) -> None:
        imported = {name.partition(".")[0] for name in self.modules}
        for entry in os.scandir(folder):
            module, _, suffix = entry.name.partition(".")
            if (entry.is_file() and suffix == "py") or (module in imported and (suffix or not entry.is_file())):
                names.add(entry.name)
        if folder not in self.some:
            self.notes.append(
                f"{folder} is too wide to travel whole: only Python modules there, and packages that are imported "
                "already, are on machines; put the program into a folder of its own to have all that is beside it"
            )
        self.some.setdefault(folder, set()).update(names)

    def merged(self) -> list[Anchor]:
        """Without those that lie in others."""
        outer = [
            path for path in self.whole if not any(path != other and is_within(path, other) for other in self.whole)
        ]
        some = {}
        for folder, names in self.some.items():
            if any(is_within(folder, path) for path in outer):
                self.wanted.update(dict.fromkeys(os.path.join(folder, name) for name in names))
            else:
                some[folder] = frozenset(names)
        anchors = [Anchor(path) for path in outer] + [Anchor(path, only=names) for path, names in some.items() if names]
        return [
            replace(anchor, wanted=frozenset(below for path in self.wanted if (below := anchor.relative(path))))
            for anchor in anchors
        ]


def _file_above(path: str) -> str:
    """The file that *path* names or leads into, as an entry of `sys.path` leads into a zip file; "" if none."""
    while path != "/" and not os.path.isdir(path):
        if os.path.isfile(path):
            return path
        path = os.path.dirname(path)
    return ""


def _named(anchors: Iterable[Anchor]) -> Iterable[Anchor]:
    """Give each anchor its name in the tree: its own, below a number where another has it already.

    Siblings get the same number.
    """
    taken: set[str] = set()
    by_parent: dict[str, list[Anchor]] = {}
    for anchor in anchors:
        by_parent.setdefault(os.path.dirname(anchor.path), []).append(anchor)
    for siblings in by_parent.values():
        names = [os.path.basename(anchor.path) or "root" for anchor in siblings]
        number = 1
        prefix = ""
        while not taken.isdisjoint([prefix + name for name in names]) or prefix.rstrip("/") in taken:
            number += 1
            prefix = f"{number}/"
        for anchor, name in zip(siblings, names, strict=True):
            taken.add(prefix + name)
            yield replace(anchor, name=prefix + name)


def _search_path(layout: Layout, sys_path: Sequence[str], interpreter: Interpreter) -> Iterable[tuple[str, str]]:
    seen = set()
    for entry in sys_path:
        place = interpreter.place(entry) or interpreter.place(os.path.realpath(entry))
        if place is None:
            path = layout.place(entry)
            place = (PROGRAM, path) if path is not None else None
        if place is not None and place not in seen:
            seen.add(place)
            yield place
