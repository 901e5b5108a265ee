"""Real hosts for tests of `ssh`: OpenSSH's sshd on loopback addresses, each with a home, a key and a Python of its own.

    with Rig() as rig:
        rig.add("alpha", python="3.11")
        Ssh(hosts=["alpha"], config=rig.config)

What a session there starts has `TMPDIR` and `HOME` of its host, below the test session's own temporary folder, so that
tests/conftest.py finds what is left.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from interpreters import all_but_pythons, find_python
from waiting import eventually

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or ""
MISSING = "" if SSHD and shutil.which("ssh") else "no sshd here"


class Host:
    """One sshd, and what there is on its host.

    Args:
        rig: whose it is.
        name: what an ssh configuration calls it.
        python: version of the one Python there, or "" for none.
        settings: lines of its sshd's configuration, beside ours.
        home: its home folder; one is made when None.
        tmp: the same for its temporary folder.
    """

    def __init__(
        self, rig: Rig, name: str, python: str, settings: Mapping[str, str], home: Path | None, tmp: Path | None
    ) -> None:
        self.rig = rig
        self.name = name
        self.folder = rig.folder / name
        self.home, self.tmp, self._bin = (self.folder / part for part in ("home", "tmp", "bin"))
        for path in (self.home, self.tmp, self._bin):
            path.mkdir(parents=True)
        self.home, self.tmp = home or self.home, tmp or self.tmp
        self._settings = {**settings}
        if python:
            (self._bin / "python3").symlink_to(find_python(python) or sys.executable)
        _keygen(self.folder / "host_key")
        self.address = f"127.99.0.{len(rig.hosts) + 1}"
        self.port = _free_port(self.address)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start its sshd."""
        config = self.folder / "sshd_config"
        settings = {
            "ListenAddress": f"{self.address}:{self.port}",
            "HostKey": str(self.folder / "host_key"),
            "AuthorizedKeysFile": str(self.rig.folder / "user_key.pub"),
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "MaxSessions": "10",
            "SetEnv": f"HOME={self.home} TMPDIR={self.tmp} PATH={self._bin}:{self.rig.commands}",
            **self._settings,
        }
        config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        with open(self.folder / "sshd.log", "ab") as log:
            self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log, start_new_session=True)
        eventually(self._answers, 10.0, self.log)

    def stop(self) -> None:
        """End its sshd, and all connections to it."""
        if self.process is not None:
            self.cut()
            self.process.kill()
            self.process.wait()
            self.process = None

    def cut(self) -> int:
        """Kill the processes of all connections, as a network that fails does; how many that were."""
        assert self.process is not None
        found = _children(self.process.pid)
        for pid in found:
            for child in _children(pid):  # the one that speaks for the user
                _kill(child) if _is_sshd(child) else None
            _kill(pid)
        return len(found)

    def agents(self) -> list[int]:
        """Process ids of what was started on this host by bigm, and what that has started."""
        mark, found = f"TMPDIR={self.tmp}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def is_empty(self) -> bool:
        """Whether nothing of bigm is left here: no process, no file but caches."""
        return not self.agents() and not self.files()

    def files(self) -> list[str]:
        """What bigm has left: temporary files, and records of agents."""
        records = self.home.glob(".cache/bigm/machines/*")
        return [str(path) for path in (*self.tmp.iterdir(), *records)]

    def command(self, name: str, script: str) -> None:
        """Make a command of a shell's script there."""
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def log(self) -> str:
        """What its sshd has said."""
        return (self.folder / "sshd.log").read_text()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.address, self.port)) == 0


class Rig:
    """Hosts, the user who may log in to them, and the configuration of ssh that knows them. A context."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rig-")).resolve()
        self.hosts: dict[str, Host] = {}
        self.config = str(self.folder / "config")
        self.known_hosts = self.folder / "known_hosts"
        _keygen(self.folder / "user_key")
        self.commands = all_but_pythons(self.folder / "commands")
        if os.getuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd will not run as root without it

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            host.stop()
        shutil.rmtree(self.folder)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def add(
        self,
        name: str,
        *,
        python: str = "3.11",
        settings: Mapping[str, str] | None = None,
        ssh: Mapping[str, str] | None = None,
        known: bool = True,
        home: Path | None = None,
        tmp: Path | None = None,
    ) -> Host:
        """Start a host.

        Args:
            name: what ssh is to call it.
            python: the version of its one Python; "" for none.
            settings: of its sshd.
            ssh: of the client, for this host.
            known: whether the user has accepted its key.
            home: its home folder.
            tmp: its temporary folder.
        """
        host = self.hosts[name] = Host(self, name, python, settings or {}, home, tmp)
        client = {
            "HostName": host.address,
            "Port": str(host.port),
            "User": getpass.getuser(),
            "IdentityFile": str(self.folder / "user_key"),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            **(ssh or {}),
        }
        with open(self.config, "a") as file:
            file.write("".join([f"Host {name}\n", *(f"  {key} {value}\n" for key, value in client.items())]))
        if known:
            key = (host.folder / "host_key.pub").read_text().split()
            with open(self.known_hosts, "a") as file:
                file.write(f"[{host.address}]:{host.port} {key[0]} {key[1]}\n")
        return host


def _keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True, timeout=30)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _is_sshd(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("sshd")
    except OSError:
        return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
