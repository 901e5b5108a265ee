"""What says which distributions a program needs, and dependency layers made of that: for this computer, and for others.

This computer's own layer is made of what is installed, and needs no index. For other kinds of machines an index may
have to be asked, for the same versions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bigm.bootstrap.report import examine, report
from bigm.bundle.bundle import Dependencies
from bigm.bundle.dependencies import dependency_layer
from bigm.bundle.environment import DependencyError, Environment, environment_of
from bigm.bundle.platforms import Platform, misfits, of_report, parse
from bigm.bundle.requirements import (
    Block,
    Requirements,
    check_python,
    find_file,
    find_lock,
    read_block,
    read_file,
    read_lock,
    requirement_name,
    unmet,
)
from bigm.bundle.whereabouts import whereabouts_of
from bigm.errors import ConfigError
from bigm.parts import Parts

Progress = Callable[[str], None]


class Cache(NamedTuple):
    """Where layers are kept.

    Args:
        store: the driver's store of parts.
        folder: bigm's folder of caches (`<home>/cache`).
        progress: told in a few words what takes time.
    """

    store: Parts
    folder: Path
    progress: Progress = lambda text: None


@dataclass(frozen=True)
class Origins:
    """What says which distributions a program needs, the first that is there.

    Args:
        python: the interpreter whose environment it runs in here.
        given: a file that the user names (`bundle.requirements`); None.
        block: the script's own; None.
        project: folder of its project, which may have a lock; None.
    """

    python: str
    given: Path | None = None
    block: Block | None = None
    project: Path | None = None

    def own_layer(self, cache: Cache) -> Dependencies:
        """The layer for machines like this computer.

        Raises:
            DependencyError: it cannot be made; says what to do.
            ConfigError: no interpreter, or no pex.
        """
        if self.given is not None:
            return _resolved(_here(), read_file(self.given), None, cache)
        try:
            if self.block is not None and self.missing():
                environment = environment_of(whereabouts_of(self.python))
                return _resolved(_here(), self.block.requirements(), environment, cache)
            roots = self.block.dependencies if self.block is not None else None
            return dependency_layer(self.python, *cache[:2], roots=roots, progress=cache.progress)
        except DependencyError:
            file = find_file(self.project) if self.project is not None and self._is_unreadable() else None
            if file is None:
                raise
            cache.progress(f"the environment cannot be bundled: taking {file.name}")
            return _resolved(_here(), read_file(file), None, cache)

    def names(self) -> frozenset[str] | None:
        """Normalised names of what machines get, as far as a file or the block tells; None: the environment does.

        Raises:
            DependencyError: the file cannot be read, or means nothing.
        """
        if self.given is not None:
            wanted = read_file(self.given)
            return frozenset(map(requirement_name, (*wanted.lines, *wanted.constraints, *wanted.text.splitlines())))
        if self.block is None:
            return None
        named = map(requirement_name, self.block.dependencies)
        try:
            environment = environment_of(whereabouts_of(self.python))
        except DependencyError:
            return frozenset(named)
        from bigm.bundle.closure import needed

        return frozenset(
            [*named, *(one.name for one in needed(environment.distributions, {}, {}, self.block.dependencies))]
        )

    def missing(self) -> list[str]:
        """What the script's block asks for that is not installed here, a requirement and what is there each."""
        if self.block is None:
            return []
        environment = environment_of(whereabouts_of(self.python))
        return unmet(self.block.dependencies, {each.name: each.version for each in environment.distributions}, {})

    def lacking(self) -> str:
        """The same in words, or ""."""
        missing = self.missing()
        if self.block is None or not missing:
            return ""
        return (
            f"{self.block.script} asks for what {self.python} has not; machines that are brought a bundle get it: "
            f"{', '.join(missing)}"
        )

    def layer_for(self, platform: Platform, cache: Cache) -> Dependencies:
        """The layer for machines of another kind.

        Raises:
            NoWheel: some of it does not exist for them.
            DependencyError: it cannot be resolved.
            ConfigError: no interpreter, or no pex.
        """
        wanted, environment = self._wanted(platform)
        for note in wanted.notes:
            cache.progress(note)
        return _resolved(platform, wanted, environment, cache)

    def _wanted(self, platform: Platform) -> tuple[Requirements, Environment | None]:
        """What is to be resolved, and what may be taken from here for it."""
        from bigm.bundle.resolution import of_environment

        if self.given is not None:
            return read_file(self.given), None
        try:
            environment = environment_of(whereabouts_of(self.python))
        except DependencyError:
            file = self.project and (find_lock(self.project) or find_file(self.project))
            if not file:
                raise
            return read_file(file), None
        if self.block is not None:
            if self.missing():
                return self.block.requirements(), environment
            return of_environment(environment, _here(), platform, self.block.dependencies), environment
        lock = find_lock(self.project) if self.project is not None else None
        return (read_lock(lock) if lock else of_environment(environment, _here(), platform)), environment

    def _is_unreadable(self) -> bool:
        """Whether nobody can tell which files its distributions have; else it is for the user to mend."""
        try:
            environment_of(whereabouts_of(self.python))
        except DependencyError:
            return True
        return False


def check_script(script: Path, python: str) -> str:
    """Look at the block of a script that *python* is to run here; returns what the user should know, or "".

    Raises:
        ProgramError: the block means nothing, or it is for other Pythons.
    """
    block = read_block(script)
    if block is None:
        return ""
    same = python == sys.executable
    check_python(block, "{}.{}.{}".format(*sys.version_info) if same else str(examine(python).get("version", "")))
    return Origins(python, block=block).lacking()


def layers_for(names: Sequence[str], origins: Origins, cache: Cache) -> list[tuple[Platform, Dependencies]]:
    """Layers for several kinds of machines, each resolved before anything is started.

    Args:
        names: of platforms, or files that describe them (`bigm.bundle.platforms.parse`).
    Raises:
        ConfigError: as `parse` and `Origins.layer_for` raise it; also when two are for the same kind.
    """
    here = _here()
    found: list[tuple[Platform, Dependencies]] = []
    for name in names:
        platform = parse(name, here.python)
        if platform.python != here.python:
            raise ConfigError(f"{name} is for Python {platform.python}, and this is {here.python}")
        if platform.name in [other.name for other, _ in found]:
            raise ConfigError(f"platform {platform.name} is named twice")
        if platform.name == here.name:
            own = origins.own_layer(cache)
            if not misfits(own, platform):  # else what is installed here is for this very computer
                found.append((platform, own))
                continue
        found.append((platform, origins.layer_for(platform, cache)))
    return found


def _resolved(platform: Platform, wanted: Requirements, environment: Environment | None, cache: Cache) -> Dependencies:
    from bigm.bundle.resolution import platform_layer  # what it needs takes longer to import than a kept layer to find

    return platform_layer(platform, wanted, cache.store, cache.folder, environment=environment, progress=cache.progress)


def _here() -> Platform:
    return of_report(report()).with_any_kernel()
