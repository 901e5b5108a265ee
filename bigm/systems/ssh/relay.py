"""Leads machines on hosts to one another through the driver: what they dial ends at a local socket of ours.

A machine says in one line which locator it means (`bigm.routes`), and what follows is passed on to the connection that
the driver itself would take, as it comes and in both directions. It is TLS between the two machines: nothing can be
read here, and who may call whom is proven there. One thread moves all bytes; what is not taken stops the reading.

Connections take half of the descriptors that this process may have, at most. When these are in use, or the system has
no more, the next wait to be accepted until one has ended; a connection that does not say whom it means is cut.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from bigm.errors import BigmError
from bigm.routes import LONGEST

_CHUNK = 256 << 10  # bytes read at once, and kept for one direction at most
_DIAL = 10.0  # seconds for the way to the machine that is meant
_LINE = 10.0  # seconds for a connection to say which machine is meant
_PAUSE = 0.2  # seconds without accepting, after a connection could not be accepted
_BACKLOG = 512
_MANY = 1 << 16  # connections, where nothing limits descriptors

Dial = Callable[[str, float], socket.socket]  # from a locator and seconds


class Relay:
    """Passes connections on.

    Args:
        path: of the unix socket to listen on.
        dial: connects to the machine at a locator.
        most: connections at a time; 0: as many as half of this process's descriptors allow.
        line: seconds for a connection to say which machine it means.
    """

    def __init__(self, path: str, dial: Dial, *, most: int = 0, line: float = _LINE) -> None:
        self.path = path
        self._dial = dial
        self._most = most or _share_of_descriptors()
        self._line = line
        self._silent: dict[_Joint, float] = {}  # those that have not said whom they mean, and until when they may
        self._paused = 0.0  # until when nothing is accepted
        self._accepts = True
        self._selector = selectors.DefaultSelector()
        self._joints: set[_Joint] = set()
        self._ready: deque[tuple[_Joint, socket.socket | None]] = deque()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_out.setblocking(False)
        self._closed = False
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_out, selectors.EVENT_READ, self._woken)
        self._thread = threading.Thread(target=self._run, name="bigm-relay", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Relay {self.path}, {len(self._joints)} connections>"

    def close(self) -> None:
        """Cut all connections, and accept no more."""
        self._closed = True
        self._wake()
        self._thread.join()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _run(self) -> None:
        while not self._closed:
            for key, mask in self._selector.select(self._due()):
                if self._selector.get_map().get(key.fd) is key:  # else it was forgotten in this very round
                    key.data(mask)
            self._review()
        for joint in list(self._joints):
            self._drop(joint)
        self._discard()
        for end in (self._listener, self._wake_in, self._wake_out, self._selector):
            end.close()

    def _due(self) -> float | None:
        """Seconds until there is something to do though nothing comes."""
        due = [self._paused] if not self._accepts and len(self._joints) < self._most else []
        due += list(self._silent.values())[:1]  # all have the same time: the first is due first
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _review(self) -> None:
        """Cut who says nothing, and accept connections where that is possible again, and only there."""
        now = time.monotonic()
        for joint in [joint for joint, until in self._silent.items() if until <= now]:
            self._drop(joint)
        accepts = now >= self._paused and len(self._joints) < self._most
        if accepts and not self._accepts:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        elif self._accepts and not accepts:
            self._selector.unregister(self._listener)
        self._accepts = accepts

    def _discard(self) -> None:
        """Close what was dialled for nobody: the end came first."""
        with contextlib.suppress(IndexError):
            while True:
                _, there = self._ready.popleft()
                if there is not None:
                    there.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # closed: nobody waits any more
            self._wake_in.send(b"\0")

    def _woken(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_out.recv(4096):
                pass
        while self._ready:
            joint, there = self._ready.popleft()
            if joint not in self._joints or there is None:
                self._drop(joint)
                if there is not None:
                    there.close()
                continue
            joint.join(there)
            self._attend(joint)

    def _accept(self, _: int) -> None:
        try:
            here, _name = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # no descriptors: it stays where it is, and would be announced without end
            self._paused = time.monotonic() + _PAUSE
            return
        here.setblocking(False)
        joint = _Joint(here)
        self._joints.add(joint)
        self._silent[joint] = time.monotonic() + self._line
        self._selector.register(here, selectors.EVENT_READ, lambda mask: self._hear(joint))

    def _hear(self, joint: _Joint) -> None:
        """Read which machine is meant; then leave the connection alone until there is one to it."""
        if not joint.read(joint.here):
            self._drop(joint)
            return
        line, end, rest = joint.from_here.partition(b"\n")
        if not end and len(line) <= LONGEST:
            return
        self._selector.unregister(joint.here)
        del self._silent[joint]
        joint.from_here = rest
        if not end or not self._start(joint, line.decode("utf-8", "replace")):
            self._drop(joint)

    def _start(self, joint: _Joint, locator: str) -> bool:
        def dial() -> None:
            there = None
            with contextlib.suppress(OSError, BigmError):
                there = self._dial(locator, _DIAL)
            self._ready.append((joint, there))
            self._wake()
            if self._closed:
                self._discard()

        try:
            threading.Thread(target=dial, name="bigm-relay-dial", daemon=True).start()
        except RuntimeError:  # the interpreter is shutting down
            return False
        return True

    def _move(self, joint: _Joint, end: socket.socket, mask: int) -> None:
        if (mask & selectors.EVENT_READ and not joint.read(end)) or not joint.write():
            self._drop(joint)
        else:
            self._attend(joint)

    def _attend(self, joint: _Joint) -> None:
        """Have both ends watched for what can be done next."""
        if joint.is_over:
            self._drop(joint)
            return
        for end in (joint.here, joint.there):
            assert end is not None
            wanted = joint.wants(end)
            watched = end.fileno() in self._selector.get_map()
            if not wanted:
                if watched:
                    self._selector.unregister(end)
                continue
            callback = _mover(self._move, joint, end)
            (self._selector.modify if watched else self._selector.register)(end, wanted, callback)

    def _drop(self, joint: _Joint) -> None:
        self._joints.discard(joint)
        self._silent.pop(joint, None)
        for end in (joint.here, joint.there):
            if end is not None and end.fileno() >= 0:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(end)
                end.close()


def _share_of_descriptors() -> int:
    """Connections that leave others half of what this process may open: each takes two."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft // 4) if soft != resource.RLIM_INFINITY else _MANY


