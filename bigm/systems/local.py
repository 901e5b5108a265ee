"""Machines on this computer: each is an agent as a child process of the driver, listening on loopback. The default.

The agent starts directly, with no boot stage, from the driver's own bigm. It holds the read end of a pipe whose other
end is the driver's: when the driver is gone, however it died, the pipe ends and so does the agent with all it started.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from bigm.bootstrap.agent import agent_command
from bigm.bootstrap.records import Launch
from bigm.errors import BootError, SystemFault
from bigm.routes import tcp_connect
from bigm.systems import computer, orphans
from bigm.systems.base import ENDED, RUNNING, Capabilities, Finding, Instance, Launched, Spec, System

_START_TIMEOUT = 30.0  # seconds an agent may take to say which port it listens on; it takes 0.1 on an idle computer
_END_TIMEOUT = 5.0  # seconds an agent may take to end after its pipe has; then it is killed
_SAID_AT_MOST = 4096  # bytes of an agent's standard error that `diagnose` shows


class Local(System):
    """Agents as child processes of this driver.

    Args:
        parent_death: as the option says.
    """

    @dataclasses.dataclass(frozen=True)
    class Options:
        """The section `local` of the configuration: the arguments of the system."""

        parent_death: bool = dataclasses.field(
            default=True,
            metadata={"what": "machines end at once when the driver dies; switch it off only to test leases"},
        )

    name = "local"
    capabilities = Capabilities(ends="agent", local=True, in_place=True)

    def __init__(self, *, parent_death: bool = True) -> None:
        self._parent_death = parent_death
        self._cluster = ""
        self._lock = threading.Lock()
        self._children: dict[str, _Child] = {}
        _opened.add(self)

    def __repr__(self) -> str:
        return f"<Local: {len(self._children)} instances>"

    def open(self, cluster: str) -> None:
        self._cluster = cluster

    def launch(self, n: int, spec: Spec, boot: Launch, launch_id: str) -> Launched:
        known = [child for child in self._all() if child.launch == launch_id]
        if known:
            return Launched(tuple(child.instance(self._cluster) for child in known))
        boot = boot._replace(local=True, host="127.0.0.1", port=0, parent_pipe=self._parent_death)
        children: list[_Child] = []
        failures: list[SystemFault] = []
        for index in range(n):
            try:
                child = _Child(f"{launch_id}-{index}", launch_id, spec.python or sys.executable, boot)
            except OSError as error:
                failures.append(BootError(f"cannot start an agent on this computer: {error}", code=str(error.errno)))
                continue
            children.append(child)
            with self._lock:
                self._children[child.id] = child
        _await_ports(children, time.monotonic() + _START_TIMEOUT)
        for child in [child for child in children if not child.port]:
            child.end()
            failures.append(BootError("an agent on this computer did not start", hint=child.said() or child.reason()))
            with self._lock:
                del self._children[child.id]
        return Launched(tuple(child.instance(self._cluster) for child in children if child.port), tuple(failures))

    def describe(self, ids: Sequence[str] | None = None) -> list[Instance]:
        return [child.instance(self._cluster) for child in self._all() if ids is None or child.id in ids]

    def connect(self, instance: Instance, timeout: float) -> socket.socket:
        return tcp_connect(instance.locator, timeout)

    def terminate(self, ids: Iterable[str]) -> dict[str, SystemFault | None]:
        wanted = list(ids)
        children = [child for child in self._all() if child.id in wanted]
        for child in children:
            child.close()  # all pipes first, so that the agents end side by side
        for child in children:
            child.end()
        return dict.fromkeys(wanted)

    def diagnose(self, instance: Instance) -> str:
        with self._lock:
            child = self._children.get(instance.id)
        return child.said() if child else ""

    def doctor(self) -> Iterator[Finding]:
        return computer.machines_here()

    def discover(self) -> list[Instance]:
        return orphans.find()

    def remove(self, instances: Sequence[Instance]) -> dict[str, SystemFault | None]:
        return orphans.remove(instances)

    def close(self) -> None:
        self.terminate([child.id for child in self._all()])
        with self._lock:
            children, self._children = self._children, {}
        for child in children.values():
            child.errors.close()

    def _all(self) -> list[_Child]:
        with self._lock:
            return list(self._children.values())


class _Child:
    """One agent process: the pipe it lives by, and what it says on its standard error."""

    def __init__(self, id: str, launch: str, python: str, boot: Launch) -> None:
        self.id = id
        self.launch = launch
        self.port = 0
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # nameless: nothing to clean up
        self._greeting = b""
        self.process = subprocess.Popen(
            [*agent_command(python), *orphans.label(id)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd="/",
            start_new_session=True,  # Ctrl-C at the terminal is the driver's to handle
        )
        # Made last and told at once: whoever dies from now on, the other removes it.
        self._folder = orphans.make_folder(id)
        boot = boot._replace(folder=self._folder)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died already: the missing port will say so
            self.process.stdin.write(boot.to_json().encode() + b"\n")
            self.process.stdin.flush()

    def fileno(self) -> int:
        """Its standard output, on which it says its port."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def hear(self) -> bool:
        """Read what it says of its port; True when there is no more to wait for."""
        data = os.read(self.fileno(), 4096)
        self._greeting += data
        if data and b"\n" not in self._greeting:
            return False
        with contextlib.suppress(ValueError):
            self.port = int(json.loads(self._greeting)["port"])
        return True

    def instance(self, cluster: str) -> Instance:
        ended = self.process.poll() is not None
        return Instance(
            id=self.id,
            locator=f"127.0.0.1:{self.port}",
            state=ENDED if ended else RUNNING,
            reason=self.reason(),
            launch=self.launch,
            cluster=cluster,
        )

    def reason(self) -> str:
        """How the process ended, in words, or ""."""
        code = self.process.poll()
        if code is None:
            return ""
        return f"the agent was killed by signal {-code}" if code < 0 else f"the agent ended with exit code {code}"

    def said(self) -> str:
        """The last of its standard error."""
        if self.errors.closed:
            return ""
        size = os.fstat(self.errors.fileno()).st_size
        tail = os.pread(self.errors.fileno(), _SAID_AT_MOST, max(0, size - _SAID_AT_MOST))
        return tail.decode("utf-8", "replace").strip()

    def disown(self) -> None:
        """In a forked child of the driver: its copy of the pipe would hide the driver's death."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.process.stdin.fileno(), inheritable=False)
            os.close(null)

    def close(self) -> None:
        """End the pipe it lives by."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def end(self) -> None:
        """See to it that it has ended, and collect it."""
        self.close()
        try:
            self.process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its workers notice that it is gone, and end with all that they started
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _await_ports(children: Iterable[_Child], deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        for child in children:
            selector.register(child, selectors.EVENT_READ, child)
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                if key.data.hear():
                    selector.unregister(key.fileobj)


_opened: weakref.WeakSet[Local] = weakref.WeakSet()


def _after_fork() -> None:
    for system in list(_opened):
        for child in list(system._children.values()):
            child.disown()


os.register_at_fork(after_in_child=_after_fork)
