"""The user's files and bigm's own, collected as trees whose contents are in the driver's store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from bigm.bundle.layout import Layout
from bigm.bundle.snapshot import keep_bytes, keep_file
from bigm.errors import ProgramError
from bigm.manifest import File, Manifest
from bigm.parts import Parts

LIMIT = 2**30  # bytes of a program's tree, where nothing else is set
_REMARKABLE = 20 * 10**6  # bytes of a program's tree from which its largest files are named
_LARGEST = 10  # files that are named


@dataclass(frozen=True)
class Rules:
    """What of the anchors travels.

    Args:
        include: patterns, as in a .gitignore, of what travels though it would be left out.
        exclude: patterns of what is left out besides.
        limit: bytes that may travel in all.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int = LIMIT


@dataclass(frozen=True)
class Collected:
    """The program's tree.

    Args:
        manifest: its files; every content, and the manifest itself, is in the store.
        notes: what the user should know, a sentence each.
        left_out: paths on this computer of what the rules left out, a folder for all in it.
    """

    manifest: Manifest
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def largest(self) -> tuple[File, ...]:
        """The ten largest files, the largest first."""
        return tuple(sorted(self.manifest.files, key=lambda file: (-file.size, file.path))[:_LARGEST])


def collect(layout: Layout, store: Parts, rules: Rules = Rules()) -> Collected:
    """Have all files of the anchors in *store*, as they are now.

    Raises:
        ProgramError: a file cannot be read, or keeps changing; or more than `rules.limit` would travel.
        BigmError: the store cannot be written.
    """
    files = []
    for anchor in layout.anchors:
        for path, below in _walk(anchor.path, ""):
            if anchor.only is None or below.partition("/")[0] in anchor.only:
                files.append(File(f"{anchor.name}/{below}", *keep_file(store, path)))
    manifest = Manifest(files)
    keep_bytes(store, manifest.to_bytes())
    return Collected(manifest, layout.notes)


def machine_tree(store: Parts) -> Manifest:
    """bigm's own modules, as a tree that has `bigm/` in it; contents and manifest are in *store*."""
    import importlib.util

    files = {}
    for name, suffix in (("bigm", ".py"), ("bigm.templates", "")):
        spec = importlib.util.find_spec(name)
        for root in spec.submodule_search_locations or () if spec else ():
            for path, below in _walk(root, ""):
                if below.endswith(suffix):
                    place = f"{name.replace('.', '/')}/{below}"
                    files[place] = File(place, *keep_file(store, path)[:2])
    manifest = Manifest(files.values())
    keep_bytes(store, manifest.to_bytes())
    return manifest


def _walk(folder: str, below: str) -> Iterator[tuple[str, str]]:
    """Path and path relative to the anchor of each file."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise ProgramError(f"cannot read {folder} to bundle it: {error.strerror}") from error
    for entry in entries:
        if entry.name in (".git", ".hg", ".svn", "__pycache__", "node_modules"):
            continue
        if entry.is_dir():
            if not os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                yield from _walk(entry.path, f"{below}{entry.name}/")
        elif entry.is_file():
            yield entry.path, below + entry.name
