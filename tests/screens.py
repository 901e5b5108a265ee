"""A terminal with a command in it: what a person would see there, and type."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence


def _heed_ctrl_c() -> None:
    """As a shell does it. Tests that run in the background ignore Ctrl-C, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Screen:
    """A terminal of 80 columns with a command in it, and all that was written to it."""

    def __init__(self, command: Sequence[str], **variables: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,
            env={**os.environ, "TERM": "xterm", **variables},
        )
        os.close(theirs)
        self.seen = ""
        self._deadline = time.monotonic() + 60.0

    def read_until(self, text: str) -> None:
        """Wait until *text* was written."""
        while text not in self.seen:
            if not self._read():
                raise AssertionError(f"ended without {text!r}: {self.seen!r}")

    def search(self, pattern: str) -> re.Match[str]:
        """Wait until something that matches *pattern* was written."""
        while (found := re.search(pattern, self.seen)) is None:
            if not self._read():
                raise AssertionError(f"ended without {pattern!r}: {self.seen!r}")
        return found

    def type(self, line: str) -> None:
        """Enter a line at the keyboard."""
        os.write(self._ours, line.encode() + b"\n")

    def end(self) -> int:
        """Wait until the command has ended; its exit code."""
        while self._read():
            pass
        return self.process.wait(20)

    def close(self) -> None:
        """End the command, however it is."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)

    def _read(self) -> bool:
        left = self._deadline - time.monotonic()
        assert left > 0, f"still running, having said {self.seen!r}"
        if not select.select([self._ours], [], [], left)[0]:
            return True
        try:
            data = os.read(self._ours, 65536)
        except OSError:
            return False  # its other end is closed
        self.seen += data.decode()
        return bool(data)
