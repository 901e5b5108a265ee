"""The dependency layer: what the program's environment has installed, as a packed pex, made once and kept.

The key says what the layer holds: names, versions and RECORDs of the distributions, the content of files that are not
as RECORD has them, interpreter, platform, pex and its options. A run whose key is known reads no file's content and
starts no pex.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from bigm.bootstrap.report import examine
from bigm.bundle import pex
from bigm.bundle.bundle import Dependencies
from bigm.bundle.environment import (
    DependencyError,
    Environment,
    Installed,
    Patched,
    environment_of,
    installed,
    some,
    state_of,
)
from bigm.bundle.facade import make_facade
from bigm.bundle.layers import PATCHED, Layers, Made, Seen
from bigm.bundle.whereabouts import Whereabouts, whereabouts_of
from bigm.parts import Parts

_FORMAT = 1  # of what a key stands for; counted up when the same inputs make another layer
_ALWAYS = "cloudpickle"  # what workers use where it is there


def _silent(text: str) -> None:
    pass


def dependency_layer(
    python: str,
    store: Parts,
    cache: Path,
    *,
    roots: Sequence[str] | None = None,
    progress: Callable[[str], None] = _silent,
) -> Dependencies:
    """The distributions that are installed for an interpreter, as the dependency layer of a bundle.

    All of them but pip, exactly as they are installed. Of editable projects and of bigm, whose modules travel
    otherwise, what is said about them (version, entry points).

    Args:
        python: absolute path of the interpreter, which need not be in a virtual environment.
        store: where its parts are put.
        cache: bigm's folder of caches (`<home>/cache`).
        roots: requirements, all of them met: what they lead to travels, and cloudpickle; None: everything.
        progress: told in a few words what takes time.
    Raises:
        DependencyError: the environment cannot be bundled, or pex failed; nothing is left half made.
        ConfigError: no interpreter, or no pex.
    """
    environment = environment_of(whereabouts_of(python))
    everything = environment = environment.with_further(our_cloudpickle(environment))
    if roots is not None:
        from bigm.bundle.closure import needed

        markers = _markers(environment.of)
        found = needed(environment.distributions, markers, markers, [*roots, _ALWAYS])
        environment = replace(environment, distributions=tuple(found))
    layers = Layers(cache, store)
    base = _digest(
        _FORMAT, pex.LAYOUT, pex.pex_version(), environment.of.tag, environment.of.platform, environment.digest
    )
    place = _digest(base, environment.of.site)
    seen = layers.seen(place)
    patched: list[Patched] | None = None
    if not seen.key or state_of(seen.paths) != seen.state:
        progress(f"reading the files of {len(environment.distributions)} distributions")
        paths = tuple(environment.watched())
        state = state_of(paths)  # before they are read: what changes meanwhile is read again next time
        patched = environment.patched()
        seen = Seen(state, _digest(base, patched), tuple(_unowned_notes(everything)), paths)
        layers.see(place, seen)

    def make(work: Path, root: Path) -> Made:
        progress(f"bundling {len(environment.distributions)} distributions with pex")
        return _made(environment, environment.patched() if patched is None else patched, work, root)

    layer = layers.layer(
        seen.key, make, waiting=lambda: progress("waiting for another run that bundles the same distributions")
    )
    return replace(layer, notes=(*layer.notes, *environment.notes, *seen.notes))


def _digest(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode("ascii")).hexdigest()


def _made(environment: Environment, patched: Sequence[Patched], work: Path, root: Path) -> Made:
    """Have pex make the layer of an environment."""
    from bigm.bundle.conflicts import conflicts, metadata_of, requires  # `packaging` takes longer than a cached layer

    described = {each.name: metadata_of(each) for each in environment.distributions}
    travelling = [
        each for each in environment.distributions if each.name != "pip" or requires(described.values(), "pip")
    ]
    described = {each.name: described[each.name] for each in travelling}
    _check(environment.of, travelling)
    unmet = list(conflicts(described, _markers(environment.of)))
    pins = [each.pinned for each in described.values()]
    options = [
        f"--override={described[name].pinned}" for name in sorted({each.name for each in unmet if each.installed})
    ]
    options += [f"--exclude={name}" for name in sorted({each.name for each in unmet if not each.installed})]
    facade = make_facade(work / "environment", environment.of, travelling)
    requirements = work / "requirements.txt"
    requirements.write_text("\n".join(pins))
    arguments = [*pex.LAYOUT, *pex.OFFLINE, "--venv-repository", str(facade), *options, "-r", str(requirements)]
    # pex's cache knows a distribution by its RECORD. Where that is not true, the cache has to be another.
    found = [each for each in patched if each.distribution in described]
    if found:
        root = root / PATCHED / _digest(found)[:12]
    pex.run_pex(arguments, work / "layer", root=root, work=work / "run")
    notes = [*map(str, unmet), *_patched_notes(found)]
    return Made(work / "layer", environment.of.version, tuple(map(str, travelling)), tuple(notes))


def _check(of: Whereabouts, travelling: Iterable[Installed]) -> None:
    """Refuse what pex would take and machines could not import."""
    damaged = [str(each) for each in travelling if not each.read("METADATA") or not each.read("WHEEL")]
    if damaged:
        raise DependencyError(
            f"{some(damaged)} in {of.prefix} cannot be bundled: METADATA or WHEEL is missing in its .dist-info",
            hint=f"install it again: {of.python} -m pip install --force-reinstall {damaged[0].partition(' ')[0]}",
        )
    native = [str(each) for each in travelling if of.is_conda and _is_native_of_conda(each)]
    if native:
        raise DependencyError(
            f"{some(native)} come from conda with libraries that lie outside of Python's folders and cannot travel",
            hint="install them from the package index with pip, or run the program in a virtual environment",
        )


def _is_native_of_conda(each: Installed) -> bool:
    return each.read("INSTALLER").strip() == b"conda" and b"Root-Is-Purelib: false" in each.read("WHEEL")


def _markers(of: Whereabouts) -> dict[str, str]:
    """What requirements depend on, where the environment is another interpreter's."""
    if of.python == sys.executable:
        return {}
    markers = examine(of.python).get("markers", {})
    return {str(name): str(value) for name, value in markers.items()} if isinstance(markers, dict) else {}


