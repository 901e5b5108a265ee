"""The agent: the first program on a machine, which never runs user code and answers for everything that does.

    port ----> Agent (this machine's service: enrolment, lease, parts, workers, logs, end)
      |           |   ^
      |         Workers |  output, deaths
      +--------> worker 0, worker 1, ...

`Agent` is the service, without a process of its own: clock, workers and the end come in as arguments, so that the
`inprocess` system and tests run this very class. `bigm.bootstrap.machine` is the process around it.

Every wait has an end: the lease (the driver renews it), the lifetime (nobody does), and, once ending, a grace for the
workers, a time for their last output, and a time for the driver to fetch it.

Source: bigmachine supervisor.go. Different: this runs beside the user's code, not in its process.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Callable, Optional

import bigm
from bigm.bootstrap import samples
from bigm.bootstrap.records import (
    ENDING,
    EXITED,
    SERVING,
    UNHEALTHY_MEMORY,
    Info,
    Launch,
    Lease,
    Report,
    Sample,
    WorkerSample,
    WorkerSpec,
    WorkerStatus,
)
from bigm.causes import Cause
from bigm.errors import ConfigError, NotAllowed
from bigm.parts import Parts
from bigm.ring import Ring
from bigm.rpc.identity import DRIVER, KEEPER, MACHINE, WORKER, Identity
from bigm.rpc.server import Server
from bigm.rpc.tls import Credentials

SERVICE = "Agent"
INSTALLER = "Installer"  # what `Agent.extend` adds: `bigm.bootstrap.installer`
MAX_LEASE = 3600.0  # seconds; a driver that wants more has forgotten what a lease is for
_WATCH_BYTES = 256 << 10  # of log in one reply
_MAX_WAIT = 60.0  # seconds of one watch
_GET_BYTES = 4 << 20  # of a part in one reply

# Who may call what. The driver may call everything once the machine is enrolled.
_BEFORE_ENROLMENT = frozenset({"enrol", "info", "ping"})
_OF_KEEPER = frozenset({"keepalive", "release", "ping"})
_OF_PEERS = frozenset({"ping", "info", "have", "get", "get_many", "sizes"})
_METHODS = (
    *("enrol", "info", "ping", "keepalive", "release"),
    *("have", "put", "get", "extend"),
    *("start_workers", "stop_workers", "watch", "sample", "shutdown", "exit"),
)


class Workers(ABC):
    """What starts and ends workers: processes on a machine, threads in `inprocess`.

    It reports to the agent it is told by `attach`: `Agent.wrote` for output, `Agent.worker_changed` for each new
    status, `Agent.worker_drained` when a worker's output is at its end. None of these block, any thread may call them.
    """

    @abstractmethod
    def attach(self, agent: Agent) -> None:
        """Called once, before anything else."""

    @abstractmethod
    def start(self, specs: Sequence[WorkerSpec]) -> list[WorkerStatus]:
        """Start workers; returns when they exist, not when they serve.

        Raises:
            ConfigError: one of them cannot be started; those before it were.
        """

    @abstractmethod
    def hand_over(self, proc: int, connection: socket.socket) -> bool:
        """Give worker *proc* an accepted connection of which nothing was read, and own it; False: nobody takes it."""

    @abstractmethod
    def end(self, grace: float) -> None:
        """Ask all workers to end, and end those that still live, with all their descendants, *grace* seconds later.

        Returns at once; the outcome is reported as each worker's status.
        """

    @abstractmethod
    def sample(self) -> tuple[WorkerSample, ...]:
        """What each living worker uses."""


class Agent:
    """One machine's agent, as a service for the driver, its keeper and other machines.

    Args:
        launch: what the machine was given at launch.
        workers: starts and ends workers.
        finish: ends the machine; called once, quick, by any thread.
        folder: where logs and parts are kept; "" keeps logs in memory and refuses parts.
        mark: value of BIGM_MACHINE in what this machine starts.
        clock: seconds, monotonic; leases and lifetime count by it.
        wake: called, by any thread, when `tick` should be called again without waiting for what it returned.
        first_lease: seconds left to be enrolled and leased; the launch's when None (boot has used some of it).
    """

    def __init__(
        self,
        launch: Launch,
        workers: Workers,
        finish: Callable[[], None],
        *,
        folder: str = "",
        mark: str = "",
        clock: Callable[[], float] = time.monotonic,
        wake: Callable[[], None] = lambda: None,
        first_lease: Optional[float] = None,
    ) -> None:
        self._launch = launch
        self._workers = workers
        self._finish = finish
        self._folder = folder
        self._mark = mark
        self._clock = clock
        self._wake = wake
        self._identity = Identity.parse(f"bigm://{launch.cluster}/bootstrap/{launch.launch}")
        self._enrolled = False
        self._started = clock()
        self._lease_until = self._started + (launch.first_lease if first_lease is None else first_lease)
        self._leased = False
        self._changed = threading.Condition()
        self._version = 1
        self._statuses: dict[int, WorkerStatus] = {}
        self._deaths = 0
        self._restarts = False
        self._flowing: set[int] = set()  # workers whose output is not at its end
        self._state, self._cause, self._text = SERVING, "", ""
        self._linger = 0.0  # seconds to stay once drained
        self._drain_until = 0.0
        self._linger_until = 0.0
        self._drained = False
        self._taken: Optional[float] = None  # when the machine will be taken away
        self._advice = ""
        self._finished = False
        self._ring = Ring(folder, disk_limit=launch.log_ring)
        self._parts = Parts(os.path.join(folder, "parts"))
        self._disk_said = False
        credentials = self._credentials(launch.cert.encode("ascii"), launch.key.encode("ascii"))
        self.server = Server(credentials, name="agent", authorize=self._authorize)
        self.server.register(SERVICE, self, methods=_METHODS)
        workers.attach(self)

    def __repr__(self) -> str:
        return f"<Agent {self._identity.uri} {self._state} {self._cause} workers={len(self._statuses)}>"

    # what the driver, its keeper and other machines call

    def enrol(self, identity: str, cert: bytes, key: bytes) -> Info:
        """Become a machine of the cluster: take its name, certificate and key. Once.

        Args:
            identity: the machine's name, "bigm://<cluster>/machine/<id>".
            cert: its certificate, PEM.
            key: its private key, PEM.
        Raises:
            NotAllowed: it is enrolled already, or the name is not one of a machine of this cluster. Not retryable, but
                a caller whose first reply was lost finds the machine under the name it asked for.
        """
        wanted = Identity.parse(identity)
        if wanted.role != MACHINE or wanted.cluster != self._launch.cluster:
            raise NotAllowed(f"{identity} is not a machine of cluster {self._launch.cluster}")
        with self._changed:
            if self._enrolled:
                raise NotAllowed(f"this machine is enrolled already, as {self._identity.uri}")
            self._enrolled = True
            self._identity = wanted
        self.server.renew(self._credentials(cert, key))
        return self.info()

    def info(self, wait: float = 0.0, deaths: int = 0) -> Info:
        """What this machine is; once it is ending, more than *deaths* workers died, or *wait* seconds are over."""
        with self._changed:
            self._changed.wait_for(lambda: self._fate()[0] or self._deaths > deaths, min(wait, _MAX_WAIT))
        cause, text = self._fate()
        return Info(
            identity=self._identity.uri,
            version=bigm.__version__,
            platform=samples.platform(),
            python=".".join(map(str, sys.version_info[:3])),
            executable=sys.executable,
            cpus=samples.cpus(),
            memory=samples.recent_memory().limit,
            pid=os.getpid(),
            hostname=socket.gethostname(),
            folder=self._folder,
            mark=self._mark,
            procs=len(self._statuses),
            cause=cause,
            text=text,
            deaths=self._deaths,
        )

    def ping(self) -> float:
        """Seconds since the agent started."""
        return self._clock() - self._started

    def keepalive(self, seconds: float) -> Lease:
        """Promise that the driver will return within *seconds*, on this machine's monotonic clock.

        Never shortens a lease: driver and keeper may both renew, and the longer promise counts.

        Args:
            seconds: up to MAX_LEASE; less is granted when more is asked.
        Source: bigmachine supervisor.go, Supervisor.Keepalive.
        """
        granted = min(max(0.0, float(seconds)), MAX_LEASE)
        with self._changed:
            until = self._clock() + granted
            self._lease_until = max(self._lease_until, until) if self._leased else until
            self._leased = True
        self._wake()
        memory = samples.recent_memory()
        if memory.used > UNHEALTHY_MEMORY * memory.limit:
            return Lease(granted, False, f"memory is short: {memory.used >> 20} of {memory.limit >> 20} MiB are used")
        return Lease(granted)

    def release(self) -> None:
        """End now: the driver is gone, says its keeper."""
        self.end(Cause.DRIVER, "the driver ended; its keeper released this machine")

    def have(self, digests: Iterable[str]) -> dict[str, int]:
        """Which parts are missing here, each with the count of its bytes already received."""
        return self._parts.have(digests)

    def put(self, digest: str, offset: int, data: bytes, last: bool) -> int:
        """Take a piece of a part; see `bigm.parts.Parts.put`."""
        return self._parts.put(digest, offset, data, last=last)

    def get(self, digest: str, offset: int, size: int) -> bytes:
        """Read a piece of a part, up to 4 MiB; see `bigm.parts.Parts.get`."""
        return self._parts.get(digest, offset, min(size, _GET_BYTES))

    def extend(self, digest: str) -> None:
        """Serve `Installer` too (`bigm.bootstrap.installer`), which can take a bundle. Again: nothing.

        Args:
            digest: the part that has what the agent's zip lacks, a zip as well; "" where all of bigm is here.
        Raises:
            PartError: that part is not here.
        """
        if digest:
            self._parts.get(digest, 0, 1)
            for package in (bigm, bigm.bootstrap, bigm.rpc):
                package.__path__.append(os.path.join(self._parts.path(digest), *package.__name__.split(".")))
        importlib.import_module("bigm.bootstrap.installer").serve(self, self._folder, self._mark)

    def start_workers(self, specs: Sequence[WorkerSpec]) -> list[WorkerStatus]:
        """Start workers. Returns when they are processes; when they serve, `watch` tells.

        Raises:
            ConfigError: an index is in use, or a process cannot be started (its interpreter or folder is missing).
            NotAllowed: the machine is ending.
        """
        with self._changed:
            if self._state != SERVING:
                raise NotAllowed(f"the machine is ending: {self._text}")
            for spec in specs:
                status = self._statuses.get(spec.proc)
                if status is not None and status.state != EXITED:
                    raise ConfigError(f"worker {spec.proc} runs already")
                identity = Identity.parse(spec.identity)
                if (identity.role, identity.machine) != (WORKER, self._identity.machine):
                    raise ConfigError(f"{spec.identity} is not a worker of {self._identity.uri}")
            self._flowing.update(spec.proc for spec in specs)
            self._restarts = any(spec.restart for spec in specs)
        try:
            return self._workers.start(specs)
        except ConfigError:
            with self._changed:
                self._flowing &= set(self._statuses)
            raise

    def stop_workers(self, grace: float) -> list[WorkerStatus]:
        """End all workers: asked first, killed *grace* seconds later. Returns when they are gone."""
        self._workers.end(grace)
        with self._changed:
            self._changed.wait_for(self._all_exited, grace + self._launch.drain)
            return self._sorted_statuses()

    def watch(self, offset: int, version: int, wait: float) -> Report:
        """Wait for news: output from *offset* on, or anything else newer than *version*.

        Args:
            offset: where to read the log from.
            version: of the last report; 0 for the first.
            wait: seconds to wait at most, up to 60; then the report brings nothing new.
        """
        deadline = time.monotonic() + min(max(0.0, wait), _MAX_WAIT)
        with self._changed:
            while self._ring.end <= offset and self._version <= version and not self._finished:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        return self._report(offset, _WATCH_BYTES)

    def sample(self) -> Sample:
        """Memory, disk and load now."""
        return Sample(
            memory=samples.memory(),
            disk=samples.disk(self._folder or "/"),
            load=os.getloadavg(),
            uptime=self.ping(),
            workers=self._workers.sample(),
        )

    def shutdown(self, grace: float) -> Report:
        """End the workers, read their output to its end, and say where it ends; `watch` still answers, until `exit`.

        Args:
            grace: seconds between asking the workers to end and killing them with all they started.
        """
        self.end(Cause.SHUTDOWN, "it was shut down", grace=grace, linger=self._launch.linger)
        with self._changed:
            self._changed.wait_for(lambda: self._drained, grace + 2 * self._launch.drain)
        return self._report(self._ring.end, 0)

    def exit(self) -> None:
        """The last call: everything is read, the machine may end."""
        self.end(Cause.SHUTDOWN, "it was shut down")

    # what the process around it calls

    @property
    def ending(self) -> bool:
        """Whether it has begun to end."""
        return self._state != SERVING

    def end(self, cause: Cause, text: str, *, grace: float = 0.0, linger: float = 0.0) -> None:
        """Begin to end the machine, or hasten its end; the first cause counts. Returns at once.

        Args:
            cause: why, as a stable word.
            text: why, in words.
            grace: seconds before workers that were asked to end are killed.
            linger: seconds for the driver to fetch the last output.
        """
        with self._changed:
            first = self._state == SERVING
            if first:
                self._state, self._cause, self._text = ENDING, str(cause), text
            elif grace > 0:
                return
            now = self._clock()
            until = now + grace + self._launch.drain
            self._drain_until = until if first else min(self._drain_until, until)
            self._linger = linger
            self._linger_until = now + linger
            self._news()
        if first:
            self.say(f"ending: {text}")
        self._workers.end(grace)
        self._wake()

    def preempt(self, notice: float) -> None:
        """The machine will be taken away in *notice* seconds: tell the driver."""
        with self._changed:
            self._taken = self._clock() + notice
            self._news()
        self.say(f"this machine will be taken away in {notice:g} s")

    def advise(self, text: str) -> None:
        """It may be better to leave the machine soon: tell the driver."""
        with self._changed:
            self._advice = text
            self._news()
        self.say(text)

    def tick(self) -> float:
        """Do what time calls for; returns the clock's time at which to call again at the latest."""
        now = self._clock()
        if self._state == SERVING:
            if now >= self._started + self._launch.lifetime:
                text = f"its lifetime of {self._launch.lifetime:g} s is over"
                self.end(Cause.LIFETIME, text, linger=self._launch.linger)
            elif now >= self._lease_until:
                self.end(Cause.LEASE, "the driver did not renew its lease in time" if self._leased else "never leased")
            else:
                return min(self._lease_until, self._started + self._launch.lifetime)
        with self._changed:
            if not self._drained and self._is_drained(now):
                self._drained = True
                self._linger_until = now + self._linger
                self._news()
            if not self._drained:
                return self._drain_until
            if now < self._linger_until:
                return self._linger_until
            if self._finished:
                return now + MAX_LEASE
            self._finished = True
            self._news()
        self._finish()
        return now + MAX_LEASE

    def close(self) -> None:
        """Let go of the log's files and of whoever still watches. The server is closed by whoever runs it."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()
        self._ring.close()

    # what its workers and its port call

    def wrote(self, source: str, stream: str, data: bytes) -> None:
        """Output was read: from "w<proc>" or "agent", stream "o" or "e"."""
        self._ring.append(source, stream, data, time.time())
        if self._ring.disk_error and self._folder and not self._disk_said:
            self._disk_said = True
            text = f"agent: logs are kept in memory only from now on: {self._ring.disk_error}\n"
            self._ring.append("agent", "e", text.encode(), time.time())
        with self._changed:
            self._changed.notify_all()

    def say(self, text: str) -> None:
        """Tell the machine's log something about the machine itself."""
        self.wrote("agent", "e", f"agent: {text}\n".encode())

    def worker_changed(self, status: WorkerStatus) -> None:
        """A worker has started, serves, or is gone."""
        with self._changed:
            self._statuses[status.proc] = status
            self._deaths += status.state == EXITED
            self._news()
        self._wake()

    def worker_drained(self, proc: int) -> None:
        """A worker's output is at its end."""
        with self._changed:
            self._flowing.discard(proc)
        self._wake()

    def _credentials(self, cert: bytes, key: bytes) -> Credentials:
        return Credentials(self._identity, self._launch.ca.encode("ascii"), cert, key)

    def _authorize(self, peer: Identity, service: str, method: str) -> None:
        if peer.role == DRIVER:
            if not self._enrolled and method not in _BEFORE_ENROLMENT:
                raise NotAllowed(f"the machine is not enrolled yet: {service}.{method} is refused")
            return
        allowed = {KEEPER: _OF_KEEPER, MACHINE: _OF_PEERS, WORKER: _OF_PEERS}.get(peer.role, frozenset())
        if not self._enrolled or service not in (SERVICE, INSTALLER) or method not in allowed:
            raise NotAllowed(f"a {peer.role} may not call {service}.{method}")

    def _report(self, offset: int, limit: int) -> Report:
        with self._changed:
            drained = self._drained  # before the log is read: what is then the end is the end
            found = self._ring.read(offset, limit)
            return Report(
                version=self._version,
                state=self._state,
                cause=self._cause,
                text=self._text,
                workers=tuple(self._sorted_statuses()),
                records=found.records,
                next_offset=found.next_offset,
                dropped_bytes=found.dropped,
                end_offset=found.end,
                drained=drained,
                notice=None if self._taken is None else max(0.0, self._taken - self._clock()),
                advice=self._advice,
            )

    def _is_drained(self, now: float) -> bool:
        if self._all_exited() and not self._flowing:
            return True
        if now < self._drain_until:
            return False
        held = ", ".join(f"worker {proc}" for proc in sorted(self._flowing))
        self.say(f"the output of {held} is still held open by a process that would not end; it is read no further")
        return True

    def _fate(self) -> tuple[str, str]:
        """Why this machine is ending, or will, as a word and in words: what began it counts."""
        with self._changed:
            for status in self._sorted_statuses():
                if status.state == EXITED and status.cause != Cause.SHUTDOWN and not self._restarts:
                    return status.cause, status.text
            return self._cause, self._text

    def _all_exited(self) -> bool:
        return all(status.state == EXITED for status in self._statuses.values())

    def _sorted_statuses(self) -> list[WorkerStatus]:
        return [self._statuses[proc] for proc in sorted(self._statuses)]

    def _news(self) -> None:
        self._version += 1
        self._changed.notify_all()


def agent_command(python: str) -> list[str]:
    """The command that runs an agent from this bigm: it reads its `Launch` as one line of JSON on standard input."""
    return [python, "-I", "-S", "-c", program_text("bigm.bootstrap.machine", "main()")]


def program_text(module: str, call: str, root: str = "") -> str:
    """Source that imports *module* of the bigm in *root*, by default this very one, and calls something in it.

    The folder stands on `sys.path` for the import of `bigm` alone: whatever else lies beside it must not stand before
    the standard library, and no more must what lies in the working folder.
    """
    root = root or os.path.dirname(os.path.dirname(os.path.abspath(bigm.__file__)))
    name = call.partition("(")[0]
    alone = f"import sys; sys.path[:] = [{root!r}, *filter(None, sys.path)]; import bigm; del sys.path[0]"
    return f"{alone}; from {module} import {name}; {call}"
