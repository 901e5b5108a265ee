"""Where a program's dependencies come from, when they are not simply what is installed here.

In this order: a file that a flag names; the block in the script (PEP 723); for machines of another platform a lock of
the project (pylock.toml, uv.lock, poetry.lock); the active environment, in its exact versions; and where that cannot be
read, requirements.txt or pyproject.toml.

Source: PEP 508, 621, 723 and 751; the formats of uv and poetry as their tools write them.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigm.bundle.environment import DependencyError, normal
from bigm.errors import ProgramError

LOCKS = ("pylock.toml", "uv.lock", "poetry.lock")
FILES = ("requirements.txt", "pyproject.toml")

_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")  # as PEP 723 has it
_EXPORTS_WITHIN = 60.0  # seconds; it takes 0.3


@dataclass(frozen=True)
class Requirements:
    """What is to be resolved for some platform.

    Args:
        origin: who says so, as messages name it: "the block in bigpi.py", "uv.lock".
        lines: requirements of PEP 508.
        constraints: versions to take of what these lead to, as "numpy==2.1".
        overrides: the same, whatever anything asks for: of an environment that is at odds with itself.
        files: requirements files, besides.
        pylock: a lock as of PEP 751, instead of all that; "".
        text: content of the files and locks: another content, other requirements.
        notes: what the user should know.
    """

    origin: str
    lines: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    pylock: str = ""
    text: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """What a script says of itself, as of PEP 723.

    Args:
        script: its path.
        dependencies: requirements of PEP 508.
        python: versions it runs on, ">=3.11"; "" for any.
    """

    script: Path
    dependencies: tuple[str, ...]
    python: str

    def requirements(self) -> Requirements:
        """What machines are to have, where this environment does not have it."""
        return Requirements(f"the block in {self.script.name}", self.dependencies)


def read_block(script: Path) -> Block | None:
    """The block of a script; None: it has none.

    Raises:
        ProgramError: the block means nothing; says where.
    """
    try:
        text = script.read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    found = [match for match in _BLOCK.finditer(text.replace("\r\n", "\n")) if match["type"] == "script"]
    if not found:
        return None
    if len(found) > 1:
        raise ProgramError(f"{script} has {len(found)} blocks '# /// script', and one is allowed")
    lines = found[0]["content"].splitlines()
    line = text[: found[0].start()].count("\n") + 1
    described = _parse("\n".join(each[2:] if each.startswith("# ") else each[1:] for each in lines), script, line)
    dependencies, python = described.get("dependencies", []), described.get("requires-python", "")
    if not isinstance(python, str) or not _is_list_of_text(dependencies):
        raise ProgramError(
            f"the block in {script} (line {line}) wants dependencies to be a list of texts, and requires-python a text"
        )
    return Block(script, tuple(_checked(dependencies, f"the block in {script} (line {line})")), python)


def check_python(block: Block, version: str) -> None:
    """Refuse to run a script on a Python that it does not want.

    Args:
        version: of the driver's, which is the machines' too: "3.11.7".
    Raises:
        ProgramError: it wants another one, or its requires-python means nothing.
    """
    if not block.python:
        return
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        wanted = SpecifierSet(block.python)
    except InvalidSpecifier as error:
        raise ProgramError(f"requires-python in {block.script} means nothing: {error}") from error
    if not wanted.contains(version, prereleases=True):
        raise ProgramError(
            f"{block.script} requires Python {block.python}, and this is {version}",
            hint="run it with such a Python, in an environment that has bigm",
        )


def unmet(requirements: Iterable[str], installed: Mapping[str, str], markers: Mapping[str, str]) -> list[str]:
    """Which requirements an environment does not meet, each with what is there, "numpy>=2 (1.26 is installed)".

    Args:
        installed: versions by normalised name.
        markers: of the environment; empty: of the running interpreter.
    """
    from packaging.requirements import Requirement

    found = []
    for text in requirements:
        each = Requirement(text)
        if each.marker is not None and not each.marker.evaluate({"extra": "", **markers}):
            continue
        version = installed.get(normal(each.name), "")
        if not version:
            found.append(f"{text} (not installed)")
        elif not each.url and not each.specifier.contains(version, prereleases=True):
            found.append(f"{text} ({version} is installed)")
    return found


def requirement_name(text: str) -> str:
    """The normalised name that a requirement begins with, or ""."""
    return normal(re.split(r"[^A-Za-z0-9._-]", text.strip(), maxsplit=1)[0])


def read_file(path: Path) -> Requirements:
    """The requirements in a file: a lock, a pyproject.toml, or one as `pip install -r` takes it.

    Raises:
        DependencyError: it cannot be read, or means nothing.
    """
    if path.name in LOCKS or re.fullmatch(r"pylock\..+\.toml", path.name):
        return read_lock(path)
    if path.name == "pyproject.toml":
        lines = tuple(_project_requirements(path))
        return Requirements(path.name, lines, text=_read(path))
    return Requirements(path.name, files=(str(path),), text="\n".join(_with_nested(path)))


def find_lock(folder: Path) -> Path | None:
    """The lock of a project, the most exact one first."""
    return next((folder / name for name in LOCKS if (folder / name).is_file()), None)


def find_file(folder: Path) -> Path | None:
    """Where a project says what it requires, if it does."""
    for name in FILES:
        path = folder / name
        if path.is_file() and (name != "pyproject.toml" or list(_project_requirements(path))):
            return path
    return None


def read_lock(path: Path) -> Requirements:
    """The requirements of a lock. What it says for all platforms is kept: pex chooses.

    Raises:
        DependencyError: it cannot be read, or means nothing.
    """
    if path.name.startswith("pylock."):
        return Requirements(path.name, pylock=str(path), text=_read(path))
    beside = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if path.name == "uv.lock" and (uv := shutil.which("uv", path=beside)):
        return _exported(path, uv)
    return _by_hand(path)


def _exported(path: Path, uv: str) -> Requirements:
    """uv's own reading of its lock."""
    options = ["--frozen", "--offline", "--no-dev", "--no-emit-project", "--no-header", "--format", "pylock.toml"]
    try:
        done = subprocess.run(
            [uv, "export", "--quiet", *options],
            cwd=path.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_EXPORTS_WITHIN,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DependencyError(f"uv cannot export {path}: {error}") from error
    if done.returncode:
        raise DependencyError(f"uv cannot export {path}: {done.stderr.strip()}", hint="see what `uv lock` says")
    return Requirements(path.name, pylock="-", text=done.stdout)


def _by_hand(path: Path) -> Requirements:
    """What the project asks for, in the versions of its lock. Where that has several of one project, pip chooses."""
    versions: dict[str, set[str]] = {}
    for package in _parse(_read(path), path).get("package", []):
        source = package.get("source", {})
        here = {"editable", "virtual", "directory", "path", "git"} & {*source, source.get("type", "")}
        if "version" in package and not here:
            versions.setdefault(normal(package["name"]), set()).add(str(package["version"]))
    pins = tuple(f"{name}=={min(found)}" for name, found in sorted(versions.items()) if len(found) == 1)
    project = path.parent / "pyproject.toml"
    lines = tuple(_project_requirements(project))
    notes = [] if path.name != "uv.lock" else [f"{path.name} is read for its versions alone: uv is not installed"]
    return Requirements(path.name, lines, pins, text=_read(path), notes=tuple(notes))


def _project_requirements(path: Path) -> Iterator[str]:
    """What a pyproject.toml requires. Of poetry's own form the names: its lock has the versions."""
    described = _parse(_read(path), path)
    project = described.get("project", {})
    if "dependencies" in project or "poetry" not in described.get("tool", {}):
        if not _is_list_of_text(project.get("dependencies", [])):
            raise DependencyError(f"{path} wants dependencies to be a list of texts")
        yield from _checked(project.get("dependencies", []), str(path))
        return
    for name, wanted in described["tool"]["poetry"].get("dependencies", {}).items():
        facts = wanted if isinstance(wanted, dict) else {}
        if name == "python" or facts.get("optional"):
            continue
        extras = f"[{','.join(facts['extras'])}]" if facts.get("extras") else ""
        marker = f" ; {facts['markers']}" if facts.get("markers") else ""
        yield f"{name}{extras}{marker}"


def _checked(lines: Iterable[str], where: str) -> Iterator[str]:
    from packaging.requirements import InvalidRequirement, Requirement

    for line in lines:
        try:
            Requirement(line)
        except InvalidRequirement as error:
            raise ProgramError(
                f"{where} has {line!r}, which is no requirement: {str(error).splitlines()[0]}"
            ) from error
        yield line


def _with_nested(path: Path, seen: frozenset[Path] = frozenset()) -> Iterator[str]:
    """Content of a requirements file, and of those it names."""
    if path.resolve() in seen:
        return
    text = _read(path)
    yield text
    for name in re.findall(r"(?m)^\s*(?:-r|-c|--requirement|--constraint)[ =]?\s*(\S+)", text):
        if "://" not in name:
            yield from _with_nested(path.parent / name, seen | {path.resolve()})


def _parse(text: str, path: Path, line: int = 0) -> dict[str, Any]:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        found: dict[str, Any] = toml.loads(text)
        return found
    except toml.TOMLDecodeError as error:
        where = f"the block in {path} (line {line})" if line else str(path)
        raise DependencyError(f"{where} is no TOML: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError as error:
        raise DependencyError(f"cannot read {path}: {error.strerror}") from error


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
