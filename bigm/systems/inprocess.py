"""Machines inside the driver's process: the same agent, port, TLS and calls, with workers that are threads. For tests.

A service still travels as a pickle and each machine has its own instance, so a program that works here is ready for
processes, except for what the whole process shares: module globals, the working folder, the environment, standard
output, and the one interpreter. A turned clock (`ManualClock`) ends leases and lifetimes without waiting for them.

What needs a process of its own (`env`, `args`, an `os._exit` in a service) does not work here.
"""

from __future__ import annotations

import functools
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from bigm.bootstrap.agent import Agent, Workers
from bigm.bootstrap.loop import Loop
from bigm.bootstrap.port import Port, listen
from bigm.bootstrap.processes import explain
from bigm.bootstrap.records import EXITED, SERVING, Launch, WorkerSample, WorkerSpec, WorkerStatus
from bigm.errors import BootError, ConfigError, SystemFault
from bigm.lifecycle import Cause
from bigm.manualclock import ManualClock
from bigm.routes import tcp_connect
from bigm.rpc.identity import DRIVER, Identity
from bigm.rpc.tls import Credentials
from bigm.systems import computer
from bigm.systems.base import ENDED, RUNNING, Capabilities, Finding, Instance, Launched, Spec, System
from bigm.worker.worker import Worker

Dial = Callable[[str, str, float], socket.socket]  # from who connects, a locator and seconds

_HELLO_DEADLINE = 10.0  # seconds a client has to send its ClientHello
_DESCRIPTORS = 16  # of a machine: 11 for a port, two pollers and two connections; more where these are relayed
_OTHER_DESCRIPTORS = 256  # of the program and the driver
_END_TIMEOUT = 5.0  # seconds for the loop to stop


class Network:
    """How connections between the driver and its machines come about: plainly. `bigm.testing.Faults` has some fail."""

    def opened(self, system: InProcess) -> None:
        """*system* uses this network from now on."""

    def connect(self, source: str, target: str, locator: str, timeout: float) -> socket.socket:
        """Connect within *timeout* seconds.

        Args:
            source: who connects: "driver", or a machine's id.
            target: the machine's id.
            locator: where it is.
        Raises:
            OSError: as `System.connect`.
        """
        return tcp_connect(locator, timeout)

    def close(self) -> None:
        """The system is closed."""


