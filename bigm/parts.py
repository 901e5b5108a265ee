"""A store of parts: files named by the sha256 of their content, received piece by piece.

A part that exists is whole and was verified; one being received is another file, which can be gone on with after a
break and becomes the part by one rename. Several senders of one part do not disturb one another: a piece that begins
where the received bytes end is taken, one that is already there is passed over.

What parts mean (layers, interpreters, a program's files) is not known here.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterable

from bigm.errors import BigmError

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
WRITTEN_THROUGH = 1 << 20  # bytes; smaller parts survive a crash of the computer by luck: syncing each is slow
_CHUNK = 1 << 20


class PartError(BigmError):
    """A part cannot be taken or given: a bad digest, a gap, a wrong content, a full disk. The text says which."""


class Parts:
    """The parts in one folder. Its methods may be called by any thread.

    Args:
        folder: where the parts are; made when the first one arrives.
        incoming: a folder on the same disk, for what is being received; "": the same one. Processes that share parts
            each have their own.
    """

    def __init__(self, folder: str, incoming: str = "") -> None:
        self.folder = folder
        self._incoming = incoming or folder
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Parts {self.folder}>"

    def path(self, digest: str) -> str:
        """Path of a part, whether or not it is here."""
        if not _DIGEST.match(digest):
            raise PartError(f"{digest!r} is not a sha256 digest")
        return os.path.join(self.folder, digest)

    def have(self, digests: Iterable[str]) -> dict[str, int]:
        """Which of *digests* are missing.

        Returns:
            dict: each missing digest with the count of its bytes already received, from where `put` goes on.
        """
        return {digest: self._received(digest) for digest in digests if not os.path.exists(self.path(digest))}

    def put(self, digest: str, offset: int, data: bytes, *, last: bool) -> int:
        """Take a piece of a part.

        Args:
            digest: sha256 of the whole part, hexadecimal.
            offset: where *data* begins in the part.
            last: *data* ends the part, which is then verified and becomes visible.
        Returns:
            int: count of bytes received so far; send from there on.
        Raises:
            PartError: the content does not have this digest (all of it is forgotten: begin again), or the disk
                refuses it.
        """
        path = self.path(digest)
        with self._lock:
            if os.path.exists(path):
                return os.path.getsize(path)
            try:
                partial = self._partial(digest)
                received = self._append(partial, offset, data)
                if last and received == offset + len(data):
                    self._finish(digest, partial, path)
            except OSError as error:
                raise PartError(f"cannot keep part {digest[:12]} in {self.folder}: {error.strerror}") from error
            return received

    def get(self, digest: str, offset: int, size: int) -> bytes:
        """Read up to *size* bytes of a part from *offset* on; empty at its end.

        Raises:
            PartError: the part is not here.
        """
        try:
            with open(self.path(digest), "rb") as part:
                left = part.seek(0, os.SEEK_END) - offset  # Python makes room for what it is asked for beforehand
                part.seek(offset)
                return part.read(max(0, min(size, left)))  # of a negative one Python makes all
        except FileNotFoundError:
            raise PartError(f"part {digest[:12]} is not here") from None

    def _partial(self, digest: str) -> str:
        return os.path.join(self._incoming, digest + ".part")

    def _received(self, digest: str) -> int:
        try:
            return os.path.getsize(self._partial(digest))
        except OSError:
            return 0

    def _append(self, partial: str, offset: int, data: bytes) -> int:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            received = os.fstat(fd).st_size
            if not offset <= received <= offset + len(data):
                return received  # a gap, or a piece that is here already
            view = memoryview(data)[received - offset :]
            while view:
                written = os.pwrite(fd, view, received)
                received += written
                view = view[written:]
            return received
        finally:
            os.close(fd)

    def _finish(self, digest: str, partial: str, path: str) -> None:
        found = hashlib.sha256()
        with open(partial, "rb") as part:
            while True:
                chunk = part.read(_CHUNK)
                if not chunk:
                    break
                found.update(chunk)
            if part.tell() >= WRITTEN_THROUGH:
                os.fsync(part.fileno())
        if found.hexdigest() != digest:
            os.unlink(partial)
            raise PartError(f"part {digest[:12]} arrived as {found.hexdigest()[:12]}", hint="send it again")
        os.rename(partial, path)
