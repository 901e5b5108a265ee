"""The records that cross between driver, agent and worker. Named tuples of plain values, nothing else.

Not dataclasses, which are made by running the compiler several times each: every start of an agent or worker would pay
for it, and for the import of what does it.

Seconds are floats, sizes are counts of bytes, offsets count from the first byte a machine ever logged. A wall clock is
seconds since 1970 as the machine that wrote it sees them; durations are always measured on a monotonic clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple, Optional

from bigm.ring import LogRecord as LogRecord

STARTING = "starting"  # a worker that was started and still imports the program
SERVING = "serving"  # a worker that answers calls; an agent that is in no hurry to end
EXITED = "exited"  # a worker that is gone, with its cause
ENDING = "ending"  # an agent that ends its workers, or has ended them


class Launch(NamedTuple):
    """What an instance gets at launch, as one line of JSON: the same record for boot and for an agent started directly.

    Args:
        cluster: the cluster's id.
        launch: the launch's id; instances of one launch share this record.
        ca: the CA certificate, PEM.
        cert: the bootstrap certificate of this launch, PEM.
        key: its private key, PEM.
        agent_digest: sha256 of the agent's zip, hexadecimal; "" when the agent starts directly.
        first_lease: seconds within which the instance must be enrolled and leased, or it ends.
        lifetime: seconds after which the machine ends, leased or not.
        host: address to listen on.
        port: port to listen on; 0 takes any.
        parent_pipe: end at once when standard input ends, which is the death of whoever launched us.
        folder: where the machine keeps its state; "" makes one, which is removed at the end.
        local: the driver runs on this computer too; no cloud instance is to be ended with the machine.
        drain: seconds to wait for the last output of ended workers, which a daemon may hold open.
        linger: seconds for which logs stay readable after the workers have ended, unless `Agent.exit` comes.
        log_ring: bytes of output kept on disk for a driver that is slow or away.
    """

    cluster: str
    launch: str
    ca: str
    cert: str
    key: str
    agent_digest: str = ""
    first_lease: float = 600.0
    lifetime: float = 86400.0
    host: str = "127.0.0.1"
    port: int = 0
    parent_pipe: bool = False
    folder: str = ""
    local: bool = False
    drain: float = 5.0
    linger: float = 30.0
    log_ring: int = 64 * 2**20

    def __repr__(self) -> str:
        return f"<Launch {self.launch} of cluster {self.cluster}>"

    def to_json(self) -> str:
        """One line, without its end."""
        return json.dumps(self._asdict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Launch:
        """Read what `to_json` wrote."""
        return cls(**json.loads(line))


class Info(NamedTuple):
    """What a machine is: constant once its workers are started, but for the last three.

    Args:
        identity: the agent's name in its certificate.
        version: bigm's version there.
        platform: "linux-x86_64", "macosx-arm64", ...
        python: version of the Python that runs the agent, "3.11.7".
        executable: its absolute path.
        cpus: CPUs this process may use (affinity, not the box's count).
        memory: bytes this machine may use: the least of the box's and every cgroup's limit above us.
        pid: the agent's process id.
        hostname: the computer's own name.
        folder: where the machine keeps its state.
        mark: value of BIGM_MACHINE in the environment of everything this machine started.
        procs: workers it was told to start; 0 before.
        cause: why it is ending, or will for a worker that died, as a word; "" when it is not.
        text: the same in words.
        deaths: workers that died so far.
    """

    identity: str
    version: str
    platform: str
    python: str
    executable: str
    cpus: int
    memory: int
    pid: int
    hostname: str
    folder: str
    mark: str
    procs: int = 0
    cause: str = ""
    text: str = ""
    deaths: int = 0


class Main(NamedTuple):
    """How a worker imports the program's main module.

    Args:
        kind: "path" (run as `python value`), "module" (run as `python -m value`) or "none" (a prompt, a notebook).
        value: the path or the module's name.
        file: `__file__` of the driver's main module, or "".
    """

    kind: str = "none"
    value: str = ""
    file: str = ""


class WorkerSpec(NamedTuple):
    """What the driver asks an agent to start as a worker.

    Args:
        proc: the worker's index, from 0.
        procs: how many workers the machine has.
        python: absolute path of the interpreter.
        identity: the worker's name in its certificate.
        ca: the CA certificate, PEM.
        cert: the worker's certificate, PEM.
        key: its private key, PEM.
        main: how to import the program's main module.
        argv: the program's `sys.argv`.
        sys_path: the program's `sys.path`, in the driver's order.
        env: environment variables: all of them, or, with `inherit_env`, those that differ from the agent's own.
        inherit_env: whether `env` is laid over the agent's environment.
        cwd: working folder; "" takes the machine's own.
        heartbeat: seconds between two beats of the agent on the control channel.
        heartbeat_lost: seconds without a beat after which the worker ends itself.
        timeouts: `bigm.timeouts`, by which it calls other machines; what is missing is as by default.
        restart: the driver starts it anew when it dies, which is not the end of the machine.
        root: folder that has its `bigm`; "": the agent's own.
        route: how it reaches other machines; see `bigm.routes`.
        bundle: digest of what it runs, which it reports; "": the driver's own environment.
        minor: version its Python must have, "3.11"; "": any.
    """

    proc: int
    python: str
    identity: str
    ca: bytes
    cert: bytes
    key: bytes
    main: Main = Main()
    argv: tuple[str, ...] = ("",)
    sys_path: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    inherit_env: bool = False
    cwd: str = ""
    procs: int = 1
    heartbeat: float = 5.0
    heartbeat_lost: float = 60.0
    timeouts: Mapping[str, float] = {}
    restart: bool = False
    root: str = ""
    route: str = ""
    bundle: str = ""
    minor: str = ""

    def __repr__(self) -> str:
        return f"<WorkerSpec {self.identity}>"


class WorkerStatus(NamedTuple):
    """How a worker is, or how it ended.

    Args:
        proc: the worker's index.
        pid: its process id; 0 for a worker that is a thread.
        state: STARTING, SERVING or EXITED.
        error: traceback text of an import that failed, or "".
        exit_code: what it exited with, or None while it lives or when a signal ended it.
        signal: number of the signal that ended it, or None.
        oom: the kernel killed it for want of memory.
        cause: one of `bigm.causes`'s cause words once it is EXITED, else "".
        text: how it ended, in words for the user.
    """

    proc: int
    pid: int
    state: str
    error: str = ""
    exit_code: Optional[int] = None
    signal: Optional[int] = None
    oom: bool = False
    cause: str = ""
    text: str = ""


class Report(NamedTuple):
    """What `Agent.watch` answers.

    Args:
        version: counts changes of anything here but the log; ask for what is newer than this.
        state: SERVING or ENDING.
        cause: why it is ENDING (`bigm.causes`'s words), else "".
        text: the same in words.
        workers: one status for each worker, by index.
        records: log from the asked offset on, oldest first, bounded.
        next_offset: offset to ask for next.
        dropped_bytes: bytes between the asked offset and the first record that the ring no longer had.
        end_offset: offset behind the last byte logged so far; final once `drained`.
        drained: all workers have ended and their output is read to its end.
        notice: seconds until the machine will be taken away, where that was announced.
        advice: why it may be better to leave the machine soon, in words, or "".
    """

    version: int
    state: str
    cause: str
    text: str
    workers: tuple[WorkerStatus, ...]
    records: tuple[LogRecord, ...]
    next_offset: int
    dropped_bytes: int
    end_offset: int
    drained: bool
    notice: Optional[float] = None
    advice: str = ""


class Lease(NamedTuple):
    """What a keepalive was granted.

    Args:
        granted: seconds for which the machine now lives without another keepalive.
        healthy: False when memory is nearly used up (`UNHEALTHY_MEMORY`).
        text: what is wrong when not healthy.
    """

    granted: float
    healthy: bool = True
    text: str = ""


UNHEALTHY_MEMORY = 0.95  # share of the memory limit in use, as in bigmachine's supervisor.go


class Memory(NamedTuple):
    """Bytes of memory. `total` and `limit` differ where a cgroup bounds us; `used` and `available` are of `limit`."""

    total: int
    limit: int
    used: int
    available: int


class Disk(NamedTuple):
    """Bytes of the file system that holds the machine's folder."""

    path: str
    total: int
    used: int
    free: int


class WorkerSample(NamedTuple):
    """One worker's use: resident bytes, CPU seconds since its start; zeros where the platform does not tell."""

    proc: int
    rss: int
    cpu_seconds: float


class Sample(NamedTuple):
    """A machine's memory, disk and load.

    Args:
        load: run-queue averages over 1, 5 and 15 minutes.
        uptime: seconds since the agent started.
    """

    memory: Memory
    disk: Disk
    load: tuple[float, float, float]
    uptime: float
    workers: tuple[WorkerSample, ...] = ()
