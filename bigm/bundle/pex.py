"""Running pex, as a subprocess: its command line is its stable interface. What it says when it fails.

It is run by the interpreter that runs bigm, which bigm's own dependency pex is installed for, in an environment
(variables, rc files, caches) that the user's settings have no part in: same input, same output, byte for byte.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bigm.bundle.environment import DependencyError
from bigm.errors import ConfigError

OLDEST, TOO_NEW = (2, 100), (3,)  # as in setup.cfg

# The layout from which a machine makes a virtual environment: files by distribution, so that one that changes is the
# only one to travel; with the tools that make it; started by `python`, whichever that is there.
LAYOUT = ("--layout", "packed", "--venv", "prepend", "--sh-boot", "--include-tools")
OFFLINE = ("--no-index", "--no-build")

# Reproducible archives: the time that everything in them has. pex takes it, and builds of wheels that it starts.
_EPOCH = "315532800"  # 1980-01-01, the oldest that a zip file can tell
_DROPPED = ("PEX", "_PEX", "__PEX", "PYTHON", "__PYVENV", "SCIE", "SOURCE_DATE_EPOCH", "VIRTUAL_ENV")
_LONGEST = 2 * 3600.0  # seconds: of a slow index, for what is large; nobody waits longer for what hangs
_TOLD = 12  # lines of pex's own words that an error shows


class PexFailed(DependencyError):
    """pex could not make what was asked for. Its own words are in the message, without its stack.

    Args:
        said: everything it said.
    """

    def __init__(self, message: str = "", *, hint: str = "", said: str = "") -> None:
        super().__init__(message, hint=hint)
        self.said = said


def pex_version() -> str:
    """Version of the pex that `run_pex` runs, read without importing it.

    Raises:
        ConfigError: there is none for this interpreter, or not one that bigm knows.
    """
    spec = importlib.util.find_spec("pex")
    hint = f"install it for {sys.executable}: pip install 'pex>=2.100,<3'"
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("bundles are made by pex, which is not installed", hint=hint)
    text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text()
    found = re.search(r'__version__ = "(([0-9]+)\.([0-9]+)[^"]*)"', text)
    if found is None or not OLDEST <= (int(found[2]), int(found[3])) < TOO_NEW:
        raise ConfigError(
            f"bundles are made by pex 2.100 to 2.x, not {found[1] if found else 'an unknown one'}", hint=hint
        )
    return found[1]


def run_pex(
    arguments: Sequence[str],
    output: Path,
    *,
    root: Path,
    work: Path,
    index: bool = False,
    longest: float = _LONGEST,
) -> None:
    """Have pex make *output*. On an interrupt of the calling thread pex and what it started are ended.

    Args:
        arguments: its options and requirements, without `-o`.
        output: file or folder that it makes.
        root: its cache. Must be one that holds nothing made of distributions that were patched in place: pex knows
            them by their RECORD and would take the old content.
        work: a folder for what is temporary; its caller removes it.
        index: it may ask the package index, as pip's configuration and `PIP_*` say. Otherwise these have no part in it.
        longest: seconds after which it is ended.
    Raises:
        PexFailed: it failed, or was not done in time, with its words; or the disk is full. What is in *output* then
            means nothing.
    """
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pex", *arguments, "-o", str(output)]
    log = work / "pex.log"
    with open(log, "wb") as written:
        code = _run(command, work, _environ(os.environ, root, work, index), written, longest)
    if code is None:
        raise _failure(log.read_text("utf-8", "replace"), f"was not done within {longest:.0f} s", command, root)
    if code:
        said = log.read_text("utf-8", "replace")
        if re.search("No space left on device|Disk quota exceeded", said):
            raise _full(output, work)
        ended = f"was ended by signal {-code}" if code < 0 else f"exits with {code}"
        raise _failure(said, ended, command, root)


def _run(command: Sequence[str], work: Path, environ: Mapping[str, str], log: IO[bytes], longest: float) -> int | None:
    """Its exit code; None when it was ended after *longest* seconds."""
    process = subprocess.Popen(
        command,
        cwd=work,  # what `-m` looks into first
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # it has workers, which its own end does not end
    )

    def end() -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()

    atexit.register(end)  # for a thread that nobody waits for
    try:
        return process.wait(longest)
    except subprocess.TimeoutExpired:
        end()
        return None
    except BaseException:
        end()
        raise
    finally:
        atexit.unregister(end)


def _environ(given: Mapping[str, str], root: Path, work: Path, index: bool) -> dict[str, str]:
    dropped = _DROPPED if index else (*_DROPPED, "PIP_")
    environ = {name: value for name, value in given.items() if not name.startswith(dropped)}
    # The option --pex-root comes too late for what pex does while it reads its options.
    own = {"PEX_ROOT": str(root), "PEX_IGNORE_RCFILES": "1", "SOURCE_DATE_EPOCH": _EPOCH, "PYTHONHASHSEED": "0"}
    return {**environ, **own, "TMPDIR": str(work)}


def _full(output: Path, work: Path) -> PexFailed:
    free = shutil.disk_usage(work).free >> 20
    for folder in (output, work):  # nobody wants to look at half of it
        shutil.rmtree(folder, ignore_errors=True)
    return PexFailed(
        f"the disk is full: {work} has {free} MB left, and pex needs more to bundle the dependencies",
        hint="make room there, or set BIGM_HOME to a folder elsewhere",
    )


def _failure(said: str, ended: str, command: Sequence[str], root: Path) -> PexFailed:
    words = "".join(f"\n  {line}" for line in _words(said)) or " it says nothing"
    shown = shlex.join([f"PEX_ROOT={root}", *command, "-v"])
    message = f"pex cannot bundle the dependencies and {ended}:{words}"
    return PexFailed(message, hint=f"to see all it does: {shown}", said=said)


def _words(said: str) -> list[str]:
    """What pex said, without stacks and the commands of pip that it ran; the last lines of it."""
    said = re.sub(r"Resolve from venv at \S+ failed: ", "", said)  # a folder that the user does not know
    lines = [line.removeprefix("pip: ").removeprefix("ERROR: ") for line in said.splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"(Failed to spawn a job for .*)?\s*pid \d+ -> ", line)] or lines
    for n, line in enumerate(lines):
        if line.startswith("Traceback (most recent call last)"):
            lines = [*lines[:n], *[last for last in lines[n + 1 :] if not last.startswith((" ", "Traceback"))][-1:]]
            break
    return lines[-_TOLD:]
