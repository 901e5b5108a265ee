"""The files of one folder of the user's that travel: found in one pass, without opening any but `.bigmignore`.

Who says whether an entry travels, the first that says anything:

1. what bigm keeps for itself (its home, the store of parts): does not, wherever it lies;
2. what is on `sys.path`, and the script itself: travel;
3. `Rules.include`: travels, also out of a folder that does not;
4. `Rules.exclude`: does not;
5. the `.bigmignore` nearest to it, then those of the folders above, up to the anchor;
6. what nobody wants on a machine, by name or by what is in it: version control, virtual environments, caches, build
   leftovers. `.gitignore` says nothing here: data that git must not see is data all the same.

A link stands for what it leads to, wherever that is; one that leads back to a folder it lies in is passed over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from bigm.bundle.anchors import Anchor
from bigm.bundle.ignore import Patterns
from bigm.bundle.interpreter import is_within
from bigm.errors import ProgramError

if TYPE_CHECKING:
    from bigm.config import Settings

IGNORE_FILE = ".bigmignore"
LIMIT = 2**30  # bytes of a program's tree, where nothing else is set
_MOST = 200_000  # files of one anchor: each is a part of its own, and a manifest names them all

_FOLDERS = frozenset(
    {".git", ".hg", ".svn", ".bzr", ".jj", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
    | {".tox", ".nox", ".eggs", ".venv", ".direnv", "node_modules", ".ipynb_checkpoints"}
)
_FILES = frozenset({".git", ".DS_Store", ".coverage"})  # a worktree's `.git` is a file
_SUFFIXES = (".pyc", ".pyo")
_BYTECODE = ("__pycache__", *_SUFFIXES)  # nobody asks where it is
_MARKS = frozenset({"pyvenv.cfg", "conda-meta", "CACHEDIR.TAG"})  # a folder with one of them is no source
_OF_ENVIRONMENTS = frozenset({"bin", "lib", "lib64", "include", "share", "pyvenv.cfg"})


@dataclass(frozen=True)
class Rules:
    """What of the anchors travels.

    Args:
        include: patterns, as in a .gitignore, of what travels though it would be left out; relative to each anchor.
        exclude: patterns of what is left out besides.
        limit: bytes that may travel in all.
        private: folders on this computer, real paths, that travel in no case: what bigm keeps for itself.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int = LIMIT
    private: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """The rules that *settings* give."""
        wishes = settings.bundle
        own = (str(settings.home), os.path.expanduser(wishes.store))
        return cls(wishes.include, wishes.exclude, wishes.limit, tuple(os.path.realpath(path) for path in own if path))


class Found(NamedTuple):
    """One file that travels.

    Args:
        path: on this computer.
        below: relative to its anchor.
        size: bytes, when it was found.
    """

    path: str
    below: str
    size: int


class _Folder(NamedTuple):
    """A folder as it is walked.

    Args:
        path: on this computer.
        below: relative to the anchor, with a slash at its end; "" is the anchor.
        ignores: the patterns that hold in it, each with the folder they are relative to; the nearest first.
        real: real paths of the folders on the way to it from which a link leads on, and its own.
        inside: False: it is left out, and entered only for what is wanted in it.
    """

    path: str
    below: str
    ignores: tuple[tuple[str, Patterns], ...]
    real: tuple[str, ...]
    inside: bool


