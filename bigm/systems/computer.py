"""What machines on this computer need, looked at before any is launched: for systems' `doctor`, and the driver's.

No system: what is the same for several.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bigm.bootstrap import folders, samples
from bigm.systems.base import FAILED, OK, WARNING, Finding

HERE = "this computer"
_ANSWER = 5.0  # seconds for a connection over loopback
_MEMORY = 256 << 20  # bytes that a worker with numpy and its agent need
_ROOM = 1 << 30  # bytes on a disk below which it is said to be short
_LEAST = 64 << 20  # bytes without which nothing can be kept
_PTRACE = "/proc/sys/kernel/yama/ptrace_scope"


def machines_here() -> Iterator[Finding]:
    """Whether machines that are processes of this computer have what they need."""
    yield loopback()
    yield cpus()
    yield memory()
    yield temporary_files()
    yield key_files()
    yield stacks()


def loopback() -> Finding:
    """Machines on this computer listen on 127.0.0.1."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(_ANSWER)
            with socket.create_connection(server.getsockname(), _ANSWER):
                server.accept()[0].close()
    except OSError as error:
        text = f"cannot connect to 127.0.0.1: {error.strerror or error}"
        return Finding(HERE, "loopback", FAILED, text, "machines on this computer need it: ip link set lo up")
    return Finding(HERE, "loopback", OK, "127.0.0.1 answers")


def cpus() -> Finding:
    """How many there are to use."""
    count, there = samples.cpus(), os.cpu_count() or 1
    return Finding(HERE, "CPUs", OK, f"{count}" if count == there else f"{count} of {there} may be used")


def memory() -> Finding:
    """Whether some is left, within all limits."""
    found = samples.memory()
    text = f"{found.available >> 20} of {found.limit >> 20} MiB are free"
    if found.available < _MEMORY:
        return Finding(HERE, "memory", WARNING, text, "the kernel ends workers for want of it; start fewer machines")
    return Finding(HERE, "memory", OK, text)


def temporary_files() -> Finding:
    """Whether machines can keep their files."""
    check, hint = "temporary files", "machines keep their files there; TMPDIR names another folder"
    try:
        return folder(check, Path(tempfile.gettempdir()), hint)
    except FileNotFoundError as error:
        return Finding(HERE, check, FAILED, str(error.strerror or error), hint)


def folder(check: str, path: Path, purpose: str, *, runs: bool = False, needed: bool = True) -> Finding:
    """Whether files can be kept in a folder, or in the nearest above it that exists. Leaves nothing there.

    Args:
        check: what it is called.
        path: the folder, absolute.
        purpose: what becomes of it, as a hint.
        runs: programs and extension modules are run from there.
        needed: without it no machine can be started.
    """
    place = next(each for each in (path, *path.parents) if each.exists())
    bad = FAILED if needed else WARNING
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(4096))
            file.flush()
        free = folders.free(str(place))
    except OSError as error:
        return Finding(HERE, check, bad, f"{path} cannot be written to: {error.strerror or error}", purpose)
    text = f"{path}, {free >> 20} MiB free"
    if folders.noexec(str(place)):
        text += "; nothing may be run from there (noexec)"
        if runs:
            return Finding(HERE, check, bad, text, purpose)
    if free < _LEAST:
        return Finding(HERE, check, bad, text, purpose)
    return Finding(HERE, check, OK if free >= _ROOM else WARNING, text, "" if free >= _ROOM else purpose)


def key_files() -> Finding:
    """Whether keys can be kept off every disk the quick way."""
    if hasattr(os, "memfd_create"):
        try:
            os.close(os.memfd_create("bigm-doctor", os.MFD_CLOEXEC))
        except OSError as error:
            hint = "a sandbox refuses memfd_create; allow it"
            return Finding(HERE, "keys in memory", FAILED, f"memfd_create: {error.strerror}", hint)
        return Finding(HERE, "keys in memory", OK, "memfd_create works")
    return Finding(HERE, "keys in memory", OK, "by pipes: this system has no memfd_create")


def stacks(scope_file: str = _PTRACE) -> Finding:
    """Whether an agent may look into its own workers, for their stacks and profiles.

    Args:
        scope_file: where Linux says who may.
    """
    check = "ptrace"
    if sys.platform != "linux":
        return Finding(
            HERE, check, WARNING, "stacks and profiles of workers need root here", "sudo, where you want them"
        )
    try:
        scope = int(Path(scope_file).read_text())
    except (OSError, ValueError):
        return Finding(HERE, check, OK, "this kernel does not restrict it")
    if scope < 2 or (scope == 2 and os.geteuid() == 0):
        return Finding(HERE, check, OK, f"allowed for workers (scope {scope})")
    text = f"refused (scope {scope}): no stacks and profiles of workers"
    return Finding(
        HERE, check, WARNING, text, f"machines run all the same; {scope_file} says 0 or 1 where it is allowed"
    )
