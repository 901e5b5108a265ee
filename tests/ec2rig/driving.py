"""Drivers of machines on the rig: in this process, or as processes of their own that can be killed.

As a program: `python driving.py N LEASE` starts N machines, says what it does, and waits in a call.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import bigm
from bigm.parts import Parts
from ec2rig.rig import Rig
from handmade import make_bundle
from waiting import eventually


def start_machines(cluster: bigm.Cluster, n: int) -> list[bigm.Machine]:
    """Start *n* machines that are brought next to nothing."""
    with tempfile.TemporaryDirectory() as folder:
        machines = cluster.start(n, bundle=make_bundle(Parts(folder), data=b"next to nothing"))
        cluster.wait(machines, timeout=60.0)
    return machines


def run_bigm(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """The command, run to its end in a process of its own."""
    line = [sys.executable, "-m", "bigm", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, **more)


class Driver:
    """A driver as a process.

    Args:
        rig: where its machines are.
        n: how many of them.
        lease: seconds; also of the first.
    """

    def __init__(self, rig: Rig, n: int, lease: float) -> None:
        self._output = tempfile.TemporaryFile("w+")
        folder = tempfile.mkdtemp(dir=rig.folder)  # a driver that is killed removes nothing
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(n), str(lease)],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **rig.environ, "TMPDIR": folder, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._output.close()

    def said(self) -> str:
        """All it said so far."""
        self._output.seek(0)
        return self._output.read()

    def reaches(self, phase: str) -> None:
        """Wait until it has said that word."""
        eventually(lambda: phase in self.said() or self.process.poll() is not None, 60.0, self.said)
        assert phase in self.said(), self.said()

    def kill(self) -> None:
        """Kill it, as the kernel does that is out of memory."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)


def main(n: int, lease: float) -> None:
    """What a driver does."""
    timeouts = {"lease": lease, "first_lease": lease, "renewal": 0.5}
    with bigm.start("ec2", timeouts=timeouts) as cluster:
        print("open", flush=True)
        machines = start_machines(cluster, n)
        print("running", flush=True)
        machines[0].run(time.sleep, 600)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
