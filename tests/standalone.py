"""An interpreter as python-build-standalone packs one, made of one of this computer's."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

from interpreters import find_python

# Half of a standard library that no test needs.
_LEFT_OUT = {
    "test",
    "tests",
    "site-packages",
    "__pycache__",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "turtledemo",
}


def make_archive(path: Path, version: str = "") -> str:
    """Pack an interpreter of this computer so that it runs wherever it is unpacked.

    Args:
        path: the archive to be made; compressed as little as possible.
        version: minor version; "": that of this process.
    Returns:
        Its full version, "" when there is none here.
    """
    python = find_python(version) if version else sys.executable
    if not python:
        return ""
    code = "import sys, os, platform; print(platform.python_version(), sys.base_prefix, os.path.dirname(os.__file__))"
    answer = subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=30, check=True)
    full, prefix, library = answer.stdout.split()
    minor = ".".join(full.split(".")[:2])
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.add(os.path.realpath(f"{prefix}/bin/python{minor}"), f"python/bin/python{minor}")
        _link(tar, "python/bin/python3", f"python{minor}")
        for shared in Path(prefix, "lib").glob(f"libpython{minor}.so*"):
            tar.add(shared, f"python/lib/{shared.name}")
        tar.add(library, f"python/lib/python{minor}", filter=_wanted)
        _link(tar, "python/share/man/man1/python3.1", "../../../bin/python3")
    return full


def _wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = os.path.basename(member.name)
    return None if name in _LEFT_OUT or name.startswith("config-") else member


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    tar.addfile(member)
