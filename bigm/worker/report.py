"""What a worker reports of itself when asked: what it runs in, and what its memory is full of.

A module of its own because a worker's start need not pay for it.
"""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions

import bigm

_CENSUS = 50  # types in a census


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker runs in.

    Args:
        pid: its process id.
        python: version of its Python, "3.11.7".
        executable: absolute path of that Python.
        version: bigm's version there.
        argv: `sys.argv`.
        sys_path: `sys.path`.
        cwd: working folder.
        env: environment variables.
        bundle: digest of the bundle it runs; "": the driver's own environment.
        packages: sha256, hexadecimal, over names and versions of all installed distributions: machines that agree in
            it have the same packages.
    """

    pid: int
    python: str
    executable: str
    version: str
    argv: tuple[str, ...]
    sys_path: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    packages: str
    bundle: str = ""


@dataclass(frozen=True)
class TypeCount:
    """Live objects of one type: how many, and the bytes of the objects themselves, without what they refer to."""

    name: str
    count: int
    size: int


def info(bundle: str = "") -> WorkerInfo:
    """What this process runs in, and *bundle*."""
    return WorkerInfo(
        pid=os.getpid(),
        python=platform.python_version(),
        executable=sys.executable,
        version=bigm.__version__,
        argv=tuple(sys.argv),
        sys_path=tuple(sys.path),
        cwd=os.getcwd(),
        env=dict(os.environ),
        packages=_packages_digest(),
        bundle=bundle,
    )


def census() -> tuple[TypeCount, ...]:
    """The types with most bytes in live objects that the garbage collector knows, largest first."""
    gc.collect()
    counts: dict[type, list[int]] = {}
    for item in gc.get_objects():
        entry = counts.setdefault(type(item), [0, 0])
        entry[0] += 1
        entry[1] += _size(item)
    found = [TypeCount(f"{cls.__module__}.{cls.__qualname__}", *entry) for cls, entry in counts.items()]
    return tuple(sorted(found, key=lambda item: (item.size, item.count), reverse=True)[:_CENSUS])


def _packages_digest() -> str:
    lines = sorted({f"{item.metadata['Name']}=={item.version}".lower() for item in distributions()})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _size(item: object) -> int:
    try:
        return sys.getsizeof(item)
    except Exception:  # noqa: BLE001 - user classes may have a broken __sizeof__; they count without a size
        return 0
