"""Objects that the driver shares: the machine's half. What arrives as a reference in a call becomes the object here.

    file:  16 random bytes | count of segments, their sizes (8 bytes each, little-endian) | padding
           segment 0: a pickle | padding | segment 1: the memory of an array | padding | ...

A shared object is a file in its machine's folder, named by the sha256 of its content. The driver has it sent there
once, from itself or from another machine (`bigm.sharing`), and tells all workers. A worker that meets a reference maps
the file into its memory and rebuilds the object, once: arrays lie in the mapped file, which all workers of the machine
have in common, and which nobody can write to. Every segment begins at a multiple of 64 bytes, as arrays like it.

The random bytes keep two shares of equal content apart, so that the end of one does not take the other's file.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Optional

from bigm.errors import NotPicklable
from bigm.rpc import codec
from bigm.rpc.wire import Buffer

if TYPE_CHECKING:
    from bigm.peer import Link

NAME = "Shares"

_ALIGN = 64  # bytes
_NONCE = 16
_PIECE = 4 << 20  # bytes of one `Agent.get`
_AHEAD = 2  # pieces asked for before the first of them is there
_NOTICE = 60.0  # seconds after which a reference that nobody has announced is given up
_LOOK = 0.25  # seconds between two looks for the file: a worker that is full of waiting calls cannot be told


def write(file: BinaryIO, segments: Sequence[Buffer]) -> str:
    """Write an object's segments; the sha256 of the whole, hexadecimal."""
    import hashlib

    views = [memoryview(segment).cast("B") for segment in segments]
    head = os.urandom(_NONCE) + struct.pack(f"<{len(views) + 1}Q", len(views), *map(len, views))
    digest = hashlib.sha256()
    for view in (memoryview(head), *views):
        for piece in (view, bytes(-len(view) % _ALIGN)):
            file.write(piece)
            digest.update(piece)
    file.flush()
    return digest.hexdigest()


def read(path: str) -> Any:
    """The object in a file: its arrays lie in the file's pages and cannot be written to."""
    with open(path, "rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    (count,) = struct.unpack_from("<Q", view, _NONCE)
    sizes = struct.unpack_from(f"<{count}Q", view, _NONCE + 8)
    offset = _padded(_NONCE + 8 * (count + 1))
    segments: list[Buffer] = []
    for size in sizes:
        segments.append(view[offset : offset + size])
        offset += _padded(size)
    return codec.loads(segments)


def _padded(size: int) -> int:
    return size + -size % _ALIGN


def arrived(cluster: str, digest: str) -> Any:
    """What a reference to a shared object becomes where it is unpickled: on a machine the object itself.

    In the driver, where nothing has to be sent, it is the handle.

    Raises:
        NotPicklable: the object is not shared with this machine, or no longer; the text says why.
    """
    home = codec.reader.home
    if home is not None and home.worker:
        if home.cluster != cluster:
            raise NotPicklable(
                f"an object that cluster {cluster} shares is unknown to the machines of cluster {home.cluster}",
                hint="share it with that cluster too",
            )
        return home.shared.value(digest)
    from bigm.peer import open_clusters

    driver = open_clusters.get(cluster)
    if driver is None:
        raise NotPicklable(f"the cluster {cluster} that shared this object is not open here")
    return driver.shared.value(digest)


class _Share:
    """An object that this worker has, or is to have."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.there = False
        self.error = ""
        self.lock = threading.Lock()
        self.rebuilt: Optional[tuple[Any]] = None


class Shares:
    """What is shared with this worker; as a service, for the driver alone.

    Args:
        where: how messages call this worker.
        link: how it reaches other machines; made when needed.
    """

    def __init__(self, where: str, link: Callable[[], Link]) -> None:
        self._where = where
        self._link = link
        self._changed = threading.Condition()
        self._shares: dict[str, _Share] = {}
        self._gone: set[str] = set()

    def __repr__(self) -> str:
        return f"<Shares of {self._where}: {len(self._shares)}>"

    # what the driver calls

    def expect(self, digest: str, path: str) -> None:
        """An object will be there: calls that refer to it wait for it.

        Args:
            digest: its name.
            path: the file that it will be, here.
        """
        with self._changed:
            self._shares.setdefault(digest, _Share(path))
            self._changed.notify_all()

    def here(self, digest: str) -> None:
        """It is there."""
        with self._changed:
            if digest in self._shares:
                self._shares[digest].there = True
                self._changed.notify_all()

    def refuse(self, digest: str, text: str) -> None:
        """It could not be brought here; *text* says why. Calls that refer to it fail."""
        with self._changed:
            if digest in self._shares:
                self._shares[digest].error = text
                self._changed.notify_all()

    def forget(self, digest: str, path: str) -> None:
        """Nothing refers to it any more. What a service has kept of it stays valid.

        Args:
            digest: its name.
            path: its file, to be removed for all workers of the machine; "": there is none of its own.
        """
        with self._changed:
            self._shares.pop(digest, None)
            self._gone.add(digest)
            self._changed.notify_all()
        for each in (path, path + ".part") if path else ():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(each)

    def fetch(self, digest: str, path: str, size: int, addr: str, stall: float) -> None:
        """Bring an object here from another machine; returns when it is here, whole and verified.

        Goes on with what an earlier source has left unfinished.

        Args:
            digest: its name.
            path: the file that it is to be here.
            size: bytes.
            addr: the other machine.
            stall: seconds that a piece may take.
        Raises:
            PartError: what came is not what was asked for, is not there, or cannot be kept here.
            WireError: the other machine does not answer; another one may.
        """
        from bigm.parts import PartError, Parts
        from bigm.peer import Peer

        parts = Parts(os.path.dirname(path))
        source = Peer(addr, self._link())
        try:
            sent = received = parts.have([digest]).get(digest, size)
            asked: deque[Any] = deque()
            while received < size:
                while len(asked) < _AHEAD and sent < size:
                    asked.append(source._agent.submit("Agent.get", (digest, sent, _PIECE), timeout=stall))
                    sent += _PIECE
                data = asked.popleft().result()
                if not data or digest in self._gone:
                    raise PartError(f"part {digest[:12]} ended at {received} of {size} bytes, or is wanted no more")
                received = parts.put(digest, received, data, last=received + len(data) == size)
        finally:
            source.close()

    # what a call needs

    def value(self, digest: str) -> Any:
        """The object, for a call that refers to it: always the same. Waits until it is here.

        Raises:
            NotPicklable: it is not shared any more, or could not be brought here.
        """
        share = self._await(digest)
        with share.lock:  # one thread rebuilds it
            if share.rebuilt is None:
                share.rebuilt = (read(share.path),)
            return share.rebuilt[0]

    def _await(self, digest: str) -> _Share:
        """Wait for the driver's word, or the file: while it is expected, the driver sees to it that either comes."""
        until = time.monotonic() + _NOTICE
        with self._changed:
            while True:
                share = self._shares.get(digest)
                if share is None and digest in self._gone:
                    raise NotPicklable(
                        f"an object is not shared any more on {self._where}",
                        hint="keep its handle for as long as calls are made with it",
                    )
                if share is not None and share.error:
                    raise NotPicklable(f"a shared object could not be brought to {self._where}: {share.error}")
                if share is not None and (share.there or os.path.exists(share.path)):
                    return share
                if share is None and time.monotonic() > until:
                    raise NotPicklable(f"a shared object was never announced to {self._where}")
                self._changed.wait(_LOOK)
