"""The interpreters of a computer: where they are found, and where they look for modules."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bigm.bootstrap import report
from bigm.errors import BigmError

_ANSWER = 30.0  # seconds; on a slow network drive
_AT_ONCE = 8

# Where interpreters are that the PATH of a service or of ssh does not name. Nobody's own folders: each tool's default.
# The system's and what is built by hand, /opt, Homebrew on both kinds of Mac; pip --user and uv's links, pyenv, uv; the
# installers of conda (Miniconda, Anaconda, Miniforge), and the environments of each.
_PLACES = (
    *("/usr/local/bin", "/usr/bin", "/opt/*/bin", "/opt/homebrew/bin", "/usr/local/opt/python@*/bin"),
    *("~/.local/bin", "~/.pyenv/versions/*/bin", "~/.local/share/uv/python/*/bin"),
    *("~/miniconda3/bin", "~/anaconda3/bin", "~/miniforge3/bin", "~/.conda/envs/*/bin"),
    *("~/miniconda3/envs/*/bin", "~/anaconda3/envs/*/bin", "~/miniforge3/envs/*/bin"),
)

# What steers Pythons and pex, set by a user for something else.
_FOREIGN = ("PEX", "__PEX", "PYTHON", "PIP_", "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV")

_PATHS = """
import sys
standard = [each for each in sys.path if each]
import json, os, platform, site
site.main()
print(json.dumps({
    "version": platform.python_version(),
    "base": os.path.realpath(sys.base_prefix),
    "stdlib": standard,
    "site": [each for each in sys.path if each and each not in standard],
}))
"""


class PythonError(BigmError):
    """An interpreter does not run, or is none; the text has what it said. Another one may do."""


def clean_environment() -> dict[str, str]:
    """The environment of this process without what steers Pythons and pex."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}


def paths(python: str) -> dict[str, Any]:
    """Where an interpreter looks for modules, whatever is set in the environment.

    Args:
        python: its path.
    Returns:
        dict: "stdlib" and "site": the entries of its `sys.path` that are the standard library, and the others;
        "version" ("3.11.7"); "base": its installation, the same for all virtual environments that are made of it.
    Raises:
        PythonError: it does not run, or takes more than half a minute.
    """
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", _PATHS], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    except subprocess.TimeoutExpired:
        raise PythonError(f"{python} did not answer within {_ANSWER:g} s") from None
    except OSError as error:
        raise PythonError(f"{python} cannot be run: {error.strerror}") from error
    except ValueError:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise PythonError(f"{python} does not run as a Python: {said}") from None


def find(minor: str = "", cache: str = "") -> list[dict[str, Any]]:
    """The interpreters of this computer, as `report.examine` tells of each: PATH first, virtual environments last.

    What does not run is left out: pyenv's shims, for one, look like interpreters. A script that runs one stands for it.

    Args:
        minor: those of one minor version, "3.11"; "": all.
        cache: a file that remembers what each said, for as long as it is the same file; "": none.
    """
    paths = _candidates(minor)
    known = _read(cache)
    stamps = {path: _stamp(path) for path in paths}
    answers = {path: known[path][1] for path in paths if path in known and known[path][0] == stamps[path]}
    strange = [path for path in paths if path not in answers]
    with ThreadPoolExecutor(_AT_ONCE, "bigm-pythons") as pool:
        for path, answer in zip(strange, pool.map(report.examine, strange)):
            answers[path] = dict(answer)
            if "error" not in answer:  # it may have been a passing one
                known[path] = (stamps[path], dict(answer))
    if cache and strange:
        _write(cache, known)
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        answer = answers[path]
        if str(answer.get("version", "")).startswith(f"{minor}." if minor else "3."):
            executable = str(answer["executable"])
            same = os.path.realpath(path) == os.path.realpath(executable)
            found.setdefault(executable, {**answer, "path": path if same else executable})
    return sorted(found.values(), key=lambda each: _is_environment(str(each["path"])))


def _candidates(minor: str) -> Sequence[str]:
    """Paths that may be interpreters, each file once."""
    names = [f"python{minor}", "python3", "python"] if minor else ["python3", "python3.?", "python3.??", "python"]
    own = os.path.dirname(getattr(sys, "_base_executable", sys.executable))  # of this agent, wherever it lies
    places = [*os.environ.get("PATH", os.defpath).split(os.pathsep), own, *map(os.path.expanduser, _PLACES)]
    found: dict[str, str] = {}
    for name in names:
        for place in filter(os.path.isabs, places):
            for path in sorted(glob.glob(os.path.join(place, name))):
                if os.access(path, os.X_OK):  # an environment's Python is a link to its installation's, and another one
                    found.setdefault(path if _is_environment(path) else os.path.realpath(path), path)
    return list(found.values())


def _is_environment(python: str) -> bool:
    return os.path.exists(os.path.join(os.path.dirname(os.path.dirname(python)), "pyvenv.cfg"))


def _stamp(path: str) -> list[Any]:
    """What changes when another interpreter is put there."""
    try:
        facts = os.stat(path)
    except OSError:
        return []
    return [os.path.realpath(path), facts.st_size, facts.st_mtime_ns]


def _read(cache: str) -> dict[str, tuple[list[Any], dict[str, Any]]]:
    try:
        with open(cache, encoding="ascii") as file:
            return {path: (stamp, answer) for path, (stamp, answer) in json.load(file).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # there is none, or it was left half written by a crash of the computer


def _write(cache: str, known: Mapping[str, tuple[list[Any], dict[str, Any]]]) -> None:
    unfinished = f"{cache}.{os.getpid()}"
    try:
        with open(unfinished, "w", encoding="ascii") as file:
            json.dump(known, file)
        os.rename(unfinished, cache)
    except OSError:
        pass  # a full disk; nothing but time is lost
