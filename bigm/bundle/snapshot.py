"""Contents of this computer's files as parts: hashed as they are now, copied into the store where it lacks them.

Copied, never linked: a bundle is a snapshot, and an edit would change a link's content too. Nothing is synced to the
disk, for the driver can make each part again; one that a crash has left short is replaced when it is next needed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
import time
from typing import NamedTuple

from bigm.errors import ConfigError, ProgramError
from bigm.parts import Parts

_CHUNK = 1 << 20  # bytes read at once of what is big
_SMALL = 8 << 20  # bytes up to which a file is read once, into memory; above, once to hash it and once to copy it
_UNFINISHED = ".new"
_ABANDONED = 3600.0  # seconds without a write
_TRIES = 4  # a file that changes while it is read is read anew; one that changes as often is being written all the time


class Kept(NamedTuple):
    """One file whose content is in the store.

    Args:
        digest: sha256 of its content, hexadecimal.
        size: bytes.
        executable: its owner may run it.
    """

    digest: str
    size: int
    executable: bool


class Changed(ProgramError):
    """A file is being written while it is read, again and again. Trying again later can help."""


class Gone(ProgramError):
    """A file that was found has been removed, or what a link led to."""


def keep_file(store: Parts, path: str) -> Kept:
    """Have the content of *path* in *store*, as it is at one moment.

    Args:
        path: a regular file, or a link to one.
    Raises:
        ProgramError: it may not be read, or is no regular file.
        Gone: it is not there.
        Changed: it kept changing while it was read.
        ConfigError: the store cannot be written.
    """
    for _ in range(_TRIES):
        kept = _keep(store, path)
        if kept is not None:
            return kept
    raise Changed(
        f"cannot bundle {path}: it changed each of the {_TRIES} times that it was read",
        hint="let what writes it end first, or leave it out by a line in .bigmignore",
    )


def keep_bytes(store: Parts, data: bytes) -> str:
    """Have *data* in *store*; returns its digest.

    Raises:
        ConfigError: the store cannot be written.
    """
    digest = hashlib.sha256(data).hexdigest()
    path = store.path(digest)
    if not _is_there(path, len(data)):
        with _Incoming(path) as incoming:
            incoming.write(data)
            incoming.become(path)
    return digest


def remove_unfinished(store: Parts) -> None:
    """Remove what those who were killed had not finished: nobody has written to it for long."""
    with contextlib.suppress(OSError), os.scandir(store.folder) as found:
        for entry in found:
            if entry.name.endswith(_UNFINISHED) and entry.stat().st_mtime < time.time() - _ABANDONED:
                os.unlink(entry.path)


def _keep(store: Parts, path: str) -> Kept | None:
    """None: it changed meanwhile."""
    try:
        # Should it have become a fifo since it was found, opening it does not wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise ProgramError(f"cannot bundle {path}: it is no regular file")
        digest = _keep_small(store, fd, before) if before.st_size <= _SMALL else _keep_big(store, fd, before)
        if digest is None or _facts(os.fstat(fd)) != _facts(before):
            return None
        return Kept(digest, before.st_size, bool(before.st_mode & stat.S_IXUSR))
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(fd)


def _facts(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _keep_small(store: Parts, fd: int, found: os.stat_result) -> str | None:
    data = os.read(fd, found.st_size + 1)  # a byte more, to see that it ends there
    return keep_bytes(store, data) if len(data) == found.st_size else None


def _keep_big(store: Parts, fd: int, found: os.stat_result) -> str | None:
    digest = _copy(fd, None)
    path = store.path(digest)
    if _is_there(path, found.st_size):
        return digest
    with _Incoming(path) as incoming:
        os.lseek(fd, 0, os.SEEK_SET)
        if _copy(fd, incoming) != digest:
            return None
        incoming.become(path)
    return digest


def _copy(fd: int, target: _Incoming | None) -> str:
    """Read *fd* to its end, into *target* as well; returns the digest of what was read."""
    found = hashlib.sha256()
    while data := os.read(fd, _CHUNK):
        found.update(data)
        if target is not None:
            target.write(data)
    return found.hexdigest()


def _is_there(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False  # if it cannot be there, bringing it says why


def _unreadable(path: str, error: OSError) -> ProgramError:
    said = f"cannot read {path} to bundle it: {error.strerror}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Gone(said)
    return ProgramError(said, hint="leave it out by a line in .bigmignore, or make it readable")


class _Incoming:
    """A file of this process alone, which becomes a part by one rename; removed if it does not.

    Several processes may bring the same part at once: each has its own, and the last rename wins with equal bytes.
    """

    def __init__(self, part: str) -> None:
        self._folder = os.path.dirname(part)
        self._path = ""

    def __enter__(self) -> _Incoming:
        with self._explained():
            try:
                self._fd, self._path = tempfile.mkstemp(_UNFINISHED, "", self._folder)
            except FileNotFoundError:
                os.makedirs(self._folder, mode=0o700, exist_ok=True)
                self._fd, self._path = tempfile.mkstemp(_UNFINISHED, "", self._folder)
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)
        if self._path:
            os.unlink(self._path)

    def write(self, data: bytes) -> None:
        """Append *data*."""
        view = memoryview(data)
        with self._explained():
            while view:
                view = view[os.write(self._fd, view) :]

    def become(self, part: str) -> None:
        """Be that part from now on."""
        with self._explained():
            os.rename(self._path, part)
        self._path = ""

    def _explained(self) -> _Explained:
        return _Explained(self._folder)


class _Explained:
    """What the disk refuses, as an error that names the store."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise ConfigError(
                f"cannot keep parts of the bundle in {self._folder}: {error.strerror}",
                hint="make room there, or set BIGM_HOME to a folder elsewhere",
            ) from error
