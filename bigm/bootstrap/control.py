"""The channel between an agent and one of its workers: an AF_UNIX socket pair, both ends.

Lines of JSON. From the agent: first `{"spec": {...}}` (so that nothing secret stands in an environment or a command
line), then `{"conn": true}`, each with one accepted connection attached by SCM_RIGHTS, and `{"beat": n}`. From the
worker: `{"state": "serving"}`, or `{"state": "failed", "text": ...}` before it exits because the program cannot be
imported. The end of the channel is the death of the other side.

The agent never waits for a worker here: a worker may hold its GIL for a minute, and the thread that hands connections
over serves all of them. A connection that does not fit is refused, a beat is left out.
"""

from __future__ import annotations

import array
import json
import select
import socket
import threading
from collections import deque
from typing import Any, Optional, Union

from bigm.bootstrap.records import SERVING, Main, WorkerSpec

FAILED = "failed"
_MAX_LINE = 16 << 20  # a spec holds argv and sys.path; anything longer is not ours
_MAX_TEXT = 64 << 10  # of a traceback
_ANCILLARY = socket.CMSG_LEN(16 * array.array("i").itemsize)
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # not on macOS

FromAgent = Union[WorkerSpec, socket.socket, int]


class AgentEnd:
    """The agent's end.

    Args:
        sock: its half of the pair; owned from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._lines = _Lines(sock)

    def start(self, spec: WorkerSpec, timeout: float) -> None:
        """Send the spec, the first message; waits up to *timeout* seconds for a worker that reads slowly.

        A worker that is gone already is no error here: its death is noticed by whoever waits for it.

        Raises:
            TimeoutError: the worker did not read it.
        """
        with self._lock:
            self._sock.settimeout(timeout)
            try:
                self._sock.sendall(_line({"spec": _plain(spec)}))
            except socket.timeout:
                raise TimeoutError(f"worker {spec.proc} did not read its instructions within {timeout:g} s") from None
            except OSError:
                pass
            finally:
                self._sock.settimeout(None)

    def hand_over(self, sock: socket.socket) -> bool:
        """Give the worker a connection of which nothing was read. The caller still closes its own descriptor.

        Returns:
            bool: False when the worker is gone, or has left too many connections unread.
        """
        return self._send(_line({"conn": True}), [sock.fileno()])

    def beat(self, number: int) -> bool:
        """Tell the worker that the agent lives; False when it did not fit or the worker is gone."""
        return self._send(_line({"beat": number}), [])

    def fileno(self) -> int:
        """For a selector: when it is readable, ask `heard`."""
        return self._sock.fileno()

    def heard(self) -> tuple[list[tuple[str, str]], bool]:
        """Read what the worker has said so far; never waits.

        Returns:
            tuple: what it said, each SERVING or FAILED and the failure's text; and whether its end is still open.
        """
        open_ = self._lines.fill(socket.MSG_DONTWAIT)
        said: list[tuple[str, str]] = []
        while True:
            line = self._lines.take()
            if line is None:
                return said, open_
            said.append((str(line.get("state", "")), str(line.get("text", ""))))

    def close(self) -> None:
        """Close this end: the worker, if it lives, ends at once."""
        with self._lock:
            _close(self._sock)

    def _send(self, line: bytes, fds: list[int]) -> bool:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with self._lock:
            try:
                # A few bytes are queued whole or not at all.
                self._sock.sendmsg([line], ancillary, socket.MSG_DONTWAIT)
            except OSError:
                return False
        return True


class WorkerEnd:
    """The worker's end.

    Args:
        fd: descriptor of its half of the pair, inherited; owned from now on.
    """

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sock.set_inheritable(False)
        self._lock = threading.Lock()
        self._lines = _Lines(self._sock)

    def receive(self, timeout: Optional[float] = None) -> Optional[FromAgent]:
        """Wait for what the agent says. For one thread at a time.

        Args:
            timeout: seconds, or None for ever.
        Returns:
            The spec (first, once), a connection to adopt, or the number of a beat; None when the agent is gone.
        Raises:
            TimeoutError: nothing came, not even a beat.
        """
        while True:
            line = self._lines.take()
            if line is not None:
                break
            self._await(timeout)
            if not self._lines.fill():
                return None
        if "spec" in line:
            return _spec(line["spec"])
        if "conn" in line:
            return socket.socket(fileno=self._lines.take_fd())
        return int(line["beat"])

    def serving(self) -> None:
        """Say that the program is imported and calls are answered. An agent that is gone is told by `receive`."""
        self._send({"state": SERVING})

    def failed(self, text: str) -> None:
        """Say that the program cannot be imported, and why; the worker exits then."""
        self._send({"state": FAILED, "text": text[-_MAX_TEXT:]})

    def close(self) -> None:
        """Close this end, without a word to the agent."""
        _close(self._sock)

    def _await(self, timeout: Optional[float]) -> None:
        if timeout is not None:
            poll = select.poll()
            poll.register(self._sock.fileno(), select.POLLIN)
            if not poll.poll(timeout * 1000):
                raise TimeoutError

    def _send(self, message: dict[str, Any]) -> None:
        with self._lock:
            try:
                self._sock.sendall(_line(message))
            except OSError:
                pass


class _Lines:
    """Reads lines and the descriptors that came with them."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._fds: deque[int] = deque()

    def take(self) -> Optional[dict[str, Any]]:
        """The next message that is all there, or None."""
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        message: dict[str, Any] = json.loads(line)
        return message

    def take_fd(self) -> int:
        """The oldest descriptor not yet taken: one is attached to the first byte of each message that has one."""
        return self._fds.popleft()

    def fill(self, flags: int = 0) -> bool:
        """Read once; False at the end."""
        if len(self._buffer) > _MAX_LINE:
            return False
        try:
            # socket.recv_fds ignores its flags, and lets the descriptors be inherited by whatever is started next.
            data, ancillary, _, _ = self._sock.recvmsg(65536, _ANCILLARY, flags | _CLOEXEC)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for _, _, content in ancillary:
            fds = array.array("i")
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
            self._fds.extend(fds)
        self._buffer += data
        return bool(data)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def _plain(spec: WorkerSpec) -> dict[str, Any]:
    """The spec without the environment, in which the process was started."""
    fields = spec._asdict()
    del fields["env"]
    for name in ("ca", "cert", "key"):
        fields[name] = fields[name].decode("ascii")
    return fields


def _spec(fields: dict[str, Any]) -> WorkerSpec:
    for name in ("ca", "cert", "key"):
        fields[name] = fields[name].encode("ascii")
    for name in ("argv", "sys_path"):
        fields[name] = tuple(fields[name])
    fields["main"] = Main(*fields["main"])
    return WorkerSpec(**fields)


def _close(sock: socket.socket) -> None:
    """Close *sock* under a thread that may be reading it."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    sock.close()