class InProcess(System):
    """Machines as threads of this process, on loopback ports.

    Args:
        clock: what leases and lifetimes count by: `time.monotonic`, or a `ManualClock`, which serves one system.
        network: how connections come about; serves one system.
    """

    name = "inprocess"
    capabilities = Capabilities(ends="agent", local=True, in_place=True, processes=False)

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, network: Network | None = None) -> None:
        self._clock = clock
        self._turned = clock if isinstance(clock, ManualClock) else None
        self.timer = self._turned
        self._network = network or Network()
        self._cluster = ""
        self._lock = threading.Lock()
        self._machines: dict[str, _Machine] = {}
        self._by_locator: dict[str, _Machine] = {}
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<InProcess: {len(self._machines)} instances>"

    def open(self, cluster: str) -> None:
        self._cluster = cluster
        self._network.opened(self)
        if self._loop is None:
            self._loop = Loop()
            self._thread = threading.Thread(target=self._loop.run, name=f"bigm-inprocess-{cluster}", daemon=True)
            self._thread.start()
            if self._turned is not None:
                self._turned.notify(self._tick)

    def launch(self, n: int, spec: Spec, boot: Launch, launch_id: str) -> Launched:
        assert self._loop is not None, "open comes before launch"
        known = [machine for machine in self._all() if machine.launch == launch_id]
        if known:
            return Launched(tuple(machine.instance(self._cluster) for machine in known))
        boot = boot._replace(local=True, host="127.0.0.1", port=0, folder="")
        machines: list[_Machine] = []
        failures: list[SystemFault] = []
        for index in range(self._make_room(n, failures)):
            try:
                machine = _Machine(f"{launch_id}-{index}", launch_id, boot, self._loop, self._clock, self._dial)
            except OSError as error:
                failures.append(BootError(f"cannot open a port on this computer: {error}", code=str(error.errno)))
                continue
            machines.append(machine)
            with self._lock:
                machine.name = f"m{len(self._machines)}"  # what a cluster will call it, until it has
                self._machines[machine.id] = machine
                self._by_locator[machine.locator] = machine
        return Launched(tuple(machine.instance(self._cluster) for machine in machines), tuple(failures))

    def describe(self, ids: Sequence[str] | None = None) -> list[Instance]:
        found = self._all() if ids is None else filter(None, map(self._machines.get, ids))
        return [machine.instance(self._cluster) for machine in found]

    def connect(self, instance: Instance, timeout: float) -> socket.socket:
        return self._dial(DRIVER, instance.locator, timeout)

    def terminate(self, ids: Iterable[str]) -> dict[str, SystemFault | None]:
        wanted = list(ids)
        for machine in filter(None, map(self._machines.get, wanted)):
            machine.end("terminated")
        return dict.fromkeys(wanted)

    def doctor(self) -> Iterator[Finding]:
        yield computer.loopback()
        yield computer.cpus()
        yield computer.memory()
        yield computer.key_files()

    def discover(self) -> list[Instance]:
        return []  # they are part of their driver

    def remove(self, instances: Sequence[Instance]) -> dict[str, SystemFault | None]:
        return {one.id: None for one in instances}

    @property
    def living(self) -> list[str]:
        """The ids of the machines that have not ended, in the order of their launch."""
        return [machine.name for machine in self._all() if not machine.ended]

    def locator(self, machine: str) -> str:
        """Where the machine of that id listens, or listened.

        Raises:
            ConfigError: there is none.
        """
        return self._find(machine).locator

    def kill(self, id: str) -> None:
        """Let a machine vanish as if its power had failed: no farewell, no teardown, its calls cut off.

        Args:
            id: the instance's, or its machine's.
        Raises:
            ConfigError: there is none.
        """
        self._find(id).kill("killed")

    def run_out_of_memory(self, id: str, proc: int = 0) -> None:
        """Let a worker end as the kernel ends one for want of memory, which stops its machine.

        Args:
            id: as for `kill`.
            proc: which worker, from 0.
        Raises:
            ConfigError: there is no such machine or worker.
        """
        self._find(id).lose_worker(proc, signal=signal.SIGKILL, oom=True)

    def preempt(self, id: str, notice: float) -> None:
        """Announce that an instance will be taken away, and take it away then.

        Args:
            id: as for `kill`.
            notice: seconds until then, by the system's clock.
        Raises:
            ConfigError: there is none.
        """
        self._find(id).preempt(notice)

    def close(self) -> None:
        self.terminate([machine.id for machine in self._all()])
        with self._lock:
            self._machines.clear()
            self._by_locator.clear()
        if self._loop is not None and self._thread is not None:
            if self._turned is not None:
                self._turned.forget(self._tick)
            self._loop.stop()
            self._thread.join(_END_TIMEOUT)
            self._loop.close()
            self._loop = self._thread = None
        self._network.close()

    def _dial(self, source: str, locator: str, timeout: float) -> socket.socket:
        target = self._by_locator.get(locator)
        return self._network.connect(source, target.name if target else "", locator, timeout)

    def _make_room(self, n: int, failures: list[SystemFault]) -> int:
        """How many of *n* machines this process has descriptors for, after its limit was raised as far as need be."""
        living = len(self.living)
        most = _descriptors_for((living + n) * _DESCRIPTORS + _OTHER_DESCRIPTORS)
        room = max(0, (most - _OTHER_DESCRIPTORS) // _DESCRIPTORS - living)
        if room < n:
            text = f"{living + n} machines in process need some {(living + n) * _DESCRIPTORS} descriptors, and at most"
            error = BootError(f"{text} {most} are allowed here", hint="raise `ulimit -Hn`, or start fewer")
            failures += [error] * (n - room)
        return min(n, room)

    def _find(self, id: str) -> _Machine:
        for machine in self._all():
            if id in (machine.id, machine.name):
                return machine
        raise ConfigError(f"there is no machine {id!r}", hint=f"there are {', '.join(self.living) or 'none'}")

    def _tick(self) -> None:
        if self._loop is not None:
            self._loop.do(self._tick_all, _END_TIMEOUT)

    def _tick_all(self) -> None:
        for machine in self._all():
            machine.tick()

    def _all(self) -> list[_Machine]:
        with self._lock:
            return list(self._machines.values())


def _descriptors_for(wanted: int) -> int:
    """How many descriptors this process may have, after the limit was raised to *wanted*, where it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    except (OSError, ValueError):  # some platforms have a lower limit besides
        return soft
    return limit


class _Machine:
    """One agent with its port, on the loop of all."""

    def __init__(self, id: str, launch: str, boot: Launch, loop: Loop, clock: Callable[[], float], dial: Dial) -> None:
        self.id = id
        self.name = id
        self.launch = launch
        self._loop = loop
        self._clock = clock
        self._reason = ""
        self._armed = 0.0  # when the next tick is due, by the clock
        self._ended = threading.Event()  # it counts as gone
        self._gone = threading.Event()  # nothing of it is left
        self._turned = clock if isinstance(clock, ManualClock) else None
        self._held: object = None  # a token of the clock that is turned
        self._lock = threading.Lock()
        listener = listen(boot.host, boot.port)
        self.locator = "{}:{}".format(*listener.getsockname()[:2])
        self._workers = _Threads(self, dial)
        self.agent = Agent(boot, self._workers, self._finished, clock=clock, wake=self.wake)
        self._port: Port = loop.do(lambda: self._open(listener), _END_TIMEOUT)
        self.wake()

    def __repr__(self) -> str:
        return f"<_Machine {self.id} ({self.name}) {self.locator} {self._reason}>"

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._ended.is_set()

    def instance(self, cluster: str) -> Instance:
        state = ENDED if self._ended.is_set() else RUNNING
        return Instance(self.id, self.locator, state, self._reason, self.launch, cluster)

    def wake(self) -> None:
        """Let the agent look at the clock, soon."""
        self._loop.soon(self.tick)

    def end(self, reason: str) -> None:
        """Be gone: port, connections and workers. Returns when it is so; a method that runs is left to itself."""
        if self._begin_end(reason):
            self._loop.do(self._port.close, _END_TIMEOUT)
            self.agent.server.close()
            self._workers.close()
            self.agent.close()
            self._be_gone()
        self._gone.wait(_END_TIMEOUT)

    def kill(self, reason: str) -> None:
        """The same, with no farewell."""
        if self._begin_end(reason):
            self.agent.server.abort()
            self._workers.abort()
            self._loop.do(self._port.close, _END_TIMEOUT)
            self.agent.close()
            self._be_gone()
        self._gone.wait(_END_TIMEOUT)

    def lose_worker(self, proc: int, *, signal: int, oom: bool = False) -> None:
        """Let a worker be killed."""
        self._workers.kill(proc, signal, oom)

    def preempt(self, notice: float) -> None:
        """Be told of an end in *notice* seconds, and end then."""
        if self._turned is not None:
            self._turned.hold(("notice", self.id))  # until driver and services have heard of it
            self._turned.after(notice, self._taken)
        else:
            self._loop.soon(lambda: self._loop.after(notice, self._taken_soon))
        self.agent.preempt(notice)

    def _taken_soon(self) -> None:
        threading.Thread(target=self._taken, name=f"bigm-end-{self.id}", daemon=True).start()  # the loop must not wait

    def _taken(self) -> None:
        self.kill("the system took it back, as it had announced")

    def _be_gone(self) -> None:
        self._gone.set()
        if self._turned is not None:
            self._turned.release(self._held)
            self._turned.release(("notice", self.id))

    def _begin_end(self, reason: str) -> bool:
        """Whether nobody has begun before."""
        with self._lock:
            if self._ended.is_set():
                return False
            self._reason = reason
            self._ended.set()
            return True

    def _open(self, listener: socket.socket) -> Port:
        return Port(
            listener,
            self._loop,
            deadline=_HELLO_DEADLINE,
            to_agent=self.agent.server.adopt,
            to_worker=self._to_worker,
            say=self.agent.say,
        )

    def _to_worker(self, proc: int, connection: socket.socket) -> None:
        self._workers.hand_over(proc, connection)

    def tick(self) -> None:
        """Let the agent look at the clock. On the loop's thread."""
        if self._ended.is_set():
            return
        due, now = self.agent.tick(), self._clock()
        if self._turned is not None:
            if self.agent.ending and self._held is None:
                self._held = self._turned.hold()  # until it is gone: the driver is to hear of its end before that
        elif not now < self._armed <= due:
            self._armed = due  # one timer is enough: a lease that was renewed only moves it
            self._loop.after(max(0.0, due - now), self.tick)

    def _finished(self) -> None:
        # Not here: the last replies are still leaving, and we may be on the loop's own thread.
        threading.Thread(target=self.end, args=("the agent ended",), name=f"bigm-end-{self.id}", daemon=True).start()


class _Threads(Workers):
    """Workers without processes."""

    def __init__(self, machine: _Machine, dial: Dial) -> None:
        self._machine = machine
        self._dial = dial
        self._workers: dict[int, Worker] = {}

    def attach(self, agent: Agent) -> None:
        self._agent = agent

    def start(self, specs: Sequence[WorkerSpec]) -> list[WorkerStatus]:
        statuses = []
        for spec in specs:
            credentials = Credentials(Identity.parse(spec.identity), spec.ca, spec.cert, spec.key)
            self._machine.name = credentials.identity.machine
            connect = functools.partial(self._dial, credentials.identity.machine)
            worker = Worker(credentials, procs=spec.procs, connect=connect, timeouts=spec.timeouts)
            worker.imported()  # the driver has imported the program
            self._workers[spec.proc] = worker
            statuses.append(WorkerStatus(spec.proc, 0, SERVING))
            self._agent.worker_changed(statuses[-1])
        return statuses

    def hand_over(self, proc: int, connection: socket.socket) -> bool:
        worker = self._workers.get(proc)
        if worker is None:
            connection.close()
            return False
        worker.adopt(connection)
        return True

    def end(self, grace: float) -> None:
        threading.Thread(target=self._end, args=(grace,), name="bigm-inprocess-end", daemon=True).start()

    def sample(self) -> tuple[WorkerSample, ...]:
        return tuple(WorkerSample(proc, 0, 0.0) for proc in list(self._workers))

    def close(self) -> None:
        """Cut all connections."""
        for worker in list(self._workers.values()):
            worker.close()

    def abort(self) -> None:
        """Cut all connections, with no farewell."""
        for worker in list(self._workers.values()):
            worker.abort()

    def kill(self, proc: int, signal: int, oom: bool) -> None:
        """End a worker as if it had been a process that is killed."""
        worker = self._workers.pop(proc, None)
        if worker is None:
            raise ConfigError(f"machine {self._machine.name} has no worker {proc!r} that lives")
        worker.abort()
        status = WorkerStatus(proc, 0, EXITED, signal=signal, oom=oom)
        cause, text = explain(status, "")
        self._agent.worker_changed(status._replace(cause=str(cause), text=text))
        self._agent.worker_drained(proc)

    def _end(self, grace: float) -> None:
        for proc, worker in list(self._workers.items()):
            worker.close(grace)
            text = f"worker {proc} was ended by the agent"
            self._agent.worker_changed(WorkerStatus(proc, 0, EXITED, cause=str(Cause.SHUTDOWN), text=text))
            self._agent.worker_drained(proc)