def _patched_notes(patched: Iterable[Patched]) -> list[str]:
    changed: dict[str, list[str]] = {}
    for each in patched:
        if each.recorded:
            changed.setdefault(each.distribution, []).append(each.path if each.digest else f"{each.path} (missing)")
    return [f"{name} was changed in place: {some(paths)}; so it travels" for name, paths in changed.items()]


def _unowned_notes(environment: Environment) -> list[str]:
    """Modules that lie in site-packages and are no distribution's: nobody can tell what else belongs to them."""
    notes = []
    for site in environment.of.site:
        owned = {path.partition("/")[0] for each in environment.distributions for path, _ in each.files()}
        names = [
            name for name in sorted(os.listdir(site)) if name not in owned and _is_module(os.path.join(site, name))
        ]
        if names:
            notes.append(f"not bundled, since no distribution has them: {some(names)} in {site}")
    return notes


def _is_module(path: str) -> bool:
    name = os.path.basename(path)
    if name.startswith(("_", "~")):
        return False  # what tools put there: __pycache__, __editable___x_finder.py, _virtualenv.py
    return name.endswith((".py", ".so")) or (name.isidentifier() and os.path.isdir(path))


def our_cloudpickle(environment: Environment) -> list[Installed]:
    """The driver's own, where the environment has none."""
    if any(each.name == _ALWAYS for each in environment.distributions):
        return []
    spec = importlib.util.find_spec(_ALWAYS)
    folders = spec.submodule_search_locations if spec else None
    return [
        installed(str(path)) for folder in folders or () for path in Path(folder).parent.glob(f"{_ALWAYS}-*.dist-info")
    ]
