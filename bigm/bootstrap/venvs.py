"""A dependency layer made into a plain virtual environment, by the pex that it is.

pex is run once for each environment, as a tool that unpacks itself (`PEX_TOOLS=1 ... venv`). What runs afterwards is
the environment's own Python, which knows nothing of pex.

Bytecode is left to the first import of each module. Compiling all of numpy, scipy and scikit-learn beforehand took 7.6
seconds; what a program used of them was imported in 3.6 seconds the first time and in 1.3 later.

Source: `pex.tools.commands.venv`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

from bigm.bootstrap import pythons, trees
from bigm.bootstrap.folders import StoreError
from bigm.bootstrap.store import Store
from bigm.errors import BigmError
from bigm.manifest import Manifest

_PATIENCE = 120.0  # seconds for pex, and
_SLOWEST = 1 << 20  # bytes of the layer for which it gets one more: it says nothing while it unpacks
_LAST_WORDS = 2.0  # seconds for what pex has said, when it was killed
_LINES = 12  # of its output, in an error
_GROWS = 4  # times that a layer becomes larger when it is unpacked, as a guess of what to make room for
_FULL = "No space left on device"
_DONE = "done"
_OPTIONS = ("--collisions-ok", "--non-hermetic-scripts")  # as it is where these distributions come from


class VenvError(BigmError):
    """An environment cannot be made on a machine; the text has what was said there. Do not retry."""


def name_of(key: str, python: str) -> str:
    """What the environment of a layer and an interpreter is called in a store; another one once Python is replaced.

    Raises:
        VenvError: there is no such interpreter.
    """
    path = os.path.realpath(python)
    try:
        found = os.stat(path)
    except OSError as error:
        raise VenvError(f"there is no Python {python}: {error.strerror}") from error
    facts = repr((key, path, found.st_size, found.st_mtime_ns))
    return f"venv-{hashlib.sha256(facts.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"


def make(tree: Manifest, store: Store, python: str, folder: str, *, mark: str, making: int) -> Mapping[str, Any]:
    """Make an environment.

    Args:
        tree: the packed pex; its parts are in *store*.
        store: where it is to be kept.
        python: path of the interpreter it is for.
        folder: where it is to be; it is not there yet.
        mark: value of BIGM_MACHINE for what runs meanwhile.
        making: a descriptor for what runs meanwhile, which may outlive us.
    Returns:
        Mapping: "python": the environment's own; and what `pythons.paths` says of that; "size" in bytes.
    Raises:
        PartError: a part is missing.
        StoreError: the disk is full.
        VenvError: pex does not make it, or not for that interpreter.
    """
    asked = pythons.paths(python)
    store.with_room(_GROWS * tree.size, lambda: _unpack(tree, store, python, folder, mark, making))
    own = os.path.join(folder, "bin", "python")
    made = pythons.paths(own)
    if (made["version"], made["base"]) != (asked["version"], asked["base"]):
        raise VenvError(
            f"pex made an environment of Python {made['version']} in {made['base']}, and was to make it for {python}, "
            f"which is {asked['version']} in {asked['base']}"
        )
    return {**made, "python": own, "size": _size(folder)}


def _unpack(tree: Manifest, store: Store, python: str, folder: str, mark: str, making: int) -> None:
    work = tempfile.mkdtemp(prefix="venv-", dir=store.work)
    try:
        pex = os.path.join(work, "pex")
        trees.write(tree, store.parts, pex, work=work, link=True)
        command = [python, os.path.join(pex, "__main__.py"), "venv", *_OPTIONS, folder]
        process = _start(command, _steps(python, work, mark), work, making)
        with store.helped_by(process.pid):
            said = _hear(process, _PATIENCE + tree.size / _SLOWEST)
        if os.path.exists(os.path.join(work, _DONE)):
            return
    finally:
        shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # half an environment is none
    if any(_FULL in line for line in said):
        raise StoreError(
            f"an environment of {tree.size >> 20} MiB, packed, cannot be unpacked in {store.path}, where "
            f"{store.free() >> 20} MiB are free: {_FULL.lower()}",
            hint="make room there, or name another folder",
        )
    text = "\n".join(said[-_LINES:]) or "it said nothing"
    raise VenvError(f"pex cannot make an environment for {python}: {text}")


def _steps(python: str, work: str, mark: str) -> Mapping[str, str]:
    """What pex is told by its environment."""
    return {
        **pythons.clean_environment(),
        "PEX_TOOLS": "1",
        "PEX_ROOT": os.path.join(work, "root"),
        "PEX_PYTHON": python,  # or it may choose another
        "PEX_IGNORE_RCFILES": "1",
        "PEX_MAX_INSTALL_JOBS": "0",  # as many as there are CPUs
        "TMPDIR": work,
        "BIGM_MACHINE": mark,
    }


def _start(command: list[str], environment: Mapping[str, str], work: str, making: int) -> subprocess.Popen[bytes]:
    """Run a command, which leaves a file when it has succeeded: an agent collects its children before we can."""
    return subprocess.Popen(
        ["/bin/sh", "-c", '"$@" && : > "$0"', os.path.join(work, _DONE), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=work,
        start_new_session=True,
        pass_fds=(making,),
    )


def _hear(process: subprocess.Popen[bytes], timeout: float) -> list[str]:
    """Wait for its end; the lines that it said."""
    try:
        return process.communicate(timeout=timeout)[0].decode(errors="replace").strip().splitlines()
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        try:
            said = process.communicate(timeout=_LAST_WORDS)[0]
        except subprocess.TimeoutExpired as late:  # what has left its group holds the pipe
            said = late.output or b""
        return [*said.decode(errors="replace").strip().splitlines(), f"it was not done within {timeout:.0f} s"]


def _size(folder: str) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            total += os.lstat(os.path.join(path, name)).st_size
    return total
