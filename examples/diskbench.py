"""Measure the disk of every machine: how fast a file is written and read, streamed live.

    bigm run examples/diskbench.py                                        256 MiB in the folder for temporary files
    bigm run examples/diskbench.py --nmach 2 -- --size 4G --folder /data  more, elsewhere

Writing includes the time until all is on the disk (fsync). Before it is read, the file is dropped from the page cache;
where that cannot be done, or cannot be proven, the table says that what was read may have come from memory.

Source: bigmachine cmd/diskbench. Unlike it, this uses a file without a name: however it ends, nothing is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import bigm

log = logging.getLogger("diskbench")

BLOCK = 1 << 20  # bytes that are written, and read, at once
EVERY = 1.0  # seconds between two samples


@dataclass
class Sample:
    """How far a machine has come: *done* bytes written or read in *seconds*."""

    what: str
    done: int
    seconds: float
    note: str = ""

    @property
    def rate(self) -> float:
        """Megabytes in a second, since the beginning."""
        return self.done / 1e6 / max(self.seconds, 1e-9)


class Disk:
    """The service: writes a file and reads it again."""

    def measure(self, folder: str, size: int) -> Iterator[Sample]:
        """Samples of writing a file of *size* bytes in *folder*, about one in a second; then of reading it."""
        folder = folder or tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free < size:
            raise OSError(f"{folder} has room for {free / 1e9:.1f} GB, and the file needs {size / 1e9:.1f} GB")
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            yield from self._write(file.fileno(), size)
            note = "" if drop(file.fileno()) else "perhaps from memory"
            yield from self._read(file.fileno(), size, note)

    def _write(self, file: int, size: int) -> Iterator[Sample]:
        block = memoryview(os.urandom(BLOCK))  # no disk makes it smaller
        begin, said, done = time.monotonic(), time.monotonic(), 0
        while done < size:
            done += os.write(file, block[: size - done])
            if time.monotonic() - said > EVERY:
                said = time.monotonic()
                yield Sample("write", done, said - begin)
        os.fsync(file)
        yield Sample("write", done, time.monotonic() - begin)

    def _read(self, file: int, size: int, note: str) -> Iterator[Sample]:
        block = bytearray(BLOCK)
        begin, said, done = time.monotonic(), time.monotonic(), 0
        while done < size:
            done += os.preadv(file, [block], done)
            if time.monotonic() - said > EVERY:
                said = time.monotonic()
                yield Sample("read", done, said - begin, note)
        yield Sample("read", done, time.monotonic() - begin, note)


def drop(file: int) -> bool:
    """Drop a file that was synced from the page cache; whether that can be proven."""
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.preadv(file, [bytearray(1)], 0, os.RWF_NOWAIT)  # reads only what is in memory
    except BlockingIOError:
        return True
    except (OSError, AttributeError):  # a system or file system that has not got the one or the other
        return False
    return False


@dataclass
class Row:
    """What the table says of one machine."""

    machine: bigm.Machine
    write: Sample | None = None
    read: Sample | None = None
    error: Exception | None = field(default=None)

    def __str__(self) -> str:
        rates = [f"{sample.rate:11.0f}" if sample else f"{'-':>11}" for sample in (self.write, self.read)]
        note = str(self.error) if self.error else self.read.note if self.read else ""
        return f"{self.machine.id:9}{''.join(rates)}  {note}".rstrip()


async def follow(machine: bigm.Machine, folder: str, size: int) -> Row:
    """Measure one machine, and show how it comes along. That it fails is a row of the table, too."""
    row = Row(machine)
    try:
        async for sample in machine.astream("Disk.measure", folder, size):
            setattr(row, sample.what, sample)
            done = f"{sample.done / 1e6:5.0f} of {size / 1e6:.0f} MB"
            log.info("%-4s %-5s %s %7.0f MB/s", machine.id, sample.what, done, sample.rate)
    except (OSError, bigm.BigmError) as error:
        row.error = error
    return row


async def measure(machines: list[bigm.Machine], folder: str, size: int) -> list[Row]:
    """Measure all machines at once."""
    return await asyncio.gather(*(follow(machine, folder, size) for machine in machines))


def size(text: str) -> int:
    """A command-line argument in bytes: "100M", "4G"."""
    match = re.fullmatch(r"(\d+)([KMGT]?)", text.upper())
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size, such as 512M or 4G")
    return int(match[1]) << 10 * " KMGT".index(match[2] or " ")


def main() -> None:
    """The driver's part."""
    parser = argparse.ArgumentParser(description="Measure how fast the disks of a cluster's machines write and read.")
    parser.add_argument("--size", type=size, default="256M", help="of the file: bytes, or 512M, 4G (default: 256M)")
    parser.add_argument("--folder", default="", help="where it is written (default: the machine's for temporary files)")
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y/%m/%d %H:%M:%S", level="INFO")

    with bigm.start() as cluster:
        machines = cluster.start(cluster.nmach or 2, services={"Disk": Disk()}, procs=1)
        cluster.wait(machines)
        rows = asyncio.run(measure(machines, args.folder, args.size))

    print(f"{'machine':9}{'write MB/s':>11}{'read MB/s':>11}")
    print(*rows, sep="\n")
    sys.exit(any(row.error for row in rows))


if __name__ == "__main__":
    main()
