"""What machines there are, as far as wheels are concerned: markers and tags, told by an interpreter or by a name.

A platform goes to pex as a "complete platform": the abbreviated ones that pex takes as well make it choose older
versions, or compile, without saying so. What an interpreter says of itself comes from `bigm.bootstrap.report`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bigm.bootstrap import report
from bigm.bundle.bundle import Dependencies
from bigm.errors import ConfigError

# What machines have that only their platform's name is known of: old enough for those in use, new enough for wheels
# that are published today. glibc 2.28 is of 2018 (Debian 10, RHEL 8), musl 1.2 of 2020, macOS 13 of 2022.
_GLIBC, _MUSL, _MACOS = (2, 28), (1, 2), (13, 0)

_OF_KERNELS = ("platform_release", "platform_version")  # markers; pex says when a requirement asks for them
_NAME = re.compile(r"(linux|musllinux|macosx)(?:-(\d+)\.(\d+))?-(x86_64|aarch64|arm64)")
NAMES = ("linux-x86_64", "linux-aarch64", "musllinux-x86_64", "musllinux-aarch64", "macosx-arm64", "macosx-x86_64")


@dataclass(frozen=True)
class Platform:
    """A kind of machine with one minor version of Python.

    Args:
        name: "linux-x86_64", as in `Bundle.dependencies`.
        python: minor version, "3.11".
        markers: environment markers of PEP 508; those that are not known are left out.
        tags: of the wheels it takes, best first.
    """

    name: str
    python: str
    markers: Mapping[str, str]
    tags: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Platform {self.name}, Python {self.python}, {len(self.tags)} tags>"

    def to_json(self) -> str:
        """What pex reads as `--complete-platform`."""
        return json.dumps({"marker_environment": dict(self.markers), "compatible_tags": self.tags}, indent=1)

    def with_any_kernel(self) -> Platform:
        """The same without what differs from one computer to the next, so that all of a kind have one layer."""
        kept = {name: value for name, value in self.markers.items() if name not in _OF_KERNELS}
        return replace(self, markers=kept)

    def takes(self, wheel: str) -> bool:
        """Whether it takes the wheel of that file name.

        A wheel that was built on one computer ("linux_x86_64") does not tell what libc it needs; it counts as taken.
        """
        tags = _tags_of(wheel)
        return any(tag in self.tags for tag in tags)


def of_report(found: Mapping[str, object]) -> Platform:
    """The platform that an interpreter reported (`bigm.bootstrap.report`)."""
    markers, abis, platforms = found["markers"], found["abis"], found["platforms"]
    assert isinstance(markers, Mapping)
    assert isinstance(abis, (list, tuple))
    assert isinstance(platforms, (list, tuple))
    python = str(markers["python_version"])
    return Platform(str(found["platform"]), python, dict(markers), _tags(python, abis, platforms))


def named(name: str, python: str) -> Platform:
    """The platform of a name.

    Args:
        name: one of `NAMES`, or with the version of glibc, musl or macOS that machines have at least, as in
            "linux-2.17-x86_64", "musllinux-1.1-aarch64", "macosx-11.0-arm64".
        python: minor version, "3.11".
    Raises:
        ConfigError: there is no such platform.
    """
    match = _NAME.fullmatch(name)
    if match is None or f"{match[1]}-{match[4]}" not in NAMES:
        raise ConfigError(
            f"there is no platform called {name!r}", hint=f"known: {', '.join(NAMES)}; or the file of another"
        )
    system, machine = match[1], match[4]
    version = (int(match[2]), int(match[3])) if match[2] else None
    if system == "macosx":
        platforms = report.mac_platforms(version or _MACOS, machine)
    elif system == "linux":
        platforms = report.linux_platforms(machine, glibc=version or _GLIBC)
    else:
        platforms = report.linux_platforms(machine, musl=version or _MUSL)
    abi = "cp" + python.replace(".", "")
    return Platform(f"{system}-{machine}", python, _markers(system, machine, python), _tags(python, [abi], platforms))


def from_file(path: Path) -> Platform:
    """The platform in a file, as `pex3 interpreter inspect --markers --tags` and `Platform.to_json` write it.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    try:
        found = json.loads(path.read_text())
        markers = {str(name): str(value) for name, value in found["marker_environment"].items()}
        tags = tuple(found["compatible_tags"])
        return Platform(_name_of(tags), markers["python_version"], markers, tags)
    except OSError as error:
        raise ConfigError(f"platform {str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ConfigError(
            f"{path} describes no platform: {type(error).__name__}: {error}",
            hint="write it on such a machine: pex3 interpreter inspect --markers --tags",
        ) from error


def parse(text: str, python: str) -> Platform:
    """The platform that a user means: a name, or the path of a file that describes it.

    Raises:
        ConfigError: it is neither.
    """
    if text.endswith(".json") or "/" in text:
        return from_file(Path(text))
    return named(text, python)


def misfits(layer: Dependencies, platform: Platform) -> list[str]:
    """The wheels in a layer that machines of a platform do not take, by file name, sorted."""
    folders = (file.path.split("/") for file in layer.manifest.files)
    wheels = {steps[1] for steps in folders if steps[0] == ".deps" and steps[1].endswith(".whl")}
    return sorted(wheel for wheel in wheels if not platform.takes(wheel))


def _tags(python: str, abis: Iterable[str], platforms: Iterable[str]) -> tuple[str, ...]:
    """All tags of an interpreter, best first: PEP 425, in the order of `packaging.tags`."""
    major, minor = (int(part) for part in python.split("."))
    abis, platforms = list(abis), list(platforms)
    mine = f"cp{major}{minor}"
    free = any(re.fullmatch(r"cp\d+td?", abi) for abi in abis)
    stable = [] if free else ["abi3"]  # a Python without the GIL takes no such wheel
    found = [f"{mine}-{abi}-{place}" for abi in [*abis, *stable, "none"] for place in platforms]
    found += [f"cp{major}{m}-{abi}-{place}" for m in range(minor - 1, 1, -1) for abi in stable for place in platforms]
    versions = [f"py{major}{minor}", f"py{major}", *(f"py{major}{m}" for m in range(minor - 1, -1, -1))]
    found += [f"{version}-none-{place}" for version in versions for place in platforms]
    return (*found, f"{mine}-none-any", *(f"{version}-none-any" for version in versions))


def _markers(system: str, machine: str, python: str) -> dict[str, str]:
    """What is known of a platform by its name. pex says which of the others a requirement asks for."""
    mac = system == "macosx"
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Darwin" if mac else "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "darwin" if mac else "linux",
    }


def _name_of(tags: Iterable[str]) -> str:
    """The name of the platform that takes these wheels; StopIteration when none is for a known one."""
    places = (tag.split("-")[2] for tag in tags)
    found = (
        re.fullmatch(r"(many|musl|)(linux|macosx).*?_(x86_64|aarch64|arm64|i686|ppc64le|s390x)", p) for p in places
    )
    kind, system, machine = next(match.groups() for match in found if match)
    return f"{'musl' if kind == 'musl' else ''}{system}-{machine}"


def _tags_of(wheel: str) -> list[str]:
    """Tags of a wheel, from its file's name."""
    pythons, abis, places = wheel[: -len(".whl")].split("-")[-3:]
    return [f"{p}-{a}-{place}" for p in pythons.split(".") for a in abis.split(".") for place in places.split(".")]
