"""Machines inside the driver's process: the same agent, port, TLS and calls, with workers that are threads. For tests.

A service still travels as a pickle and each machine has its own instance, so a program that works here is ready for
processes, except for what the whole process shares: module globals, the working folder, the environment, standard
output, and the one interpreter. A turned clock (`ManualClock`) ends leases and lifetimes without waiting for them.

What needs a process of its own (`env`, `args`, an `os._exit` in a service) does not work here.
"""

from __future__ import annotations

import heapq
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from bigm.bootstrap.agent import Agent, Workers
from bigm.bootstrap.loop import Loop
from bigm.bootstrap.port import Port, listen
from bigm.bootstrap.records import EXITED, SERVING, Launch, WorkerSample, WorkerSpec, WorkerStatus
from bigm.errors import BootError, ConfigError, SystemFault
from bigm.lifecycle import Cause
from bigm.peer import tcp_connect
from bigm.rpc.identity import Identity
from bigm.rpc.tls import Credentials
from bigm.systems.base import ENDED, RUNNING, Capabilities, Instance, Launched, Spec, System
from bigm.worker.worker import Worker

_HELLO_DEADLINE = 10.0  # seconds a client has to send its ClientHello
_END_TIMEOUT = 5.0  # seconds for the loop to stop
_SETTLE = 5.0  # seconds, real ones, that a turned clock stands still for an answer


class ManualClock:
    """A clock that stands still until it is turned. Hand it to `InProcess`.

    Leases and lifetimes count by it, at both ends: those of the machines, and the driver's renewals of them. However
    far it is turned, it stops at each moment at which something is due, and goes on when that is done: renewals have
    been answered, and machines have noticed what became of their leases. So an hour takes no longer than the calls that
    are made in it. What else takes time (calls and their timeouts, dialling, ending) takes real time.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._listeners: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._held: set[object] = set()
        self._turning = threading.Lock()

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now:g} s, {len(self._due)} functions due>"

    def __call__(self) -> float:
        return self._now

    def turn(self, seconds: float) -> None:
        """Let *seconds* pass; on return every machine, and the driver, has noticed what was due.

        Args:
            seconds: 0 or more.
        Raises:
            ConfigError: they are less than nothing, or no number.
        """
        if not 0 <= seconds < float("inf"):
            raise ConfigError(f"a clock cannot be turned by {seconds!r} s", hint="time only goes on")
        with self._turning:
            end = self._now + seconds
            while not self._step(end):
                pass

    def after(self, delay: float, function: Callable[[], None]) -> None:
        """Call *function* when the clock has been turned by *delay* seconds, in the thread that turns it."""
        with self._changed:
            heapq.heappush(self._due, (self._now + delay, next(self._order), function))

    def hold(self) -> object:
        """Stop the clock until the token returned is released."""
        token = object()
        with self._changed:
            self._held.add(token)
        return token

    def release(self, token: object) -> None:
        """Let the clock go on, as far as *token* is concerned."""
        with self._changed:
            self._held.discard(token)
            self._changed.notify_all()

    def notify(self, listener: Callable[[], None]) -> None:
        """Have *listener* called at each stop."""
        with self._changed:
            self._listeners.append(listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Call *listener* no more."""
        with self._changed:
            self._listeners.remove(listener)

    def _step(self, end: float) -> bool:
        """Go to the next moment at which something is due, at most to *end*, and do it; whether that is the end."""
        with self._changed:
            self._now = max(self._now, min(end, self._due[0][0] if self._due else end))
            due = []
            while self._due and self._due[0][0] <= self._now:
                due.append(heapq.heappop(self._due)[2])
            listeners = list(self._listeners)
        for function in due:
            function()
        self._settle()
        for listener in listeners:
            listener()
        self._settle()
        return not due and self._now >= end

    def _settle(self) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: not self._held, _SETTLE):
                self._held.clear()  # lost on its way: what waits for it will be told by its own timeout


