"""Let a machine run out of memory, and see how its death is explained while the others go on.

    bigm run examples/bigoom.py                        three machines; one may use 256 MiB, and takes more
    bigm run examples/bigoom.py -- --limit 1G
    bigm run examples/bigoom.py -- --gently            where it may not be killed: a MemoryError instead

The machine is put into a memory cgroup of its own, so that the kernel kills it, and nobody else, long before this
computer is short of memory. Not everybody may make one: root may, and whoever was delegated some (as systemd does for
what it runs for a user). Else, and with --gently, the limit is one that a process sets itself: the allocation fails,
the call raises MemoryError, and the machine lives on.

Source: bigmachine cmd/bigoom, which takes all the memory there is.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import bigm

log = logging.getLogger("bigoom")

LIMITS = {  # of a cgroup: None is the limit itself; nothing may be swapped out instead
    "memory.limit_in_bytes": None,
    "memory.memsw.limit_in_bytes": None,
    "memory.max": None,
    "memory.swap.max": 0,
}
LEAST = 96 << 20  # bytes a machine needs for itself, and some to take


class Hog:
    """The service: takes memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def pid(self) -> int:
        """The process of this machine."""
        return os.getpid()

    def join_cgroup(self, folder: Path) -> None:
        """Make a memory cgroup, and let the whole machine be in it: its agent, which is our parent, and this worker."""
        folder.mkdir()
        for name, value in LIMITS.items():
            if (folder / name).exists():  # else it is the other version's, or swapping is not counted
                (folder / name).write_text(str(self.limit if value is None else value))
        for pid in (os.getppid(), os.getpid()):
            (folder / "cgroup.procs").write_text(str(pid))

    def limit_itself(self) -> None:
        """Let the limit hold for what this process allocates."""
        resource.setrlimit(resource.RLIMIT_DATA, (self.limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))

    def take(self) -> Iterator[int]:
        """Take memory in sixteen pieces, as far as the limit; yields the bytes taken so far."""
        piece, taken = self.limit // 16, list[bytes]()
        try:
            while len(taken) <= 16:
                taken.append(b"x" * piece)
                yield len(taken) * piece
        except MemoryError:
            taken.clear()  # whoever reports this needs some
            raise


def find_cgroup(name: str) -> Path | None:
    """Where a memory cgroup can be made: below our own (v1), or below the nearest that passes memory on (v2)."""
    with contextlib.suppress(OSError):
        paths = dict(line.split(":")[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
        for controllers, path in paths.items():
            if "memory" in controllers.split(","):
                return Path(f"/sys/fs/cgroup/memory{path}", name)
        own = Path(f"/sys/fs/cgroup{paths['']}")
        for folder in (own, *own.parents):
            if "memory" in (folder / "cgroup.subtree_control").read_text().split():
                return folder / name
    return None


def confine(victim: bigm.Machine, cgroup: Path | None) -> None:
    """Limit the memory of *victim*: so that it is killed, or else so that its allocations fail."""
    if cgroup is not None:
        try:
            return victim.call("Hog.join_cgroup", cgroup)
        except OSError as error:
            log.info("cannot make a cgroup for %s: %s", victim.id, error)
    log.info("%s will not be killed: it limits itself", victim.id)
    return victim.call("Hog.limit_itself")


def show(victim: bigm.Machine, others: list[bigm.Machine]) -> None:
    """Have *victim* take memory, and tell what becomes of it, and of the others."""
    try:
        for taken in victim.stream("Hog.take"):
            pids = [other.call("Hog.pid") for other in others]
            log.info("%s has taken %d MiB; %d others answer", victim.id, taken >> 20, len(pids))
        sys.exit(f"bigoom: {victim.id} has taken all that it may, and nobody minded: the limit does not hold there")
    except MemoryError:
        print(f"{victim.id} could take no more: MemoryError")
    except bigm.MachineStopped as error:
        if victim.cause != bigm.Cause.MEMORY:
            raise  # somebody else's doing, or not the victim at all
        print(f"{victim.id} is dead, cause {victim.cause}: {error}")
    for machine in (*others, victim):
        print(f"{machine.id} is {machine.state}")


def size(text: str) -> int:
    """A command-line argument in bytes: "256M", "1G"."""
    match = re.fullmatch(r"(\d+)([KMGT]?)", text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, such as 256M or 1G")
    value = int(match[1]) << 10 * " KMGT".index(match[2] or " ")
    if value < LEAST:
        raise argparse.ArgumentTypeError(f"{text} is too little: a machine needs {LEAST >> 20}M")
    return value


def main() -> None:
    """The driver's part."""
    parser = argparse.ArgumentParser(description="Let a machine run out of memory.")
    parser.add_argument(
        "--limit", type=size, default="256M", help="what it may use: bytes, or 256M, 1G (default: 256M)"
    )
    parser.add_argument("--gently", action="store_true", help="let it get a MemoryError; do not have it killed")
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y/%m/%d %H:%M:%S", level="INFO")

    cgroup = None if args.gently else find_cgroup(f"bigoom-{os.getpid()}")
    try:
        with bigm.start() as cluster:
            machines = cluster.start(cluster.nmach or 3, services={"Hog": Hog(args.limit)}, procs=1)
            cluster.wait(machines)
            *others, victim = machines
            if victim.call("Hog.pid") == os.getpid():
                sys.exit("bigoom: machines in process are this process itself, which is to live: try --system local")
            confine(victim, cgroup)
            log.info("%s may use %d MiB", victim.id, args.limit >> 20)
            show(victim, others)
    finally:
        if cgroup is not None:
            with contextlib.suppress(FileNotFoundError):  # it could not be made
                cgroup.rmdir()


if __name__ == "__main__":
    main()
