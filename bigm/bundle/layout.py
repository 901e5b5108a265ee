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

import importlib.machinery
import os
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType

from bigm.bundle import editable
from bigm.bundle.anchors import MAPPED, Anchor, Layout, named, search_path
from bigm.bundle.bundle import PROGRAM
from bigm.bundle.interpreter import Interpreter, is_within

__all__ = ["Anchor", "Layout", "find_layout", "is_wide", "project_of"]

MARKERS = ("pyproject.toml", "setup.py", "setup.cfg", ".git")  # any of them makes a folder a project
_WIDE = ("/tmp", "/var/tmp", "/dev/shm", "/home", "/Users", "/usr", "/usr/local", "/opt", "/srv", "/mnt", "/media")
_OWN = os.path.realpath(os.path.join(os.path.dirname(__file__), os.pardir))  # the package bigm itself


def find_layout(
    script: str,
    sys_path: Sequence[str],
    cwd: str,
    *,
    interpreter: Interpreter | None = None,
    modules: Mapping[str, ModuleType] | None = None,
    finders: Iterable[object] | None = None,
    wanted: Collection[str] | None = None,
) -> Layout:
    """Find the folders of a program.

    Args:
        script: `__file__` of the main module, absolute; "" at a prompt, in a notebook, in `python -c`.
        sys_path: its search path, absolute.
        cwd: its working folder, absolute. Without a script, its project is the program if `sys.path` leads into it.
        interpreter: whose standard library and distributions are no part of it; None: this process's.
        modules: what it has imported; None: this process's.
        finders: its `sys.meta_path`; None: this process's.
        wanted: normalised names of the distributions that travel, where a script's block or a file says which. Editable
            projects that are none of them stay here, unless the program lies in one or has imported something of it.
            None: all travel.
    Returns:
        Layout: the anchors that exist. Nothing is read but the folders' names.
    """
    modules = sys.modules if modules is None else modules
    found = _Found(interpreter or Interpreter.current(), modules)
    if script:
        found.add_script(script)
    else:
        found.add_cwd(cwd, sys_path)
    site = [entry for entry in sys_path if entry in found.interpreter.site]
    projects = editable.projects(site)
    if wanted is not None:
        inside = [project_of(os.path.realpath(os.path.dirname(script) if script else cwd)), os.path.realpath(cwd)]
        found.staying = [
            folder
            for project in projects
            if project.name not in wanted and not found.uses(folder := os.path.realpath(project.folder), inside)
        ]
        added = editable.search_entries(site) - set(os.environ.get("PYTHONPATH", "").split(os.pathsep))
        sys_path = [entry for entry in sys_path if entry not in added or not found.stays(entry)]
    for entry in sys_path:
        found.add_entry(entry)
    for project in projects:
        if not found.stays(project.folder):
            found.add_editable(project)
    for name, paths in editable.mapped(editable.finders() if finders is None else finders, modules).items():
        if name.partition(".")[0] != "bigm" and not any(map(found.stays, paths)):
            found.add_mapped(name, paths)
    found.add_imported()
    return found.layout(script, sys_path, cwd)


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
    searched: dict[str, None] = field(default_factory=dict)  # what `sys.path` has on machines besides
    renamed: dict[str, str] = field(default_factory=dict)  # import name -> folder that is called otherwise
    metadata: list[str] = field(default_factory=list)  # of editable projects
    notes: list[str] = field(default_factory=list)
    staying: list[str] = field(default_factory=list)  # folders of editable projects that do not travel

    def uses(self, folder: str, inside: Iterable[str]) -> bool:
        """Whether the program needs a project: it lies there, with folders *inside*, or has imported some of it."""
        if any(is_within(path, folder) or is_within(folder, path) for path in inside):
            return True
        imported = (path for module in list(self.modules.values()) for path in _locations(module))
        return any(is_within(os.path.realpath(path), folder) for path in imported)

    def stays(self, path: str) -> bool:
        """Whether *path* is of a project that does not travel."""
        return any(is_within(os.path.realpath(path), folder) for folder in self.staying)

    def add_script(self, script: str) -> None:
        """The project that the script belongs to."""
        path = os.path.realpath(script)
        folder, name = os.path.split(os.path.abspath(script))
        if self.interpreter.is_command(folder):
            # A command that the environment has installed: a few lines that import its module.
            self._add_some(folder, {name})
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

    def add_cwd(self, cwd: str, sys_path: Sequence[str]) -> None:
        """The project of the working folder, for a prompt, a notebook, a test: if `sys.path` leads into it."""
        project = project_of(os.path.realpath(cwd))
        if any(is_within(os.path.realpath(entry), project) and not self.interpreter.owns(entry) for entry in sys_path):
            self.add_project(cwd)

    def add_entry(self, entry: str) -> None:
        """An entry of `sys.path`."""
        path = os.path.realpath(entry)
        if self.interpreter.owns(entry) or self.interpreter.owns(path) or path == os.path.dirname(_OWN):
            return
        file = _file_above(path)
        if file:
            self._add_some(os.path.dirname(file), {os.path.basename(file)})
        elif os.path.isdir(path):
            if is_wide(path):
                self._add_modules_of(path, set())
            else:
                self.whole[path] = None
                self.wanted[path] = None

    def add_editable(self, project: editable.Project) -> None:
        """A project that is installed editable; bigm itself travels as a tree of its own."""
        path = os.path.realpath(project.folder)
        if os.path.isdir(path) and path != os.path.dirname(_OWN) and not is_wide(path):
            self.whole[path] = None
            self.metadata.append(project.metadata)

    def add_mapped(self, name: str, paths: Sequence[str]) -> None:
        """A package, module or namespace package that a finder maps to these paths."""
        for path in filter(None, map(_existing, paths)):
            searched = editable.search_folder(name, path)
            if searched is None:
                self.renamed[name] = path
            if searched is not None and not is_wide(searched):
                self.add_project(searched)
                self.searched[searched] = None
            else:
                self._add_some(os.path.dirname(path), {os.path.basename(path)})

    def add_imported(self) -> None:
        """What has been imported, and lies nowhere that is known by now: it alone, not what is beside it."""
        for name, module in list(self.modules.items()):
            if "." in name or name.startswith("__") or name == "bigm":
                continue
            for path in _locations(module):
                folder = editable.search_folder(name, path)
                if folder is not None and os.path.exists(path) and not self._knows(path):
                    self._add_some(folder, {os.path.basename(path)})
                    self.searched[folder] = None

    def _knows(self, path: str) -> bool:
        if self._has(path):
            return True  # nearly all: no need to follow links
        real = os.path.realpath(path)
        return self._has(real) or os.path.basename(real) in self.some.get(os.path.dirname(real), ())

    def _has(self, path: str) -> bool:
        folders = (*self.whole, os.path.dirname(_OWN))
        return self.interpreter.owns(path) or any(is_within(path, folder) for folder in folders)

    def _add_some(self, folder: str, names: set[str]) -> None:
        self.some.setdefault(os.path.realpath(folder), set()).update(names)

    def layout(self, script: str, sys_path: Sequence[str], cwd: str) -> Layout:
        """All of it, each with its name."""
        anchors = list(named(self.merged()))
        layout = Layout(tuple(anchors), notes=tuple(self.notes))
        copies, roots = self._copies(layout)
        searched = [*search_path(layout, sys_path, self.interpreter)]
        searched += search_path(layout, list(self.searched), self.interpreter)
        searched += [(PROGRAM, root) for root in roots]
        home = layout.place(cwd)
        if home is None and script:
            home = layout.place(os.path.dirname(script))
        return replace(
            layout,
            anchors=layout.anchors + tuple(copies),
            search_path=tuple(dict.fromkeys(searched)),
            cwd=home or "",
        )

    def _copies(self, layout: Layout) -> tuple[list[Anchor], list[str]]:
        """Anchors for what must be found at another place than it has here, and what of the tree is searched for them.

        That is metadata, and what is imported under another name than its folder's. A package within a mapped one must
        lie in that one's folder; others lie in a folder made for them.
        """
        copies = [
            Anchor(path, f"{MAPPED}/{os.path.basename(path)}", only=editable.METADATA, copy=True)
            for path in self.metadata
        ]
        places: dict[str, str] = {}
        for name, path in sorted(self.renamed.items()):
            parent, _, last = name.rpartition(".")
            own = places.get(parent) or (layout.place(self._folder_of(parent)) if parent else None)
            places[name] = f"{own or MAPPED}/{last if own else name.replace('.', '/')}"
            if os.path.isdir(path):
                copies.append(Anchor(path, places[name], copy=True))
            else:
                file = os.path.basename(path)
                self.notes.append(
                    f"{name} is installed editable from {file}, which machines cannot import by that name"
                )
        made = any(copy.name.startswith(MAPPED + "/") for copy in copies)
        return copies, [MAPPED] if made else []

    def _folder_of(self, name: str) -> str:
        for folder in self.searched:
            path = os.path.join(folder, *name.split("."))
            if os.path.isdir(path):
                return path
        return "/"

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


def _existing(path: str) -> str:
    """The folder of a package, or the file of a module that is named without its suffix; "" if neither is there."""
    candidates = [path, *(path + suffix for suffix in importlib.machinery.all_suffixes())]
    return next((os.path.realpath(each) for each in candidates if os.path.exists(each)), "")


def _locations(module: ModuleType) -> list[str]:
    """Folders of a package, the file of a module, nothing of one that has neither."""
    try:
        return [str(path) for path in module.__path__]
    except (AttributeError, TypeError):
        file = getattr(module, "__file__", None)
        return [file] if isinstance(file, str) and os.path.isabs(file) else []


def _file_above(path: str) -> str:
    """The file that *path* names or leads into, as an entry of `sys.path` leads into a zip file; "" if none."""
    while path != "/" and not os.path.isdir(path):
        if os.path.isfile(path):
            return path
        path = os.path.dirname(path)
    return ""