def _mover(
    move: Callable[[_Joint, socket.socket, int], None], joint: _Joint, end: socket.socket
) -> Callable[[int], None]:
    return lambda mask: move(joint, end, mask)


class _Joint:
    """Two connections that are one: what was read from an end and not yet written to the other."""

    def __init__(self, here: socket.socket) -> None:
        self.here = here
        self.there: socket.socket | None = None
        self.from_here = b""
        self.from_there = b""
        self._ended: set[socket.socket] = set()  # nothing more comes from these
        self._told: set[socket.socket] = set()  # and the others know it

    @property
    def is_over(self) -> bool:
        """Whether both directions are at their end."""
        return len(self._told) == 2

    def join(self, there: socket.socket) -> None:
        """The other connection is there."""
        there.setblocking(False)
        self.there = there

    def wants(self, end: socket.socket) -> int:
        """What an end is to be watched for, as a mask."""
        coming, going = (self.from_here, self.from_there) if end is self.here else (self.from_there, self.from_here)
        read = end not in self._ended and len(coming) < _CHUNK
        return (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if going else 0)

    def read(self, end: socket.socket) -> bool:
        """Read what has come; False when the connection is lost, or has ended before it was joined."""
        try:
            data = end.recv(_CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            self._ended.add(end)
            return self.there is not None
        if end is self.here:
            self.from_here += data
        else:
            self.from_there += data
        return True

    def write(self) -> bool:
        """Write what can be written; False when a connection is lost."""
        assert self.there is not None
        try:
            self.from_here = _send(self.there, self.from_here)
            self.from_there = _send(self.here, self.from_there)
            for end, data, other in ((self.here, self.from_here, self.there), (self.there, self.from_there, self.here)):
                if end in self._ended and not data and end not in self._told:
                    self._told.add(end)
                    other.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True


def _send(end: socket.socket, data: bytes) -> bytes:
    """Send what *end* takes now; what is left."""
    if not data:
        return data
    try:
        return data[end.send(data) :]
    except BlockingIOError:
        return data
