"""What runs in a fake instance: its real user data, as a real process on this computer.

There is neither cloud-init nor systemd here: files are written below a folder of the instance's own, and what its unit
starts is started. What those two do is proved by the boot test.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FIRST_WORDS = "[    0.000000] Linux version 6.1.0 (the rig)\n"  # of every console, even where nothing boots
UNIT = "/etc/systemd/system/bigm.service"


class Guest:
    """The process of one instance. Everything it starts has its `TMPDIR`, by which it is found and ended.

    Args:
        folder: of the instance; must not exist.
        user_data: as the instance was given it.
        python: the interpreter that is /usr/bin/python3 there.
        commands: folder with all of this computer's commands but its Pythons.
        environ: further variables.
        ended: called, from a thread, when the process has exited by itself.
    """

    def __init__(
        self,
        folder: Path,
        *,
        user_data: bytes,
        python: str,
        commands: Path,
        environ: Mapping[str, str],
        ended: Callable[[], None],
    ) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self._user_data = user_data
        self._python = python
        self._ended = ended
        self._ending = False
        self._lock = threading.Lock()
        self._tmp = folder / "tmp"
        self._bin = folder / "usr/bin"
        self._environ = {
            "PATH": f"{self._bin}:{commands}",
            "HOME": str(folder / "root"),
            "TMPDIR": str(self._tmp),
            "LANG": "C.UTF-8",
            **environ,
        }

    def start(self) -> None:
        """Write what the user data says, and start what its unit starts, unless the instance has ended meanwhile."""
        for path in (self._tmp, self._bin, self.folder / "root"):
            path.mkdir(parents=True)
        for name in ("python3", _versioned(self._python)):
            (self._bin / name).symlink_to(self._python)
        for name in ("systemctl", "poweroff", "shutdown", "reboot", "halt"):
            self._command(name)
        for file in read_user_data(self._user_data).get("write_files", ()):
            self._write(file)
        command, variables = read_unit((self.folder / UNIT[1:]).read_text())
        with open(self.folder / "console", "ab") as console, self._lock:
            if self._ending:
                return
            self.process = subprocess.Popen(
                [self._inside(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                cwd=self.folder / "root",
                env={**self._environ, **{name: self._inside(value) for name, value in variables.items()}},
                start_new_session=True,
            )
        (self.folder / "pid").write_text(str(self.process.pid))
        threading.Thread(target=self._watch, name=f"rig-{self.folder.name}", daemon=True).start()

    def processes(self) -> list[int]:
        """Process ids of all that runs in the instance."""
        mark, found = f"TMPDIR={self._tmp}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def signal(self, number: int) -> None:
        """Send a signal to all that runs in the instance: SIGSTOP is a network that swallows everything."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self, grace: float = 0.0) -> None:
        """End all that runs in the instance, as its provider does; *grace* seconds after it was asked politely."""
        with self._lock:
            self._ending = True
        if self.process is not None and grace:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.terminate()
                self.process.wait(grace)
        while self.processes():
            self.signal(signal.SIGKILL)
            if self.process is not None:
                self.process.wait()

    def console(self) -> str:
        """What it has said."""
        path = self.folder / "console"
        return FIRST_WORDS + (path.read_text(errors="replace") if path.exists() else "")

    def _watch(self) -> None:
        assert self.process is not None
        self.process.wait()
        if not self._ending:
            self.stop()
            self._ended()

    def _write(self, file: Mapping[str, Any]) -> None:
        path = self.folder / file["path"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_decode(file))
        path.chmod(int(str(file.get("permissions", "0644")), 8))

    def _command(self, name: str) -> None:
        """A command that would end this computer, were it the real one, ends the instance."""
        path = self._bin / name
        only = 'case " $* " in *" poweroff "*|*" reboot "*|*" halt "*) ;; *) exit 0 ;; esac\n'
        ends = f"kill -9 $(cat {self.folder}/pid)\n"
        path.write_text(f'#!/bin/sh\necho "{name} $*"\n{only if name == "systemctl" else ""}{ends}')
        path.chmod(0o755)

    def _inside(self, word: str) -> str:
        path = self.folder / word.lstrip("/")
        return str(path) if word.startswith("/") and path.exists() else word


def read_user_data(data: bytes) -> dict[str, Any]:
    """The cloud-config in user data."""
    text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    if not text.startswith(b"#cloud-config"):
        raise ValueError(f"user data is not a cloud-config: {text[:60]!r}")
    config: dict[str, Any] = yaml.safe_load(text)
    return config


def read_unit(text: str) -> tuple[list[str], dict[str, str]]:
    """Command and variables of a unit of systemd."""
    command: list[str] = []
    variables: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "ExecStart":
            command = shlex.split(value.replace("%%", "%"))
        if key.strip() == "Environment":
            variables.update(word.split("=", 1) for word in shlex.split(value))  # type: ignore[misc]
    return command, variables


def _decode(file: Mapping[str, Any]) -> bytes:
    content, encoding = file.get("content", ""), file.get("encoding", "")
    data: bytes = content if isinstance(content, bytes) else content.encode()
    if "b64" in encoding or "base64" in encoding:
        data = base64.b64decode(data)
    return gzip.decompress(data) if encoding.startswith(("gz", "gzip")) else data


@cache
def _versioned(python: str) -> str:
    code = "import sys; print('python3.%d' % sys.version_info[1])"
    return subprocess.run([python, "-c", code], capture_output=True, check=True, text=True).stdout.strip()
