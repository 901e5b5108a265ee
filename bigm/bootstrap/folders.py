"""Where a machine may keep what it installs: the first folder that can be written to, run from, and has room."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable

from bigm.errors import BigmError

RESERVE = 16 << 20  # bytes that are to stay free besides what is needed
_ELSEWHERE = ("~/.cache/bigm", "/var/tmp/bigm-{uid}", "/tmp/bigm-{uid}")


class StoreError(BigmError):
    """A machine cannot keep what it is sent: no folder will do, or the disk refuses it. The text says which and why."""


def choose(wanted: str, need: int) -> tuple[str, list[str]]:
    """Find a folder that is kept after this machine's end, for all machines of this user on this computer.

    Args:
        wanted: the one to try first; "~" is expanded.
        need: bytes that must be free there.
    Returns:
        tuple: its path, and a sentence for each folder that was passed over.
    Raises:
        StoreError: none will do; the text says of each why.
    """
    notes: list[str] = []
    for each in dict.fromkeys((wanted, *_ELSEWHERE)):
        path = os.path.abspath(os.path.expanduser(each.format(uid=os.geteuid()) if each in _ELSEWHERE else each))
        wrong = check(path, need)
        if not wrong:
            return path, notes
        notes.append(f"{path} {wrong}")
    raise StoreError(
        f"there is no folder to install into: {'; '.join(notes)}", hint="make room there, or name another folder"
    )


def check(path: str, need: int = 0) -> str:
    """What is wrong with a folder, in words that follow its name; "" when nothing is. Makes it when it is missing."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        return whose(path) or _room(path, need) or _usable(path)
    except OSError as error:
        return f"cannot be used: {error.strerror}"


def free(path: str) -> int:
    """Bytes that this user may still write there."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def noexec(path: str) -> bool:
    """Whether nothing may be run, and no extension module loaded, from there."""
    return bool(os.statvfs(path).f_flag & getattr(os, "ST_NOEXEC", 0))  # elsewhere than on Linux nobody tells


def attempt(what: str, path: str, work: Callable[[], None]) -> None:
    """Do *work*, which writes below *path*.

    Raises:
        StoreError: the disk refuses it; the text says how much is free.
    """
    try:
        work()
    except OSError as error:
        raise StoreError(
            f"cannot {what} in {path}: {error.strerror or error} ({free(path) >> 20} MiB are free there)",
            hint="make room there, or name another folder",
        ) from error


def whose(path: str) -> str:
    """What is wrong with a folder's owner or mode, as of `check`: in /tmp somebody may have been there before us."""
    for found in (os.lstat(path), os.stat(path)):
        if found.st_uid != os.geteuid():
            return "belongs to another user"
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    if found.st_mode & 0o022:
        return "can be written to by others"
    return ""


def _room(path: str, need: int) -> str:
    if noexec(path):
        return "is on a disk from which nothing may be run (noexec)"
    left = free(path)
    if left < need + RESERVE:
        return f"has {left >> 20} MiB free of the {(need + RESERVE) >> 20} MiB that are needed"
    return ""


def _usable(path: str) -> str:
    with tempfile.TemporaryFile(dir=path) as file:
        file.write(b"x")
        file.flush()
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)  # some network disks have no locks
    return ""