class InProcess(System):
    """Machines as threads of this process, on loopback ports.

    Args:
        clock: what leases and lifetimes count by: `time.monotonic`, or a `ManualClock`, which serves one system.
    """

    name = "inprocess"
    capabilities = Capabilities(ends="agent", local=True, processes=False)

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned = clock if isinstance(clock, ManualClock) else None
        self.timer = self._turned
        self._cluster = ""
        self._lock = threading.Lock()
        self._machines: dict[str, _Machine] = {}
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<InProcess: {len(self._machines)} instances>"

    def open(self, cluster: str) -> None:
        self._cluster = cluster
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
        for index in range(n):
            try:
                machine = _Machine(f"{launch_id}-{index}", launch_id, boot, self._loop, self._clock)
            except OSError as error:
                failures.append(BootError(f"cannot open a port on this computer: {error}", code=str(error.errno)))
                continue
            machines.append(machine)
            with self._lock:
                self._machines[machine.id] = machine
        return Launched(tuple(machine.instance(self._cluster) for machine in machines), tuple(failures))

    def describe(self, ids: Sequence[str] | None = None) -> list[Instance]:
        return [machine.instance(self._cluster) for machine in self._all() if ids is None or machine.id in ids]

    def connect(self, instance: Instance, timeout: float) -> socket.socket:
        return tcp_connect(instance.locator, timeout)

    def terminate(self, ids: Iterable[str]) -> dict[str, SystemFault | None]:
        wanted = list(ids)
        for machine in self._all():
            if machine.id in wanted:
                machine.end("terminated")
        return dict.fromkeys(wanted)

    def kill(self, id: str) -> None:
        """Let an instance vanish as if its power had failed: no farewell, no teardown, its calls cut off."""
        for machine in self._all():
            if machine.id == id:
                machine.end("killed")

    def close(self) -> None:
        self.terminate([machine.id for machine in self._all()])
        with self._lock:
            self._machines.clear()
        if self._loop is not None and self._thread is not None:
            if self._turned is not None:
                self._turned.forget(self._tick)
            self._loop.stop()
            self._thread.join(_END_TIMEOUT)
            self._loop.close()
            self._loop = self._thread = None

    def _tick(self) -> None:
        if self._loop is not None:
            self._loop.do(self._tick_all, _END_TIMEOUT)

    def _tick_all(self) -> None:
        for machine in self._all():
            machine.tick()

    def _all(self) -> list[_Machine]:
        with self._lock:
            return list(self._machines.values())


class _Machine:
    """One agent with its port, on the loop of all."""

    def __init__(self, id: str, launch: str, boot: Launch, loop: Loop, clock: Callable[[], float]) -> None:
        self.id = id
        self.launch = launch
        self._loop = loop
        self._clock = clock
        self._reason = ""
        self._armed = 0.0  # when the next tick is due, by the clock
        self._ended = threading.Event()
        self._lock = threading.Lock()
        listener = listen(boot.host, boot.port)
        self._locator = "{}:{}".format(*listener.getsockname()[:2])
        self._workers = _Threads()
        self.agent = Agent(boot, self._workers, self._finished, clock=clock, wake=self.wake)
        self._port: Port = loop.do(lambda: self._open(listener), _END_TIMEOUT)
        self.wake()

    def __repr__(self) -> str:
        return f"<_Machine {self.id} {self._locator} {self._reason}>"

    def instance(self, cluster: str) -> Instance:
        state = ENDED if self._ended.is_set() else RUNNING
        return Instance(self.id, self._locator, state, self._reason, self.launch, cluster)

    def wake(self) -> None:
        """Let the agent look at the clock, soon."""
        self._loop.soon(self.tick)

    def end(self, reason: str) -> None:
        """Be gone: port, connections and workers. Returns when it is so; a method that runs is left to itself."""
        with self._lock:
            if self._ended.is_set():
                return
            self._reason = reason
            self._ended.set()
        self._loop.do(self._port.close, _END_TIMEOUT)
        self.agent.server.close()
        self._workers.close()
        self.agent.close()

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
        if not isinstance(self._clock, ManualClock) and not now < self._armed <= due:
            self._armed = due  # one timer is enough: a lease that was renewed only moves it
            self._loop.after(max(0.0, due - now), self.tick)

    def _finished(self) -> None:
        # Not here: the last replies are still leaving, and we may be on the loop's own thread.
        threading.Thread(target=self.end, args=("the agent ended",), name=f"bigm-end-{self.id}", daemon=True).start()


class _Threads(Workers):
    """Workers without processes."""

    def __init__(self) -> None:
        self._workers: dict[int, Worker] = {}

    def attach(self, agent: Agent) -> None:
        self._agent = agent

    def start(self, specs: Sequence[WorkerSpec]) -> list[WorkerStatus]:
        statuses = []
        for spec in specs:
            credentials = Credentials(Identity.parse(spec.identity), spec.ca, spec.cert, spec.key)
            worker = Worker(credentials, procs=spec.procs, timeouts=spec.timeouts)
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

    def _end(self, grace: float) -> None:
        for proc, worker in list(self._workers.items()):
            worker.close(grace)
            text = f"worker {proc} was ended by the agent"
            self._agent.worker_changed(WorkerStatus(proc, 0, EXITED, cause=str(Cause.SHUTDOWN), text=text))
            self._agent.worker_drained(proc)