@dataclass
class Walk:
    """One pass over an anchor.

    Args:
        anchor: whose files are found.
        rules: what of them travels.
        left_out: filled with paths of what does not: folders, and single files that are no bytecode.
        notes: filled with what the user should know.
    """

    anchor: Anchor
    rules: Rules
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._include = Patterns(self.rules.include)
        self._exclude = Patterns(self.rules.exclude)
        self._private_names = {os.path.basename(path) for path in self.rules.private}
        self._count = 0

    def files(self) -> Iterator[Found]:
        """What travels, in the order of paths within each folder.

        Raises:
            ProgramError: a folder or a `.bigmignore` cannot be read, or there are too many files.
        """
        yield from self._walk(_Folder(self.anchor.path, "", (), (self.anchor.path,), True))

    def _walk(self, folder: _Folder) -> Iterator[Found]:
        entries = _entries(folder.path)
        here = {entry.name for entry in entries}
        if not folder.below and self.anchor.only is not None:
            entries = [entry for entry in entries if entry.name in self.anchor.only]
        if IGNORE_FILE in here:
            own = (folder.below, Patterns(_lines(os.path.join(folder.path, IGNORE_FILE))))
            folder = folder._replace(ignores=(own, *folder.ignores))
        own_environment = not folder.below and "pyvenv.cfg" in here
        for entry in entries:
            if self._is_private(entry):
                continue
            below = folder.below + entry.name
            kind = self._kind(entry)
            said = self._said(folder, below, kind == "folder")
            if said is None:
                said = not (own_environment and entry.name in _OF_ENVIRONMENTS) and _is_wanted(entry, kind)
            if kind == "folder":
                if said or self._is_led_into(below):
                    yield from self._enter(folder, entry, below, said)
            elif said and kind == "file":
                with contextlib.suppress(FileNotFoundError):  # removed since the folder was read
                    yield Found(entry.path, below, entry.stat().st_size)
                self._count_one()
            if not said and folder.inside and not entry.name.endswith(_BYTECODE):
                self.left_out.append(entry.path)

    def _is_private(self, entry: os.DirEntry[str]) -> bool:
        return entry.name in self._private_names and os.path.realpath(entry.path) in self.rules.private

    def _kind(self, entry: os.DirEntry[str]) -> str:
        """What an entry is, or a link leads to: "file", "folder", or "": neither, or nothing at all."""
        try:
            if entry.is_dir():
                return "folder"
            if entry.is_file():
                return "file"
            broken = entry.is_symlink() and not os.path.exists(entry.path)
        except OSError:  # a link that leads to itself
            broken = True
        if broken:
            self.notes.append(f"the link {entry.path} leads nowhere: it does not travel")
        return ""

    def _said(self, folder: _Folder, below: str, is_folder: bool) -> bool | None:
        """What the user says of an entry; None: nothing."""
        if below in self.anchor.wanted or (self._include and self._include.names(below, is_folder)):
            return True
        if not folder.inside:
            return False
        named = self._exclude.names(below, is_folder) if self._exclude else None
        for base, patterns in folder.ignores if named is None else ():
            named = patterns.names(below[len(base) :], is_folder)
            if named is not None:
                break
        return None if named is None else not named

    def _is_led_into(self, below: str) -> bool:
        """Whether something in a folder that is left out may travel."""
        return self._include.lead_into(below) or any(path.startswith(below + "/") for path in self.anchor.wanted)

    def _enter(self, folder: _Folder, entry: os.DirEntry[str], below: str, inside: bool) -> Iterator[Found]:
        real = (*folder.real[:-1], folder.real[-1] + "/" + entry.name)
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if any(is_within(each, target) for each in folder.real):
                self.notes.append(f"the link {entry.path} leads back to a folder that it lies in: it is passed over")
                return
            real = (*folder.real, target)
        yield from self._walk(_Folder(entry.path, below + "/", folder.ignores, real, inside))

    def _count_one(self) -> None:
        self._count += 1
        if self._count > _MOST:
            raise ProgramError(
                f"cannot bundle {self.anchor.path}: it has more than {_MOST:,} files",
                hint=f"leave out what machines do not need, by lines in {os.path.join(self.anchor.path, IGNORE_FILE)}",
            )


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise ProgramError(
            f"cannot read {folder} to bundle it: {error.strerror}",
            hint=f"leave it out by a line in {IGNORE_FILE}, or make it readable",
        ) from error


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            return file.readlines()
    except OSError as error:
        raise ProgramError(f"cannot read {path}: {error.strerror}") from error


def _is_wanted(entry: os.DirEntry[str], kind: str) -> bool:
    """Whether an entry travels of which nobody said anything."""
    if kind != "folder":
        left_out = entry.name in _FILES or entry.name.endswith(_SUFFIXES) or _is_made_of_programs(entry)
        return kind == "file" and not left_out
    if entry.name in _FOLDERS:
        return False
    here = {inner.name for inner in _entries(entry.path)}
    return _MARKS.isdisjoint(here) and not _is_leftover(entry.name, here)


def _is_made_of_programs(entry: os.DirEntry[str]) -> bool:
    """Whether `bigm bundle` wrote this file: it would have itself inside the next time."""
    if not entry.name.endswith(".pex"):
        return False
    from bigm.bundle.embedded import is_pexfile

    return is_pexfile(entry.path)


def _is_leftover(name: str, here: set[str]) -> bool:
    """Whether a folder is what setuptools leaves behind of a build, and nothing else: both names are common ones."""
    if name == "build":
        return bool(here) and all(each.startswith(("lib", "temp.", "bdist.", "scripts-")) for each in here)
    if name == "dist":
        return bool(here) and all(each.endswith((".whl", ".tar.gz", ".zip", ".egg")) for each in here)
    return False
