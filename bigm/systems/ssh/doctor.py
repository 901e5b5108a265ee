"""What `bigm doctor ssh` finds: whether a host can be reached, and what it has for machines."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigm.errors import BigmError, SystemFault
from bigm.systems.base import FAILED, OK, WARNING, Finding
from bigm.systems.ssh.errands import each
from bigm.systems.ssh.host import Host

MINOR = "{}.{}".format(*sys.version_info)
_ROOM = 1 << 30  # bytes on a disk below which it is short: a program with its distributions takes some hundred MiB
_MEMORY = 256 << 20  # bytes that a worker with numpy and its agent need
_SKEW = 60.0  # seconds between two clocks that logs show
_DAY = 86400.0  # seconds: certificates are valid from a day before they were made


def examine(hosts: Sequence[Host]) -> Iterator[Finding]:
    """Look at hosts, several at a time; what is found of each comes when it is there."""
    found: queue.Queue[list[Finding] | None] = queue.Queue()

    def look() -> None:
        try:
            each(hosts, lambda host: found.put(list(_look_at(host))))
        finally:
            found.put(None)

    threading.Thread(target=look, name="bigm-ssh-doctor", daemon=True).start()
    while (findings := found.get()) is not None:
        yield from findings


def _look_at(host: Host) -> Iterator[Finding]:
    started = time.monotonic()
    try:
        host.master.open(timeout=20.0)
    except BigmError as error:
        yield Finding(host.name, "connection", FAILED, error.message, error.hint)
        return
    took = time.monotonic() - started
    yield Finding(host.name, "connection", OK, f"made in {took:.2f} s")
    before = time.time()
    try:
        [facts] = host.request({"do": "examine", "minor": MINOR})
    except SystemFault as error:
        yield Finding(host.name, "Python", FAILED, error.message, error.hint)
        return
    yield Finding(host.name, "Python", OK, f"{facts['python']} at {facts['executable']}")
    yield _program_python(host.name, facts["program_python"])
    yield _clock(host.name, facts["time"] - (before + time.time()) / 2, (time.time() - before) / 2)
    yield Finding(host.name, "CPUs", OK, str(facts["cpus"]))
    yield _memory(host.name, facts["memory"])
    yield _place(host.name, "cache", facts["cache"], "what is sent is kept elsewhere, or not at all")
    yield _place(host.name, "temporary files", facts["temporary"], "machines keep their files there")


def _program_python(host: str, path: str) -> Finding:
    check = f"Python {MINOR}"
    if path:
        return Finding(host, check, OK, f"at {path}")
    text = "not on its PATH, and programs need the driver's version"
    return Finding(host, check, WARNING, text, "the setting `python` says where machines look for one, or what is sent")


def _clock(host: str, skew: float, doubt: float) -> Finding:
    text = f"{abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}" if abs(skew) > max(doubt, 1.0) else "right"
    if abs(skew) > _DAY / 2:
        return Finding(host, "clock", FAILED, text, "certificates would not be valid there: set one of the clocks")
    if abs(skew) > _SKEW:
        return Finding(host, "clock", WARNING, text, "the times of its log lines will not fit")
    return Finding(host, "clock", OK, text)


def _memory(host: str, memory: Mapping[str, int]) -> Finding:
    if not memory["MemTotal"]:
        return Finding(host, "memory", OK, "not told")
    text = f"{memory['MemAvailable'] >> 20} of {memory['MemTotal'] >> 20} MiB are free"
    if memory["MemAvailable"] < _MEMORY:
        return Finding(host, "memory", WARNING, text, "the kernel ends workers for want of it; start fewer machines")
    return Finding(host, "memory", OK, text)


def _place(host: str, check: str, place: Mapping[str, Any], purpose: str) -> Finding:
    text = f"{place['free'] >> 20} MiB are free at {place['path']}"
    if not place["writable"]:
        return Finding(host, check, WARNING, f"nothing can be written at {place['path']}", purpose)
    if place["noexec"]:
        return Finding(host, check, WARNING, f"{text}, and nothing there can be run (noexec)", purpose)
    if place["free"] < _ROOM:
        return Finding(host, check, WARNING, text, purpose)
    return Finding(host, check, OK, text)
