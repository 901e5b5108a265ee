"""Makes one file system of an instance's data disks, before its agent starts.

`bigm.bootstrap.agentzip.disks_program` makes a program of this file's source, so nothing here may import bigm. It runs
as root, once, on a machine that was made for this cluster. What is not an instance's own disk, in use, or not blank is
left alone, and whatever goes wrong, the agent starts: it has the root disk.

Several disks are striped by the kernel's device mapper, which every image has, asked directly: mdadm, LVM and btrfs
are three tools of which an image may have none.

Source: linux/dm-ioctl.h for the requests, Documentation/admin-guide/device-mapper/striped.rst for the table.
"""

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
import time

MOUNTED = "/mnt/data"
ENVIRONMENT = "/run/bigm.env"  # which bigm.service reads
PATIENCE = 120  # seconds for all of it
ATTACHING = 20.0  # seconds for disks of the launch to appear
CHUNK = 512  # sectors (of 512 bytes) on one disk before the next one's turn
SMALLEST = 1 << 30  # bytes of a data disk
BLANK = 1 << 20  # bytes at its beginning that are zero where nothing was ever written
NAME = b"bigm-data"  # of the device that is made of several
CREATE, RESUME, LOAD = 3, 6, 9  # DM_DEV_CREATE, DM_DEV_SUSPEND, DM_TABLE_LOAD
HEADER = struct.Struct("=10iQ128s129s7x")  # dm_ioctl: version, sizes, counts; device, name, uuid
TARGET = struct.Struct("=QQiI16s")  # dm_target_spec: first sector, sectors, status, bytes to the next one, kind


def main(expected: int) -> None:
    """Mount what data disks there are at MOUNTED, and tell bigm.service; *expected* of them come with the launch."""
    signal.alarm(PATIENCE)
    end = time.monotonic() + ATTACHING
    while not (disks := data_disks()) or (len(disks) < expected and not is_instance_store(disks[0])):
        if not expected or time.monotonic() > end:
            break
        time.sleep(0.2)  # a disk that is attached tells udev, which may not run yet
    if not disks:
        return say("no data disks" + (f" of {expected} after {ATTACHING:.0f} s" if expected else ""))
    try:
        device = disks[0] if len(disks) == 1 else stripe(disks)
        mount(device)
    except (OSError, subprocess.SubprocessError) as error:
        return say(f"no {MOUNTED}: {error}")
    for name in ("tmp", "cache"):
        os.mkdir(os.path.join(MOUNTED, name))
    os.chmod(os.path.join(MOUNTED, "tmp"), 0o1777)
    with open(ENVIRONMENT, "w") as file:
        file.write(f"TMPDIR={MOUNTED}/tmp\nXDG_CACHE_HOME={MOUNTED}/cache\n")
    return say(f"{MOUNTED} is {' and '.join(disks)}" + (" striped" if len(disks) > 1 else ""))


def data_disks() -> "list[str]":
    """Paths of the disks to use: the instance store's where there is one, else those that are blank."""
    disks = [f"/dev/{name}" for name in sorted(os.listdir("/sys/block")) if is_disk(name)]
    return [disk for disk in disks if is_instance_store(disk)] or [disk for disk in disks if is_blank(disk)]


def is_disk(name: str) -> bool:
    """Whether a block device is a whole disk of this instance that nobody uses: no loop, mapping or memory."""
    facts = f"/sys/block/{name}"
    if not os.path.exists(f"{facts}/device") or read(f"{facts}/ro") != "0" or read(f"{facts}/removable") != "0":
        return False
    try:
        os.close(os.open(f"/dev/{name}", os.O_RDONLY | os.O_EXCL))  # refused where it, or a part of it, is mounted
    except OSError:
        return False
    return int(read(f"{facts}/size")) * 512 >= SMALLEST


def is_instance_store(disk: str) -> bool:
    """Whether it is a disk of the computer itself, which is new with the instance."""
    return "Instance Storage" in read(f"/sys/block/{os.path.basename(disk)}/device/model")


def is_blank(disk: str) -> bool:
    """Whether nothing was ever written there: else it may be somebody's data, of which a snapshot was taken."""
    with contextlib.suppress(OSError), open(disk, "rb") as file:
        return not file.read(BLANK).strip(b"\0")
    return False


def read(path: str) -> str:
    """What a file of the kernel says; "" where it has no such file."""
    with contextlib.suppress(OSError), open(path) as file:
        return file.read().strip()
    return ""


def stripe(disks: "list[str]") -> str:
    """One device of several disks, each used as far as the smallest goes; its path."""
    sectors = []
    for disk in disks:
        with open(disk, "rb") as file:
            sectors.append(file.seek(0, os.SEEK_END) // 512)
    each = min(sectors) // CHUNK * CHUNK
    table = f"{len(disks)} {CHUNK} " + " ".join(f"{disk} 0" for disk in disks)
    target = table.encode() + b"\0"
    target += bytes(-len(target) % 8)
    target = TARGET.pack(0, each * len(disks), 0, TARGET.size + len(target), b"striped") + target
    subprocess.run(["modprobe", "-q", "dm_mod"], timeout=10)  # where it is built in, there is nothing to load
    with open("/dev/mapper/control", "rb+", buffering=0) as control:
        map_device(control.fileno(), CREATE)
        map_device(control.fileno(), LOAD, target)
        number = map_device(control.fileno(), RESUME)
    return f"/dev/dm-{(number & 0xFF) | (number >> 12 & 0xFFF00)}"


def map_device(control: int, request: int, table: bytes = b"") -> int:
    """One request to the device mapper about our one device; its number, as the kernel writes it."""
    facts = (4, 0, 0, HEADER.size + len(table), HEADER.size, 1 if table else 0, 0, 0, 0, 0, 0)
    buffer = bytearray(HEADER.pack(*facts, NAME, b"") + table)
    fcntl.ioctl(control, 3 << 30 | HEADER.size << 16 | 0xFD << 8 | request, buffer)
    return int(HEADER.unpack_from(buffer)[10])


def mount(device: str) -> None:
    """Make a file system there, without reading or clearing all of the device, and mount it."""
    os.makedirs(MOUNTED, exist_ok=True)
    options = "nodiscard,lazy_itable_init=1,lazy_journal_init=1"
    run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", options, device)
    run("mount", "-o", "noatime", device, MOUNTED)


def run(*command: str) -> None:
    """Run a command; what it says goes to our standard error."""
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=PATIENCE)


def say(text: str) -> None:
    """Tell the console."""
    print("bigm:", text, file=sys.stderr, flush=True)
