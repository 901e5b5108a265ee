"""Bundles brought to machines: from an edit to its answer, to many machines at once, and through a narrow upload.

Machines of this computer take the whole way, as with `bigm run --bundle`. For the narrow upload each has a store of its
own, as if it were on a computer of its own; the driver's connections to them share one bucket of tokens, and the
machines' own to one another are as they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from measure import Row, alternate

import bigm
from bigm.bootstrap.records import Main
from bigm.bundle.bundle import PROGRAM, STDLIB, Bundle
from bigm.bundle.snapshot import keep_bytes
from bigm.bundle.sources import machine_tree
from bigm.manifest import File, Manifest
from bigm.parts import Parts
from bigm.systems.base import Instance
from bigm.systems.local import Local

MB = 1_000_000
UPLOAD = 50 * MB  # bytes a second
SIZES = [40 * MB, *[6 * MB] * 8, *[12_000] * 1000]  # 100 MB: a big wheel, smaller ones, a program
MANY = 8
AGENTS = 50

PROGRAM_TEXT = """
import sys
import bigm
from word import WORD

class Said:
    def word(self): return WORD

def main():
    with bigm.start() as cluster:
        machines = cluster.start(cluster.nmach, services={"Said": Said()})
        calls = [machine.submit("Said.word") for machine in machines]
        print(sorted({call.result() for call in calls}), flush=True)

if __name__ == "__main__":
    main()
"""


class Bucket:
    """Lets so many bytes a second through, and counts them. Any thread."""

    def __init__(self, rate: float) -> None:
        self.passed = 0
        self._rate = rate
        self._free = time.monotonic()
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Wait until *size* bytes may pass."""
        with self._lock:
            self.passed += size
            self._free = max(self._free, time.monotonic()) + size / self._rate
            wait = self._free - time.monotonic()
        if wait > 0:
            time.sleep(wait)  # what a narrow line does


class Narrow(Local):
    """Machines that the driver reaches through a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__()
        self._bucket = bucket

    def connect(self, instance: Instance, timeout: float) -> socket.socket:
        far = super().connect(instance, timeout)
        far.settimeout(None)
        ours, near = socket.socketpair()
        for source, target, bucket in ((near, far, self._bucket), (far, near, None)):
            threading.Thread(target=_pump, args=(source, target, bucket), name="narrow", daemon=True).start()
        return ours


def _pump(source: socket.socket, target: socket.socket, bucket: Bucket | None) -> None:
    try:
        while data := source.recv(64 << 10):
            if bucket is not None:
                bucket.take(len(data))
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # an end is gone


def a_bundle(folder: str) -> Bundle:
    """100 MB that no store has."""
    store = Parts(folder)
    files = [
        File(f"app/{n}", keep_bytes(store, data), size)
        for n, (size, data) in enumerate((size, os.urandom(size)) for size in SIZES)
    ]
    tree = Manifest(files)
    keep_bytes(store, tree.to_bytes())
    minor = "{}.{}".format(*sys.version_info)
    return Bundle(tree, machine_tree(store), {}, ((PROGRAM, "app"), (STDLIB, "")), Main(), "app", minor, store)


@contextlib.contextmanager
def memory() -> Iterator[None]:
    """Machines keep their files in memory where that can be: elsewhere each would have a disk of its own."""
    before, tempfile.tempdir = tempfile.tempdir, "/dev/shm" if os.path.isdir("/dev/shm") else None
    try:
        yield
    finally:
        tempfile.tempdir = before


def ship(machines: int) -> tuple[float, int]:
    """Seconds until machines have a bundle, and bytes that left the driver."""
    bucket = Bucket(UPLOAD)
    with memory(), tempfile.TemporaryDirectory() as folder:
        bundle = a_bundle(folder)
        with bigm.start(Narrow(bucket), verbosity="quiet", bundle={"store": ""}) as cluster:
            cluster.start(machines, bundle=bundle)
            cluster.wait()
            lines = (cluster._session.run.folder / "events.jsonl").read_text().splitlines()
            events = [json.loads(line) for line in lines]
            shipped = [e for e in events if e["event"] == "shipped" and e["cluster"] == cluster.name]
            return max(event["seconds"] for event in shipped), bucket.passed


class Edited:
    """A project whose machines run a bundle of it. A context: removes what was made.

    Its environment is the one that runs this benchmark.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self._edits = 0
        (self.folder / "app").mkdir()
        (self.folder / "app" / "run.py").write_text(PROGRAM_TEXT)

    def __enter__(self) -> Edited:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def answer(self, machines: int) -> float:
        """Seconds from an edit until all machines of a new run have said the new word."""
        self._edits += 1
        (self.folder / "app" / "word.py").write_text(f"WORD = 'word {self._edits}'\n")
        environ = {
            **os.environ,
            "BIGM_HOME": str(self.folder / "home"),
            "BIGM_BUNDLE_STORE": str(self.folder / "store"),
            "BIGM_BUNDLE_REHEARSE": "true",
            "BIGM_NMACH": str(machines),
        }
        since = time.monotonic()
        command = [sys.executable, "run.py"]
        with subprocess.Popen(command, cwd=self.folder / "app", env=environ, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            said = run.stdout.readline()
            seconds = time.monotonic() - since
        assert said == f"['word {self._edits}']\n", said
        return seconds


def timed(*command: str) -> Callable[[], float]:
    """Measures a command."""

    def measure() -> float:
        since = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - since

    return measure


def rows(repeats: int) -> list[Row]:
    """Measure."""
    with Edited() as project:
        project.answer(1)  # makes the layer, and the environment of it
        edits = alternate(
            {"edit": lambda: project.answer(1), "numpy": timed(sys.executable, "-c", "import numpy")}, repeats
        )
        many = alternate({"many": lambda: project.answer(AGENTS), "one": lambda: project.answer(1)}, repeats)
    volumes: list[int] = []

    def to_many() -> float:
        seconds, sent = ship(MANY)
        volumes.append(sent)
        return seconds

    ships = alternate({"many": to_many, "one": lambda: ship(1)[0]}, min(repeats, 3))
    size, volume = sum(SIZES), max(volumes)
    return [
        Row(
            "one file edited, until the new code answers on a machine",
            f"{edits['edit']:.2f} s",
            f"{edits['numpy']:.2f} s, `python -c 'import numpy'`",
            edits["edit"] / edits["numpy"],
            3.0,
            2.0,
            note="a new run of the program, whose environment has numpy and some 90 more",
        ),
        Row(
            f"the same, until all of {AGENTS} machines run it",
            f"{many['many']:.2f} s",
            f"{many['one']:.2f} s, one machine",
            many["many"] / many["one"],
            10.0,
            5.0,
            note="agents and workers of all on this computer",
        ),
        Row(
            f"driver's bytes to ship {size // MB} MB to {MANY} machines",
            f"{volume / MB:.0f} MB",
            f"{size / MB:.0f} MB, one copy",
            volume / size,
            1.5,
            1.1,
            note="with TLS and all other calls of the run",
        ),
        Row(
            f"time of it, the upload limited to {UPLOAD // MB} MB/s",
            f"{ships['many']:.2f} s",
            f"{ships['one']:.2f} s to one machine",
            ships["many"] / ships["one"],
            2.5,
            1.5,
            note="one computer encrypts and hashes for all; their files are in memory",
        ),
    ]
