"""Unpacks an interpreter that was sent as one archive, and tries it.

The archive is one of python-build-standalone ("install_only"), or made like it: a gzipped tar of one folder, with
`bin/python3` in it, that runs wherever it is put. It was verified by its digest, but that only says it is what the
driver has; so nothing in it may lead out of the folder, whoever made it. tarfile's own filters do not exist in every
Python 3.9.
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import tarfile
import zlib

from bigm.bootstrap import folders, report
from bigm.errors import BigmError

_CHUNK = 1 << 20


class InterpreterError(BigmError):
    """An archive holds no interpreter that runs here. Another one may; the text says what is wrong."""


def unpack(archive: str, folder: str) -> dict[str, object]:
    """Make *folder* of an archive.

    Args:
        archive: path of a gzipped tar.
        folder: to be made; its parent exists.
    Returns:
        dict: "size": bytes of all files; "python": path of the interpreter, relative to *folder*.
    Raises:
        InterpreterError: it is damaged, would lead out of the folder, or has no interpreter that runs here.
        StoreError: the disk refuses it.
    """
    sizes: list[int] = []
    try:
        above = os.path.dirname(folder)
        folders.attempt("unpack an interpreter", above, lambda: sizes.extend(_extract(archive, folder)))
        return {"size": sum(sizes), "python": _tried(folder)}
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _tried(folder: str) -> str:
    python = os.path.join("bin", "python3")
    found = report.examine(os.path.join(folder, python))
    if "error" in found:
        what = found["error"] if os.path.lexists(os.path.join(folder, python)) else "there is no bin/python3 in it"
        raise InterpreterError(
            f"the interpreter that was sent does not run here: {what}",
            hint="it may be for another architecture or libc than this machine's",
        )
    return python


def _extract(archive: str, folder: str) -> list[int]:
    """Make the files of an archive; their sizes."""
    os.mkdir(folder, 0o755)
    sizes = []
    links: set[str] = set()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = _inside(member.name)
                if name:
                    _refuse_below_link(name, links)
                    sizes.append(_make(tar, member, folder, name, links))
            while tar.fileobj is not None and tar.fileobj.read(_CHUNK):
                pass  # what tells whether all was as it had been packed comes last
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        disk = isinstance(error, OSError) and error.errno not in (None, errno.EEXIST, errno.ENOENT, errno.ENOTDIR)
        if disk:  # else gzip says so that it is damaged, or its members contradict one another
            raise
        raise InterpreterError(f"the archive of an interpreter is damaged: {error}") from error
    return sizes


def _make(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: str, name: str, links: set[str]) -> int:
    """Make one member at *name* below *folder*; how many bytes it has."""
    path = os.path.join(folder, name)
    if member.isdir():
        os.makedirs(path, 0o755, exist_ok=True)
        return 0
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    if member.issym():
        _check_link(name, member.linkname)
        os.symlink(member.linkname, path)
        links.add(name)
        return 0
    if member.islnk():
        target = _inside(member.linkname)
        _refuse_below_link(target + "/", links)  # itself among them: the same link elsewhere leads elsewhere
        os.link(os.path.join(folder, target), path)
        return 0
    source = tar.extractfile(member) if member.isfile() else None
    if source is None:
        raise InterpreterError(f"the archive of an interpreter has a device in it: {member.name!r}")
    mode = 0o755 if member.mode & 0o100 else 0o644
    with source, open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as target_file:
        shutil.copyfileobj(source, target_file, _CHUNK)
    os.utime(path, (member.mtime, member.mtime))  # bytecode in the archive names it
    return member.size


def _inside(name: str) -> str:
    """The path of a member below the one folder that all are in; "" for that folder itself."""
    steps = name.split("/")
    while steps and steps[0] == ".":
        del steps[0]
    if name.startswith("/") or ".." in steps or "\0" in name:
        raise _leads_out(name)
    return posixpath.join(*([step for step in steps[1:] if step not in ("", ".")] or [""]))


def _check_link(name: str, target: str) -> None:
    """A link goes up first, not beyond the folder, and then down: nothing it passes through can turn it elsewhere."""
    steps = target.split("/")
    up = 0
    while up < len(steps) and steps[up] == "..":
        up += 1
    if target.startswith("/") or ".." in steps[up:] or up > name.count("/"):
        raise _leads_out(f"{name} -> {target}")


def _refuse_below_link(name: str, links: set[str]) -> None:
    steps = name.split("/")
    for n in range(1, len(steps)):
        if "/".join(steps[:n]) in links:
            raise _leads_out(name)


def _leads_out(name: str) -> InterpreterError:
    return InterpreterError(f"the archive of an interpreter would write outside of its folder: {name!r}")
