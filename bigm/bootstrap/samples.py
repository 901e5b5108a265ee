"""What a machine has and uses: platform, CPUs, memory, disk, load. Reads /proc and cgroups; elsewhere, what there is.

The memory a machine may use is the least of the box's and every limit of a cgroup above it: inside a container the
box's figure is a promise nobody keeps.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from typing import Optional

from bigm.bootstrap.records import Disk, Memory

_CGROUPS = "/sys/fs/cgroup"
_MEMORY_FILES = ("memory.max", "memory.limit_in_bytes", "memory.events")  # any of them: it accounts for memory
_UNLIMITED = 1 << 60  # cgroup v1 says "no limit" with a number about this big


def platform() -> str:
    """Operating system and machine type: "linux-x86_64", "darwin-arm64"."""
    system = os.uname()
    return f"{system.sysname.lower()}-{system.machine}"


def cpus() -> int:
    """CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> Memory:
    """The memory there is for us."""
    total, available = _box()
    limit, used = total, total - available
    for folder in _cgroups():
        bound = _number(folder, "memory.max", "memory.limit_in_bytes")
        if bound is not None and bound < limit:
            limit = bound
            used = max(0, (_number(folder, "memory.current", "memory.usage_in_bytes") or 0) - _reclaimable(folder))
    return Memory(total=total, limit=limit, used=used, available=max(0, min(available, limit - used)))


def recent_memory() -> Memory:
    """The same, up to a second old: thousands of agents in one process ask the same, each as often as it is renewed."""
    return _memory_in(int(time.monotonic()))


@functools.lru_cache(maxsize=1)
def _memory_in(second: int) -> Memory:
    return memory()


def disk(path: str) -> Disk:
    """The file system that holds *path*."""
    found = os.statvfs(path)
    total, free = found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail
    return Disk(path=path, total=total, used=total - found.f_frsize * found.f_bfree, free=free)


def oom_kills() -> int:
    """How many processes of our cgroup (at its root: of the box) the kernel has killed for want of memory."""
    for folder in _cgroups()[:1]:
        for name in ("memory.events", "memory.oom_control"):
            count = _field(os.path.join(folder, name), "oom_kill")
            if count is not None:
                return count
    return _field("/proc/vmstat", "oom_kill") or 0


def process(pid: int) -> tuple[int, float]:
    """Resident bytes and CPU seconds of a process; zeros when it is gone or the platform does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except OSError:
        return 0, 0.0
    ticks = int(fields[11]) + int(fields[12])  # utime, stime: fields 14 and 15 of proc(5)
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK")


def _box() -> tuple[int, int]:
    """Bytes of memory of the box, and how many of them are available."""
    total, available = _field("/proc/meminfo", "MemTotal:"), _field("/proc/meminfo", "MemAvailable:")
    if total is not None and available is not None:
        return total * 1024, available * 1024
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total, total


def _cgroups() -> list[str]:
    """Folders of the memory cgroups that bound us, the innermost first."""
    if sys.platform != "linux":
        return []
    folders: list[str] = []
    try:
        with open("/proc/self/cgroup") as lines:
            entries = [line.rstrip("\n").split(":", 2) for line in lines]
    except OSError:
        return []
    for _, controllers, path in entries:
        if controllers == "":
            root = _CGROUPS
        elif "memory" in controllers.split(","):
            root = os.path.join(_CGROUPS, "memory")
        else:
            continue
        # Inside a cgroup namespace the path may not exist as it is seen here; its beginning always does.
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            folder = os.path.join(root, *parts[:depth])
            if any(os.path.exists(os.path.join(folder, name)) for name in _MEMORY_FILES):
                folders.append(folder)
    return folders


def _reclaimable(folder: str) -> int:
    """Bytes of file cache that count as used, but go when memory is wanted."""
    return _field(os.path.join(folder, "memory.stat"), "inactive_file") or 0


def _number(folder: str, *names: str) -> Optional[int]:
    for name in names:
        try:
            with open(os.path.join(folder, name)) as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < _UNLIMITED:
            return int(text)
    return None


def _field(path: str, name: str) -> Optional[int]:
    """The number behind *name* in a file of lines `name number`."""
    try:
        with open(path) as lines:
            for line in lines:
                words = line.split()
                if words and words[0] == name:
                    return int(words[1])
    except (OSError, ValueError, IndexError):
        pass
    return None
