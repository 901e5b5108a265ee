"""Dependency layers for machines of another platform: resolved by pex from the package index, of wheels alone.

What is the same on all platforms and installed here is taken from here, exactly as it is; the rest comes from wherever
pip's configuration and `PIP_*` say, for nothing can be built for another platform. What has no wheel is named: all of
it, not only what pip met first.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from bigm.bootstrap.report import report
from bigm.bundle import pex, wheels
from bigm.bundle.bundle import Dependencies
from bigm.bundle.closure import needed
from bigm.bundle.conflicts import conflicts, metadata_of
from bigm.bundle.dependencies import our_cloudpickle
from bigm.bundle.environment import DependencyError, Environment, Installed, normal
from bigm.bundle.layers import Layers, Made
from bigm.bundle.platforms import Platform, of_report
from bigm.bundle.requirements import Requirements
from bigm.bundle.whereabouts import ours
from bigm.parts import Parts

# The pip that resolves. pex's own is of 2020, does not run from Python 3.12 on, and passes over conflicts; it is taken
# where this one cannot be had.
PIP = "25.3"
_OWN_PIP = "vendored"

_ALWAYS = "cloudpickle"  # what workers use where it is there
_FORMAT = 1  # of what a key stands for; counted up when the same inputs make another layer
_NAMED = 8  # distributions without a wheel that are looked for: each costs a resolution

_NO_PIP = re.compile(r"satisfies the requirement (?:pip|setuptools|wheel)==")
_NO_WHEEL = re.compile(r"No matching distribution found for ([A-Za-z0-9._-]+)(\S*)")
_NO_VERSION = re.compile(r"satisfies the requirement ([A-Za-z0-9._-]+)(?![^\n]*==)[^\n]*\(from versions: none\)")
_NOT_LOCKED = re.compile(r"No locked artifacts for (\S+) (\S+) in ")
_OFFLINE = re.compile(r"NewConnectionError|NameResolutionError|Max retries exceeded|Temporary failure in name", re.I)


class NoWheel(DependencyError):
    """Distributions have no wheel for a platform. The user may leave them out, or provide wheels."""


def platform_layer(
    platform: Platform,
    wanted: Requirements,
    store: Parts,
    cache: Path,
    *,
    environment: Environment | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Dependencies:
    """A dependency layer for machines of a platform.

    Args:
        platform: what they take.
        wanted: what they are to have; cloudpickle they always have.
        store: where its parts are put.
        cache: bigm's folder of caches (`<home>/cache`).
        environment: what is installed here and may be taken from here.
        progress: told in a few words what takes time.
    Raises:
        NoWheel: some of it does not exist for that platform.
        DependencyError: it cannot be resolved: requirements contradict one another, or the index is out of reach.
        ConfigError: no pex.
    """
    portable = _portable(environment)
    facts = [_FORMAT, PIP, pex.LAYOUT, pex.pex_version(), platform.to_json(), _facts(wanted)]
    facts.append([[str(each), hashlib.sha256(each.read("RECORD")).hexdigest()] for each in portable])
    key = hashlib.sha256(json.dumps(facts).encode("utf-8")).hexdigest()

    def make(work: Path, root: Path) -> Made:
        progress(f"resolving {wanted.origin} for {platform.name} with Python {platform.python}")
        return _made(platform, wanted, portable, work, root)

    layers = Layers(cache, store)
    return layers.layer(
        key, make, waiting=lambda: progress("waiting for another run that resolves the same distributions")
    )


def of_environment(
    environment: Environment, here: Platform, there: Platform, roots: Iterable[str] | None = None
) -> Requirements:
    """What is installed here, for machines of another platform, in the same versions.

    Args:
        environment: what is installed.
        here: its platform.
        there: that of the machines.
        roots: requirements that are to be met with all that follows from them; None: everything.
    """
    found = needed(environment.distributions, here.markers, there.markers, roots)
    described = {each.name: metadata_of(each) for each in environment.distributions}
    unmet = [each for each in conflicts(described, here.markers) if each.installed]
    return Requirements(
        "what is installed here",
        lines=tuple(described[each.name].pinned for each in found if each.name != "pip"),
        overrides=tuple(described[name].pinned for name in sorted({each.name for each in unmet})),
        notes=tuple(map(str, unmet)),
    )


def _made(platform: Platform, wanted: Requirements, portable: Iterable[Installed], work: Path, root: Path) -> Made:
    links = work / "wheels"
    links.mkdir()
    made = {each.name: wheels.repack(each, links) for each in portable}
    (work / "platform.json").write_text(platform.to_json())
    options = [*pex.LAYOUT, "--no-build", "--use-pip-config", "--complete-platform", str(work / "platform.json")]
    missing: dict[str, str] = {}
    unknown: set[str] = set()
    while True:
        try:
            _resolve([*options, *_asking(wanted, missing, made, work)], links, root, work)
        except pex.PexFailed as failure:
            locked = dict(_NOT_LOCKED.findall(failure.said))
            if locked:
                raise _no_wheel({name: f"=={of}" for name, of in locked.items()}, platform) from failure
            name, version = _without_wheel(failure.said)
            unknown.update(map(normal, _NO_VERSION.findall(failure.said)))
            if name and name not in missing and len(missing) < _NAMED:
                missing[name] = version  # and is there more of that kind?
                continue
            raise (
                _no_wheel(missing, platform, unknown) if missing else _explained(failure, platform, wanted)
            ) from failure
        if missing:
            raise _no_wheel(missing, platform, unknown)
        names = tuple(sorted(map(_described, (work / "layer" / ".deps").iterdir())))
        return Made(work / "layer", platform.python, names, wanted.notes)


def _asking(wanted: Requirements, missing: Iterable[str], made: dict[str, Path], work: Path) -> list[str]:
    """The options that say what is to be resolved."""
    if wanted.pylock:
        lock = work / "pylock.toml"
        lock.write_text(wanted.text + _locked(made[_ALWAYS], wanted.text))
        return ["--pylock", str(lock)]
    lines = [each for each in wanted.lines if _name(each) not in missing]
    if not any(_name(each) == _ALWAYS for each in (*lines, *wanted.constraints, *wanted.text.splitlines())):
        lines.append(_ALWAYS + (f"=={made[_ALWAYS].name.split('-')[1]}" if _ALWAYS in made else ""))
    (work / "requirements.txt").write_text("\n".join(lines))
    options = ["-r", str(work / "requirements.txt"), *(f"--exclude={name}" for name in missing)]
    options += [option for file in wanted.files for option in ("-r", file)]
    options += [f"--override={each}" for each in wanted.overrides]
    if wanted.constraints:
        (work / "constraints.txt").write_text("\n".join(wanted.constraints))
        options += ["--constraints", str(work / "constraints.txt")]
    return options


def _resolve(options: list[str], links: Path, root: Path, work: Path) -> None:
    """Run pex, with another pip where the better one cannot be had."""
    arguments = [*options, "--find-links", str(links)]
    try:
        pex.run_pex([*arguments, "--pip-version", PIP], work / "layer", root=root, work=work / "run", index=True)
    except pex.PexFailed as failure:
        if not _NO_PIP.search(failure.said) or sys.version_info >= (3, 12):
            raise
        shutil.rmtree(work / "layer", ignore_errors=True)
        pex.run_pex([*arguments, "--pip-version", _OWN_PIP], work / "layer", root=root, work=work / "run", index=True)


def _locked(wheel: Path, lock: str) -> str:
    """What is added to a lock that has no cloudpickle."""
    if re.search(rf'(?m)^name = "{_ALWAYS}"', lock):
        return ""
    name, version = wheel.name.split("-")[:2]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return (
        f'\n[[packages]]\nname = "{name}"\nversion = "{version}"\n'
        f'[[packages.wheels]]\nname = "{wheel.name}"\npath = "wheels/{wheel.name}"\nhashes = {{sha256 = "{digest}"}}\n'
    )


def _without_wheel(said: str) -> tuple[str, str]:
    """Name and version of the distribution that pip did not find, or ""."""
    found = None if _OFFLINE.search(said) else _NO_WHEEL.search(said)
    return (normal(found[1]), found[2]) if found else ("", "")


def _no_wheel(missing: dict[str, str], platform: Platform, unknown: Collection[str] = ()) -> NoWheel:
    """What is said of distributions, some of which have no version at all, as far as pip can tell."""
    names = sorted(name for name in missing if name in unknown)
    doubt = ""
    if names:
        right = "is the name right?" if len(names) == 1 else "are the names right?"
        doubt = f"no version of {', '.join(names)} was found on the index: {right}"
        missing = {name: version for name, version in missing.items() if name not in unknown}
        if not missing:
            wheels_of = f"only wheels are taken, for {platform.name} with Python {platform.python}"
            return NoWheel(doubt, hint=f"if so, there are perhaps no wheels: {wheels_of}")
        doubt = f"; {doubt}"
    listed = ", ".join(f"{name}{version}" for name, version in sorted(missing.items()))
    one = len(missing) == 1
    more = "; there may be more" if len(missing) == _NAMED else ""
    them = "it" if one else "them"
    hint = (
        f"only wheels are taken: build {them} on such a machine (pip wheel) and name the "
        "folder in PIP_FIND_LINKS, take other versions, or run the driver on such a machine"
    )
    if platform == of_report(report()).with_any_kernel():
        hint = f"take other versions, or install {them} in this environment, where {them} would be taken from"
    return NoWheel(
        f"{listed} {'has' if one else 'have'} no wheel for {platform.name} with Python {platform.python}{more}{doubt}",
        hint=hint,
    )


def _explained(failure: pex.PexFailed, platform: Platform, wanted: Requirements) -> DependencyError:
    what = f"{wanted.origin} for {platform.name} with Python {platform.python}"
    if _OFFLINE.search(failure.said):
        return DependencyError(
            f"cannot resolve {what}: the package index is out of reach",
            hint="see PIP_INDEX_URL and the network, or name a folder with the wheels in PIP_FIND_LINKS",
        )
    return DependencyError(f"cannot resolve {what}: {failure.message}", hint=failure.hint)


def _facts(wanted: Requirements) -> list[object]:
    """What a layer depends on, whatever the files are called."""
    return [wanted.lines, wanted.constraints, wanted.overrides, bool(wanted.pylock), wanted.text, wanted.notes]


def _portable(environment: Environment | None) -> list[Installed]:
    """What need not come from the index."""
    empty = Environment(ours(), ())
    environment = environment or empty
    found = [*environment.distributions, *our_cloudpickle(environment)]
    return [each for each in found if each.name != "pip" and wheels.is_portable(each)]


def _name(requirement: str) -> str:
    return normal(re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0])


def _described(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{normal(name)} {version}"
