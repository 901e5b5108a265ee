"""Manifests made into files. A tree is never half visible, and nothing is written outside of it."""

from __future__ import annotations

import os
import shutil
import tempfile

from bigm.bootstrap import folders
from bigm.manifest import File, Manifest
from bigm.parts import PartError, Parts

MTIME = 315532800  # 1980, for every file: bytecode made elsewhere of the same source fits
_SMALL = 1 << 20  # bytes that are read and written at once


def write(tree: Manifest, parts: Parts, folder: str, *, work: str, link: bool = False) -> None:
    """Make the folder *folder* with the files of *tree*. What is there already is left.

    Args:
        tree: its parts are here.
        parts: where they are.
        folder: to be made.
        work: a folder on the same disk for what is not finished.
        link: nobody will write to it, and it will be gone soon: big files may be the parts themselves.
    Raises:
        PartError: a part is missing or damaged.
        StoreError: the disk refuses it.
    """
    unfinished = tempfile.mkdtemp(prefix="tree-", dir=work)
    try:
        folders.attempt(f"lay out {tree.size >> 10} KiB", work, lambda: _fill(tree, parts, unfinished, link))
        try:
            os.rename(unfinished, folder)
        except OSError:
            if not os.path.isdir(folder):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _fill(tree: Manifest, parts: Parts, folder: str, link: bool) -> None:
    below = {os.path.dirname(file.path) for file in tree.files}
    for each in sorted(below):
        os.makedirs(os.path.join(folder, each), mode=0o755, exist_ok=True)
    for file in tree.files:
        path = os.path.join(folder, file.path)
        if link and file.size > _SMALL and _link(parts.path(file.digest), path):
            continue
        _copy(parts.path(file.digest), file, path)
        os.utime(path, (MTIME, MTIME))


def _link(part: str, path: str) -> bool:
    try:
        os.link(part, path)
        return True
    except OSError:  # the part is missing, which copying it says better; or this disk has no links
        return False


def _copy(part: str, file: File, path: str) -> None:
    try:
        source = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise PartError(f"part {file.digest[:12]} is not here, which is to be {file.path}", hint="send it") from None
    try:
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755 if file.executable else 0o644)
        try:
            if os.fstat(source).st_size != file.size:
                raise PartError(f"part {file.digest[:12]} is not {file.size} bytes long, which is to be {file.path}")
            if file.size <= _SMALL:
                _write(target, os.read(source, _SMALL))
            else:
                with os.fdopen(os.dup(source), "rb") as reader, os.fdopen(os.dup(target), "wb") as writer:
                    shutil.copyfileobj(reader, writer, _SMALL)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
