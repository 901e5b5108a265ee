"""The user's files and bigm's own, collected as trees whose contents are in the driver's store."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bigm.bundle.anchors import Anchor, Layout
from bigm.bundle.snapshot import Gone, keep_bytes, keep_file
from bigm.bundle.walk import IGNORE_FILE, Found, Rules, Walk
from bigm.errors import ProgramError
from bigm.manifest import File, Manifest
from bigm.parts import Parts

__all__ = ["Collected", "Rules", "collect", "largest", "machine_tree"]

_REMARKABLE = 20 * 10**6  # bytes of a program's tree from which its largest files are named
NO_RULES = Rules()  # nothing but what nobody wants on machines is left out
_LARGEST = 10  # files that are named
_LARGE = 10**6  # bytes of a file from which it is worth a word


@dataclass(frozen=True)
class Collected:
    """The program's tree.

    Args:
        manifest: its files; every content, and the manifest itself, is in the store.
        notes: what the user should know.
        left_out: paths on this computer of what the rules left out, a folder for all that is in it.
    """

    manifest: Manifest
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def collect(layout: Layout, store: Parts, rules: Rules = NO_RULES) -> Collected:
    """Have all files of the anchors in *store*, as they are now.

    All are found before one is read: what is above the limit is refused at once, however long reading it would take.

    Raises:
        ProgramError: a file or folder cannot be read, a file keeps changing, or more than `rules.limit` would travel.
        BigmError: the store cannot be written.
    """
    found: dict[str, Found] = {}
    notes = list(layout.notes)
    left_out: list[str] = []
    for anchor in layout.anchors:
        walk = Walk(anchor, rules)
        for file in walk.files():
            found.setdefault(f"{anchor.name}/{file.below}", file)
        notes += walk.notes
        left_out += walk.left_out
    _check_limit(found, rules.limit, [anchor.path for anchor in layout.anchors])
    files = []
    for place, file in found.items():
        with contextlib.suppress(Gone):  # as if it had been removed a moment earlier
            files.append(File(place, *keep_file(store, file.path)))
    manifest = Manifest(files)
    keep_bytes(store, manifest.to_bytes())
    if manifest.size > _REMARKABLE:
        notes.append(f"the program's files are {size_text(manifest.size)}; the largest: {_named(largest(manifest))}")
    return Collected(manifest, tuple(notes), tuple(left_out))


def machine_tree(store: Parts) -> Manifest:
    """bigm's own modules, as a tree that has `bigm/` in it; contents and manifest are in *store*.

    Templates are beside them where bigm is installed, and in another folder where it is installed editable.

    Raises:
        ProgramError: a file of bigm's cannot be read.
        BigmError: the store cannot be written.
    """
    files: dict[str, File] = {}
    for name, suffix in (("bigm", ".py"), ("bigm.templates", "")):
        spec = importlib.util.find_spec(name)
        for root in spec.submodule_search_locations or () if spec else ():
            for found in Walk(Anchor(os.path.realpath(root)), Rules()).files():
                if found.below.endswith(suffix):
                    place = f"{name.replace('.', '/')}/{found.below}"
                    digest, size, _ = keep_file(store, found.path)
                    files[place] = File(place, digest, size)
    manifest = Manifest(files.values())
    keep_bytes(store, manifest.to_bytes())
    return manifest


def largest(manifest: Manifest) -> list[File]:
    """The largest files of a tree, the largest first: ten at most, and none below 1 MB but the first."""
    return _largest_of(manifest.files)


def size_text(size: int) -> str:
    """A count of bytes for people: "20.5 MB"."""
    from rich.filesize import decimal

    return decimal(size)


def _largest_of(files: Iterable[File]) -> list[File]:
    found = sorted(files, key=lambda file: (-file.size, file.path))[:_LARGEST]
    return found[:1] + [file for file in found[1:] if file.size >= _LARGE]


def _check_limit(found: dict[str, Found], limit: int, folders: Sequence[str]) -> None:
    total = sum(file.size for file in found.values())
    if total <= limit:
        return
    named = _named(_largest_of(File(place, "", file.size) for place, file in found.items()))
    raise ProgramError(
        f"the program's files in {', '.join(folders)} are {size_text(total)}, and no more than {size_text(limit)} may "
        f"travel; the largest: {named}",
        hint=f"leave out what machines do not need, by lines in {os.path.join(folders[0], IGNORE_FILE)} or by "
        "bundle.exclude; else raise bundle.limit",
    )


def _named(files: Sequence[File]) -> str:
    return ", ".join(f"{file.path} ({size_text(file.size)})" for file in files)
