"""Real agents for tests: a process each, enrolled over real TLS, with `tiny_worker` as their workers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional

from bigm.authority import Authority
from bigm.bootstrap.agent import program_text
from bigm.bootstrap.enrol import open_agent
from bigm.bootstrap.records import Info, Launch, Main, Report, WorkerSpec
from bigm.rpc.client import Client
from bigm.rpc.identity import Identity
from bigm.rpc.tls import Credentials
from waiting import eventually

TINY_WORKER = Path(__file__).with_name("tiny_worker.py")
ROOT = Path(__file__).resolve().parents[2]


def agent_program() -> str:
    """Source of an agent whose workers are tiny ones."""
    command = f"lambda spec, fd: [spec.python, '-u', {str(TINY_WORKER)!r}, str(fd)]"
    return program_text("bigm.bootstrap.machine", f"main({command})")


class Place:
    """A cluster's authority, and machines started for it. A context: ends all it started."""

    def __init__(self, authority: Optional[Authority] = None) -> None:
        self.authority = authority or Authority()
        self.driver = self.authority.driver()
        self.machines: list[Machine] = []

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines:
            machine.close()

    def launch(self, **fields: Any) -> tuple[Launch, Credentials]:
        """A launch with the fast times of tests, and the credentials in it."""
        name = f"L{len(self.machines)}"
        bootstrap = self.authority.bootstrap(name)
        launch = Launch(
            cluster=self.authority.cluster,
            launch=name,
            ca=self.authority.ca.decode(),
            cert=bootstrap.cert.decode(),
            key=bootstrap.key.decode(),
        )
        defaults = {"parent_pipe": True, "local": True, "first_lease": 60.0, "drain": 2.0}
        return launch._replace(**{**defaults, **fields}), bootstrap

    def machine(self, name: str = "m0", *, enrol: bool = True, python: str = sys.executable, **fields: Any) -> Machine:
        """Start an agent, and enrol and lease it."""
        launch, bootstrap = self.launch(**fields)
        machine = Machine(self, name, launch, bootstrap, [python, "-I", "-S", "-c", agent_program()])
        self.machines.append(machine)
        if enrol:
            machine.enrol()
            machine.client.call("Agent.keepalive", (60.0,))
        return machine


class Machine:
    """One agent process."""

    def __init__(
        self, place: Place, name: str, launch: Launch, bootstrap: Credentials, command: list[str], program: str = ""
    ) -> None:
        self.place, self.name, self.launch, self.bootstrap = place, name, launch, bootstrap
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, cwd="/", start_new_session=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(program.encode() or launch.to_json().encode() + b"\n")
        self.process.stdin.flush()
        if program:
            self.process.stdin.close()  # Python runs a program from standard input when it has all of it
        ready = self.process.stdout.readline()
        assert ready, self.said()
        self.port = int(json.loads(ready)["port"])
        self.credentials = place.authority.machine(name)
        self.clients: list[Client] = []
        self.client: Client
        self.info: Info

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self, timeout: float) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def enrol(self, **options: Any) -> None:
        self.client, self.info = open_agent(
            self.connect, self.place.driver, self.credentials, self.bootstrap, name=f"agent of {self.name}", **options
        )
        self.clients.append(self.client)

    def dial(
        self, credentials: Optional[Credentials] = None, expected: Optional[Identity] = None, **options: Any
    ) -> Client:
        """A client of one's own, by default the driver's to the agent."""
        expected = expected or self.credentials.identity
        client = Client(self.connect, credentials or self.place.driver, expected, name=self.name, **options)
        self.clients.append(client)
        return client

    def spec(self, proc: int = 0, **fields: Any) -> WorkerSpec:
        worker = self.place.authority.worker(self.name, proc)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **fields.pop("env", {})}
        main = Main("module", fields.pop("main", ""))
        pem = (worker.ca, worker.cert, worker.key)
        return WorkerSpec(proc, sys.executable, worker.identity.uri, *pem, main, env=environment, **fields)

    def start_workers(self, *specs: WorkerSpec) -> Client:
        """Start workers (one tiny one by default); returns a client to the first."""
        specs = specs or (self.spec(),)
        self.client.call("Agent.start_workers", (list(specs),))
        return self.worker(specs[0].proc)

    def worker(self, proc: int = 0) -> Client:
        return self.dial(expected=Identity(self.place.authority.cluster, "worker", self.name, proc))

    def watch(self, offset: int = 0, version: int = 0, wait: float = 0.0) -> Report:
        report: Report = self.client.call("Agent.watch", (offset, version, wait))
        return report

    def until(self, state: str, proc: int = 0) -> Report:
        """Watch until a worker is in *state*; no polling."""
        version = 0
        while True:
            report = self.watch(1 << 62, version, 10.0)
            if [status for status in report.workers if status.proc == proc and status.state == state]:
                return report
            assert report.version > version, f"no worker {proc} is {state}: {report}"
            version = report.version

    def said(self) -> str:
        """The agent's own standard error."""
        self.errors.seek(0)
        return self.errors.read().decode()

    def ended(self, timeout: float = 10.0) -> int:
        """Wait for the end of the process; returns its exit code."""
        return self.process.wait(timeout)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(0.0 if not self.launch.parent_pipe else 10.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def alive(pid: int) -> bool:
    """Whether a process lives; an ended one that nobody has collected yet does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def all_gone(*pids: int, timeout: float = 5.0) -> None:
    """Wait until none of *pids* lives."""

    def left() -> list[int]:
        return [pid for pid in pids if alive(pid)]

    eventually(lambda: not left(), timeout, lambda: f"of {pids} these still live: {left()}")
