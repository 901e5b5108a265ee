"""Locks between processes, each a file that also says what it is about. They end with whoever holds them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any


class Lock:
    """A file that can be locked: shared by those who use what it is about, exclusively by who removes that.

    Not for several threads: each has its own, and they exclude one another as processes do.

    Args:
        path: made when it is missing. It may be removed by who holds it exclusively; others then lock a new one.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = self._open()

    def __repr__(self) -> str:
        return f"<Lock {self._path} {'closed' if self._fd < 0 else 'open'}>"

    def fileno(self) -> int:
        """Its descriptor."""
        return self._fd

    def take(self, *, exclusive: bool, wait: bool = True) -> bool:
        """Hold it, in exchange for how it was held before; False: others do, and it is not held any more.

        There is no deadline: who holds it has one, and the kernel lets go of it for who died.
        """
        how = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
        while True:
            try:
                fcntl.flock(self._fd, how)
            except BlockingIOError:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
                return False
            if self._stands():
                return True
            self.close()
            self._fd = self._open()

    def read(self) -> dict[str, Any]:
        """What was written last; empty when that is nothing, or was not finished."""
        try:
            found = json.loads(os.pread(self._fd, 1 << 20, 0))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, facts: Mapping[str, Any]) -> None:
        """Say something about what is locked."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(facts).encode("ascii"), 0)

    def touch(self) -> None:
        """Note that it was used now."""
        os.utime(self._fd)

    def remove(self) -> None:
        """Remove the file, and let go. Only by who holds it exclusively."""
        os.unlink(self._path)
        self.close()

    def close(self) -> None:
        """Let go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _stands(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        except FileNotFoundError:
            return False


@contextlib.contextmanager
def held(path: str) -> Iterator[int]:
    """Hold a lock exclusively for a block; its file is there only meanwhile.

    Yields:
        int: a descriptor. A process that inherits it holds the lock too, also when this one has died.
    """
    lock = Lock(path)
    try:
        lock.take(exclusive=True)
        yield lock.fileno()
        lock.remove()
    finally:
        lock.close()
