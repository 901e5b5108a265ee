"""Connections through a command's standard input and output, as ssh's ProxyCommand has them.

The command gets one end of a socket pair, and bytes pass between it and whoever holds the other without any of our
threads. One thread watches all commands: it ends those whose connection was closed, closes the connections of those
that have ended, and keeps what they said.

A command cannot say that it has connected, so a connection is given at once. What a command that failed has said is
raised by the next attempt of the same command, which waits for twice as long as the last one took to fail.

For the driver, and for its keeper, which is a process of its own and must not depend on the driver for its way.

Source: ssh_config(5), ProxyCommand; OpenSSH's sshconnect.c, which puts "exec" before the command as is done here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from typing import NamedTuple, Optional

PREFIX = "|"  # of an address that is a command

_GRACE = 2.0  # seconds for a command that is told to end
_QUICK = 30.0  # seconds: what ended later than this after its start did not fail to connect
_MARGIN = 1.0  # seconds beyond the time that the last failure took
_BLIND = 100  # milliseconds between two looks where the system does not announce the end of a process
_NEVER = 86400e3  # milliseconds
_KEPT = 2000  # bytes of what a command says
_CHUNK = 4096


class _Failure(NamedTuple):
    """How a command failed: after how many seconds, and what is to be told."""

    took: float
    text: str


class Commands:
    """Starts commands, and sees to their end. May be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[_Running] = []
        self._failed: dict[str, _Failure] = {}
        self._thread: Optional[threading.Thread] = None
        self._closed = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_out.setblocking(False)

    def __repr__(self) -> str:
        return f"<Commands: {len(self._running)} running>"

    def dial(self, command: str, timeout: float) -> socket.socket:
        """Start a command, and give the connection that it is.

        Args:
            command: for a shell.
            timeout: seconds to wait for it to fail, if it failed before.
        Raises:
            OSError: it cannot be started, or fails again, with what it said. Trying again can help.
        """
        here, there = socket.socketpair()
        try:
            running = _Running(command, there)
        except BaseException:
            here.close()
            there.close()
            raise
        self._watch(running)
        failed = self._failed.get(command)
        if failed is not None and running.ended.wait(min(timeout, 2 * failed.took + _MARGIN)):
            here.close()
            raise ConnectionError(self.said(command))
        self._failed.pop(command, None)
        return here

    def said(self, command: str) -> str:
        """Why a command failed the last time, or ""."""
        failed = self._failed.get(command)
        return failed.text if failed is not None else ""

    def close(self) -> None:
        """End all commands; returns when they are gone."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._wake()
        if thread is not None:
            thread.join()
        self._wake_in.close()
        self._wake_out.close()

    def _watch(self, running: _Running) -> None:
        with self._lock:
            self._running.append(running)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bigm-commands", daemon=True)
                self._thread.start()
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_in.send(b"\0")

    def _run(self) -> None:
        while True:
            with self._lock:
                running, closed = list(self._running), self._closed
            if closed and not running:
                return
            poller = select.poll()
            poller.register(self._wake_out, select.POLLIN)
            for one in running:
                if closed:
                    one.end()
                one.register(poller)
            happened = dict(poller.poll(min((one.patience() for one in running), default=_NEVER)))
            with contextlib.suppress(BlockingIOError):
                while self._wake_out.recv(_CHUNK):
                    pass
            for one in running:
                if one.review(happened):
                    self._remove(one)

    def _remove(self, one: _Running) -> None:
        took = time.monotonic() - one.started
        with self._lock:
            self._running.remove(one)
        if one.told is None and took < _QUICK:
            self._failed[one.command] = _Failure(took, one.describe())
        one.finish()


class _Running:
    """One command, and what is watched of it."""

    def __init__(self, command: str, there: socket.socket) -> None:
        self.command = command
        self.started = time.monotonic()
        self.ended = threading.Event()
        self.told: Optional[float] = None  # since when it is to end
        self._there = there  # its end of the pair, by which we see that the other was closed
        self._said = b""
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            stdin=there.fileno(),
            stdout=there.fileno(),
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C at the terminal must not cut the ways to machines that are to end in order
        )
        assert self._process.stderr is not None
        self._errors = self._process.stderr
        os.set_blocking(self._errors.fileno(), False)
        self._pidfd = _pidfd(self._process.pid)

    def register(self, poller: select.poll) -> None:
        """Have watched whatever happens next."""
        if self.told is None:
            poller.register(self._there, 0)  # a hang-up is told unasked
        if not self._errors.closed:
            poller.register(self._errors, select.POLLIN)
        if self._pidfd >= 0:
            poller.register(self._pidfd, select.POLLIN)

    def patience(self) -> float:
        """Milliseconds until it is to be looked at though nothing happens."""
        return _BLIND if self._pidfd < 0 or self.told is not None else _NEVER

    def review(self, happened: dict[int, int]) -> bool:
        """See what became of it; True when it has ended."""
        if self.told is None and happened.get(self._there.fileno(), 0) & (select.POLLHUP | select.POLLERR):
            self.end()
        if not self._errors.closed and self._errors.fileno() in happened:
            self._read()
        if self.told is not None and time.monotonic() > self.told + _GRACE:
            self._signal(signal.SIGKILL)
        return self._process.poll() is not None

    def end(self) -> None:
        """Tell it to end, once."""
        if self.told is None:
            self.told = time.monotonic()
            self._signal(signal.SIGTERM)

    def describe(self) -> str:
        """How it ended, in words."""
        self._read()
        lines = self._said.decode("utf-8", "replace").strip().splitlines()
        said = " / ".join(line.strip() for line in lines[-3:])
        code = self._process.returncode
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return f"the proxy command ended with {how}{': ' if said else ' and said nothing'}{said}"

    def finish(self) -> None:
        """Close its connection, and let go of all that was watched. It has ended."""
        self._there.close()
        self._errors.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self.ended.set()

    def _read(self) -> None:
        try:
            while data := self._errors.read(_CHUNK):
                self._said = (self._said + data)[-_KEPT:]
            if data == b"":
                self._errors.close()
        except (OSError, ValueError):
            return  # closed

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):  # it has ended
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)


def _pidfd(pid: int) -> int:
    """A descriptor that announces the end of a process, or -1 where there is no such thing."""
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1
