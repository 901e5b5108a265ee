"""What 200 machines cost the driver: its threads, memory and CPU while their leases are renewed.

Starting 200 agents with workers of their own would measure this computer instead, so one other process serves them all
(`fleet.py serve`), over loopback and TLS: 200 agents with a port each, whose workers are threads. The driver's side
(`fleet.py drive`) is bigm as it is, in a process of its own.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence

import psutil
from measure import Row

import bigm
from bigm.bootstrap.agent import Agent, Workers
from bigm.bootstrap.loop import Loop
from bigm.bootstrap.machine import listen
from bigm.bootstrap.port import Port
from bigm.bootstrap.records import EXITED, SERVING, Launch, WorkerSample, WorkerSpec, WorkerStatus
from bigm.errors import SystemFault
from bigm.rpc.identity import Identity
from bigm.rpc.tls import Credentials
from bigm.systems.base import RUNNING, Capabilities, Instance, Launched, Spec, System
from bigm.worker.worker import Worker

FEW, MANY = 10, 200
SETTLE = 5.0  # seconds after a start, for caches and first renewals
WATCHED = 20.0  # seconds over which CPU time is counted


class Echo:
    """The service."""

    def ping(self) -> bool:
        """Answer."""
        return True


class Threads(Workers):
    """Workers that are threads of this process."""

    def __init__(self) -> None:
        self.workers: dict[int, Worker] = {}

    def attach(self, agent: Agent) -> None:
        self.agent = agent

    def start(self, specs: Sequence[WorkerSpec]) -> list[WorkerStatus]:
        return [self._start(spec) for spec in specs]

    def _start(self, spec: WorkerSpec) -> WorkerStatus:
        worker = Worker(Credentials(Identity.parse(spec.identity), spec.ca, spec.cert, spec.key), procs=spec.procs)
        worker.imported()
        self.workers[spec.proc] = worker
        status = WorkerStatus(spec.proc, 0, SERVING)
        self.agent.worker_changed(status)
        return status

    def hand_over(self, proc: int, connection: socket.socket) -> bool:
        self.workers[proc].adopt(connection)
        return True

    def end(self, grace: float) -> None:
        for proc, worker in self.workers.items():
            worker.close()
            self.agent.worker_changed(WorkerStatus(proc, 0, EXITED))
            self.agent.worker_drained(proc)

    def sample(self) -> tuple[WorkerSample, ...]:
        return ()


def serve() -> None:
    """The other process: on standard input a number and a launch, on standard output the ports; until input ends."""
    loop = Loop()
    agents: list[Agent] = []

    def tick() -> None:
        for agent in agents:
            agent.tick()
        loop.after(1.0, tick)

    def more() -> None:
        line = sys.stdin.readline()
        if not line:
            loop.stop()
            return
        order = json.loads(line)
        ports = []
        for _ in range(order["n"]):
            listener = listen("127.0.0.1", 0)
            workers = Threads()
            agents.append(Agent(Launch.from_json(order["launch"]), workers, finish=lambda: None))
            Port(
                listener,
                loop,
                deadline=30.0,
                to_agent=agents[-1].server.adopt,
                to_worker=workers.hand_over,
                say=lambda text: None,
            )
            ports.append(listener.getsockname()[1])
        print(json.dumps(ports), flush=True)

    loop.watch(0, more)
    loop.after(1.0, tick)
    loop.run()


class Fleet(System):
    """The agents of the other process."""

    name = "fleet"
    capabilities = Capabilities(local=True)

    def open(self, cluster: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, __file__, "serve"], stdin=pipe, stdout=pipe, text=True)
        self.launched: dict[str, list[Instance]] = {}

    def launch(self, n: int, spec: Spec, boot: Launch, launch_id: str) -> Launched:
        if launch_id not in self.launched:
            launch = dataclasses.replace(boot, local=True).to_json()
            print(json.dumps({"n": n, "launch": launch}), file=self.process.stdin, flush=True)
            ports = json.loads(self.process.stdout.readline())
            self.launched[launch_id] = [Instance(f"{port}", f"127.0.0.1:{port}") for port in ports]
        return Launched(tuple(self.launched[launch_id]))

    def describe(self, ids: Sequence[str] | None = None) -> list[Instance]:
        known = [instance for instances in self.launched.values() for instance in instances]
        return [dataclasses.replace(one, state=RUNNING) for one in known if ids is None or one.id in ids]

    def connect(self, instance: Instance, timeout: float) -> socket.socket:
        return socket.create_connection(("127.0.0.1", int(instance.id)), timeout)

    def terminate(self, ids: Iterable[str]) -> dict[str, SystemFault | None]:
        return dict.fromkeys(ids)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)


def drive() -> None:
    """The driver: prints its threads, bytes per machine, and CPU seconds per second and machine."""
    me = psutil.Process()
    with bigm.start(Fleet()) as cluster:

        def grow(n: int) -> int:
            """Start *n* machines more, call each, and return our own bytes (not shared with other processes)."""
            machines = cluster.start(n, services={"Echo": Echo()})
            cluster.wait(machines)
            for call in [machine.submit("Echo.ping") for machine in machines]:
                call.result()
            time.sleep(SETTLE)  # nothing tells when allocators have settled
            gc.collect()
            return me.memory_full_info().uss

        few = grow(FEW)
        many = grow(MANY - FEW)
        before = time.process_time()
        time.sleep(WATCHED)  # what is measured is what happens while nothing does
        cpu = (time.process_time() - before) / WATCHED / MANY
        found = {"threads": threading.active_count(), "bytes": (many - few) / (MANY - FEW), "cpu": cpu}
        print(json.dumps(found), flush=True)


def rows(repeats: int) -> list[Row]:
    """Two rows, of one run: memory and CPU."""
    shown = subprocess.run([sys.executable, __file__, "drive"], capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(shown.stdout)
    return [
        Row(
            what=f"driver's memory per machine, {MANY} machines leased",
            ours=f"{found['bytes'] / 1024:.0f} KiB",
            limit="",
            ratio=found["bytes"] / 1024,
            reach=100,
            aim=50,
            unit="KiB",
            note=f"{found['threads']} threads in the driver",
        ),
        Row(
            what=f"driver's CPU per machine, {MANY} machines leased and idle",
            ours=f"{found['cpu'] * 100:.4f} % of a core",
            limit="",
            ratio=found["cpu"] * 100,
            reach=0.02,
            aim=0.01,
            unit="%",
        ),
    ]


if __name__ == "__main__":
    {"serve": serve, "drive": drive}[sys.argv[1]]()
