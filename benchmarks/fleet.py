"""What 200 machines cost the driver: its threads, memory and CPU while their leases are renewed.

Starting 200 agents with workers of their own would measure this computer instead, so one other process serves them all
(`fleet.py serve`), over loopback and TLS: real agents with a port each, whose workers are threads, as in the system
`inprocess`. The driver's side (`fleet.py drive`) is bigm as it is, in a process of its own.
"""

from __future__ import annotations

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
from bigm.bootstrap.records import Launch
from bigm.errors import SystemFault
from bigm.systems.base import Capabilities, Instance, Launched, Spec, System
from bigm.systems.inprocess import InProcess

FEW, MANY = 10, 200
SETTLE = 5.0  # seconds after a start, for caches and first renewals
WATCHED = 20.0  # seconds over which CPU time is counted


class Echo:
    """The service."""

    def ping(self) -> bool:
        """Answer."""
        return True


def serve() -> None:
    """The other process: orders on standard input, the instances' locators on standard output; until input ends."""
    system = InProcess()
    for line in sys.stdin:
        order = json.loads(line)
        system.open(order["cluster"])
        launched = system.launch(order["n"], Spec(), Launch.from_json(order["launch"]), order["id"])
        print(json.dumps([instance.locator for instance in launched.instances]), flush=True)
    system.close()


class Fleet(System):
    """The agents of the other process."""

    name = "fleet"
    capabilities = Capabilities(local=True, in_place=True)

    def open(self, cluster: str) -> None:
        pipe = subprocess.PIPE
        self.cluster = cluster
        self.process = subprocess.Popen([sys.executable, __file__, "serve"], stdin=pipe, stdout=pipe, text=True)
        self.launched: dict[str, list[Instance]] = {}

    def launch(self, n: int, spec: Spec, boot: Launch, launch_id: str) -> Launched:
        if launch_id not in self.launched:
            order = {"cluster": self.cluster, "n": n, "launch": boot.to_json(), "id": launch_id}
            print(json.dumps(order), file=self.process.stdin, flush=True)
            locators = json.loads(self.process.stdout.readline())
            self.launched[launch_id] = [Instance(id=locator, locator=locator) for locator in locators]
        return Launched(tuple(self.launched[launch_id]))

    def describe(self, ids: Sequence[str] | None = None) -> list[Instance]:
        known = [instance for instances in self.launched.values() for instance in instances]
        return [instance for instance in known if ids is None or instance.id in ids]

    def connect(self, instance: Instance, timeout: float) -> socket.socket:
        host, _, port = instance.locator.rpartition(":")
        return socket.create_connection((host, int(port)), timeout)

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
