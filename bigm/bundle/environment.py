"""The distributions of an environment: which there are, and whether their files are still those that were installed.

Two questions, since they cost differently. *Which* is a folder's listing and the RECORD of each distribution, a hundred
of them in 5 ms: asked by every run. *Whether* needs the content of every file: asked when an environment is new, or
when the size or time of one of its modules is no longer what it was (`state_of`).

Source: PEP 376 and 427, and the PyPA specification "Recording installed projects".
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from bigm.bundle.whereabouts import Whereabouts
from bigm.errors import ConfigError

# Ends of what carries out a program, and of what is said about distributions. That a data file was changed in place is
# seen when the environment is read anew: to look at all of them would take twice as long.
_WATCHED = (".py", ".so", ".pth", ".dist-info/METADATA", ".dist-info/WHEEL", ".dist-info/entry_points.txt")

_NAMED = 10  # files or distributions that a message names


class DependencyError(ConfigError):
    """What the program depends on cannot be bundled as it is. The user's environment or requirements; says which."""


class Installed(NamedTuple):
    """One distribution of an environment.

    Args:
        name: normalised, as of PEP 503.
        version: as its folder has it.
        folder: its `.dist-info`, absolute.
        in_place: its modules are not here: an editable project, or bigm, which travels by itself. What is said about
            it (version, entry points) does travel.
    """

    name: str
    version: str
    folder: str
    in_place: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def site(self) -> str:
        """The folder that its RECORD is relative to."""
        return os.path.dirname(self.folder)

    def read(self, name: str) -> bytes:
        """A file of its `.dist-info`; empty when it has none of that name."""
        try:
            with open(os.path.join(self.folder, name), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return b""

    def files(self) -> Iterator[tuple[str, str]]:
        """Path, relative to `site`, and hash of each recorded file, "" where none is; without bytecode."""
        for row in csv.reader(self.read("RECORD").decode("utf-8", "surrogateescape").splitlines()):
            if row and not row[0].endswith(".pyc"):
                yield row[0], row[1] if len(row) > 1 else ""


class Patched(NamedTuple):
    """A file that is not what its distribution's RECORD says.

    Args:
        distribution: whose it is.
        path: relative to the distribution's site-packages.
        digest: sha256 of what is there now, hexadecimal; "" when it is missing.
        recorded: RECORD has a hash of it. Without one nobody can tell whether it was changed.
    """

    distribution: str
    path: str
    digest: str
    recorded: bool


@dataclass(frozen=True)
class Environment:
    """What is installed for one interpreter.

    Args:
        of: the interpreter.
        distributions: sorted by name; the first of a name on `sys.path` counts.
        notes: what the user should know.
    """

    of: Whereabouts
    distributions: tuple[Installed, ...]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 of names, versions and RECORDs, hexadecimal."""
        facts = [(each.name, each.version, *_identity(each)) for each in self.distributions]
        return hashlib.sha256(repr(facts).encode("utf-8")).hexdigest()

    def with_further(self, distributions: Iterable[Installed]) -> Environment:
        """The same, with some from elsewhere."""
        return replace(self, distributions=tuple(sorted([*self.distributions, *distributions])))

    def watched(self) -> list[str]:
        """What `state_of` takes: the modules of all distributions, and the folders, which change with what is added."""
        return [
            *self.of.site,
            *(
                os.path.join(each.site, path)
                for each in self.distributions
                if not each.in_place
                for path, _ in each.files()
                if path.endswith(_WATCHED)
            ),
        ]

    def patched(self) -> list[Patched]:
        """Read every file and compare it with its distribution's RECORD."""
        return [found for each in self.distributions if not each.in_place for found in _patches(each)]


def environment_of(of: Whereabouts) -> Environment:
    """The distributions that are installed for an interpreter.

    Raises:
        DependencyError: some are not recorded as PEP 376 wants it, so that nobody knows which files are theirs.
    """
    found: dict[str, Installed] = {}
    unrecorded: list[str] = []
    notes: list[str] = []
    for site in of.site:
        for entry in sorted(os.listdir(site), reverse=True):
            suffix = os.path.splitext(entry)[1]
            if suffix not in (".dist-info", ".egg-info", ".egg") or entry.startswith("~"):
                continue  # pip leaves "~umpy-2.0.dist-info" behind where it could not remove
            each = installed(os.path.join(site, entry))
            if each.name in found:
                if found[each.name].site == site and suffix == ".dist-info":
                    notes.append(
                        f"{found[each.name]} and {each.version} are both installed in {site}: the first counts"
                    )
            elif suffix != ".dist-info" or not each.read("RECORD"):
                unrecorded.append(str(each))
            else:
                found[each.name] = each
    unrecorded = [text for text in unrecorded if text.partition(" ")[0] not in ("pip", "bigm")]
    if unrecorded:
        raise DependencyError(
            f"{len(unrecorded)} distributions of {of.prefix} have no RECORD of their files and cannot be bundled: "
            f"{some(unrecorded)}",
            hint="install them with pip or uv into a virtual environment: python -m venv .venv",
        )
    return Environment(of, tuple(found[name] for name in sorted(found)), tuple(notes))


def installed(folder: str) -> Installed:
    """The distribution that a `.dist-info` or `.egg-info` describes."""
    name, _, version = os.path.splitext(os.path.basename(folder))[0].partition("-")
    each = Installed(normal(name), version, folder)
    return each._replace(in_place=each.name == "bigm" or _is_editable(each.read("direct_url.json")))


def state_of(paths: Iterable[str]) -> str:
    """sha256 of size and time of each of *paths*: when it has changed, one of them may have another content."""
    state = hashlib.sha256()
    for path in paths:
        try:
            found = os.stat(path)
            state.update(b"%d %d\n" % (found.st_size, found.st_mtime_ns))
        except OSError:
            state.update(b"-\n")
    return state.hexdigest()


def some(names: Iterable[str]) -> str:
    """The first of *names*, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


def normal(name: str) -> str:
    """A distribution's name in the one form of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_editable(direct_url: bytes) -> bool:
    try:
        return bool(direct_url) and bool(json.loads(direct_url).get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        return False


def _identity(each: Installed) -> tuple[str, ...]:
    """What tells a distribution from another of the same name and version."""
    names = ("METADATA", "entry_points.txt") if each.in_place else ("RECORD",)
    return tuple(hashlib.sha256(each.read(name)).hexdigest() for name in names)


def _patches(each: Installed) -> Iterator[Patched]:
    own = os.path.basename(each.folder) + "/"
    commands = set(re.findall(r"(?m)^([^\s=\[]+) *=", each.read("entry_points.txt").decode("utf-8", "replace")))
    for path, recorded in each.files():
        if path.startswith(own) and not recorded:
            continue  # RECORD itself, and what installers note beside it
        if path.startswith("../") and os.path.basename(path) in commands:
            continue  # made anew for each environment, and changed when one is moved
        digest = _matches(os.path.join(each.site, path), recorded)
        if digest is not None:
            yield Patched(each.name, path, digest, bool(recorded))


def _matches(path: str, recorded: str) -> str | None:
    """None when a file has the hash that is recorded; else its sha256, "" when there is no file."""
    algorithm, _, wanted = recorded.partition("=")
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return ""
    if recorded and algorithm in hashlib.algorithms_available:
        found = hashlib.new(algorithm, content, usedforsecurity=False).digest()
        if base64.urlsafe_b64encode(found).rstrip(b"=") == wanted.rstrip("=").encode("ascii", "replace"):
            return None
    return hashlib.sha256(content).hexdigest()
