"""A tree of files named by their content: what a layer of a bundle is, on the driver and on machines alike.

A manifest lists files by path, each with the digest of its content; its own digest names the whole tree. Contents are
parts (`bigm.parts`), and so is the manifest itself.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

from bigm.errors import BigmError


class ManifestError(BigmError):
    """A manifest cannot be: it is damaged, or a path in it would lead out of its tree. Do not retry."""


class File(NamedTuple):
    """One file of a tree.

    Args:
        path: relative to the tree, with "/" between its parts; never absolute, never through "..".
        digest: sha256 of its content, hexadecimal.
        size: bytes.
        executable: it may be run.
    """

    path: str
    digest: str
    size: int
    executable: bool = False


class Manifest:
    """The files of a tree, in the order of their paths. Equal trees have equal manifests, byte for byte.

    Args:
        files: in any order; no path twice, none below another file.
    Raises:
        ManifestError: a path is absolute, leads out of the tree, or stands twice.
    """

    def __init__(self, files: Iterable[File]) -> None:
        self.files = tuple(sorted(files))
        taken: set[str] = set()
        folders: set[str] = set()
        for file in self.files:
            steps = file.path.split("/")
            if not all(steps) or not {".", ".."}.isdisjoint(steps) or "\0" in file.path:
                raise ManifestError(f"{file.path!r} is no path within a tree")
            if file.path in taken:
                raise ManifestError(f"{file.path!r} stands twice in a tree")
            taken.add(file.path)
            folders.update("/".join(steps[:n]) for n in range(1, len(steps)))
        for path in taken & folders:
            raise ManifestError(f"{path!r} is a file and a folder in one tree")

    def __repr__(self) -> str:
        return f"<Manifest {self.digest[:12]}: {len(self.files)} files, {self.size} bytes>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.files == other.files

    def __hash__(self) -> int:
        return hash(self.files)

    @functools.cached_property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of `to_bytes`, hexadecimal: the name of the tree."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """JSON, a list of [path, digest, size, executable], in ASCII."""
        return self._bytes

    @functools.cached_property
    def _bytes(self) -> bytes:
        """Made once: a driver asks for it several times for each of its machines, and it may have 200,000 files."""
        return json.dumps(self.files, separators=(",", ":")).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read what `to_bytes` wrote.

        Raises:
            ManifestError: it is something else.
        """
        try:
            return cls(File(str(path), str(digest), int(size), bool(x)) for path, digest, size, x in json.loads(data))
        except (ValueError, TypeError) as error:
            raise ManifestError(f"a manifest is damaged: {error}") from error
