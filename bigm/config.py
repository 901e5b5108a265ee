"""Settings: where each comes from, and what it must look like. Not where they are used.

Precedence, highest first: arguments of `bigm.start` > flags of `bigm run` > `BIGM_*` variables > `bigm.yaml` of the
project > `config.yaml` of the user > defaults. A key is a field of `Settings`, of `timeouts.Timeouts` (section
`timeouts`) or of a system's own `Options` (section named after the system), and its `metadata["what"]` is its help.

This module lies on every program's path, and a schema library does not pay there: msgspec, the quickest to import,
costs 13 ms of CPU beside the 22 ms of a bare interpreter (attrs 15, pydantic 110), and its messages would have to be
rewritten to name file, line and nearest key. So one table of kinds does the reading, and yaml is imported only when
there is a file. Files are read as text, like variables: `off` is the word, whatever YAML thinks of it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bigm.errors import ConfigError
from bigm.home import home_folder
from bigm.timeouts import Timeouts

if TYPE_CHECKING:
    import yaml

PROJECT_FILE = "bigm.yaml"
USER_FILE = "config.yaml"
FLAGS_VARIABLE = "BIGM_FLAGS"
DEFAULT = "default"

# Of commands, that are not named as what they set.
_OPTIONS = {
    "bundle.rehearse": "--bundle",
    "bundle.requirements": "--requirements",
    "ssh.hosts": "--hosts",
    "timeouts.lifetime": "--max-lifetime",
    "ec2.regions": "--region",
}

# What bigm itself passes through the environment, and is no setting.
_NOT_SETTINGS = {FLAGS_VARIABLE, "BIGM_HOME", "BIGM_PROFILE", "BIGM_MACHINE"}


class Kind(NamedTuple):
    """How one kind of value is read: what a message calls it, and the reader, which raises ValueError."""

    words: str
    read: Callable[[object], object]
    unit: str = ""


def _whole(least: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        number = int(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else least - 1
        if number < least:
            raise ValueError
        return number

    return read


def _text(value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError
    return os.fspath(value)


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError


def _list(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, Sequence):
        return tuple(_text(item) for item in value)
    raise ValueError


def _choice(*words: str) -> Kind:
    def read(value: object) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return Kind(" or ".join((", ".join(words[:-1]), words[-1])), read)


_SECONDS = {"": 1, "s": 1, "ms": 1e-3, "min": 60, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 1e3, "mb": 1e6, "gb": 1e9}


def _quantity(units: Mapping[str, float]) -> Callable[[object], float]:
    def read(value: object) -> float:
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)\s*([a-z]*)", str(value).strip().lower())
        if match is None or isinstance(value, bool) or match[2] not in units:
            raise ValueError
        return float(match[1]) * units[match[2]]

    return read


def _procs(value: object) -> int | str:
    return "all" if value == "all" else _whole(1)(value)


def _amount(value: object) -> float:
    amount = float(str(value).strip().removeprefix("$"))
    if isinstance(value, bool) or not 0 < amount < float("inf"):
        raise ValueError
    return amount


TEXT = Kind("text", _text)
TRUTH = Kind("true or false", _truth)
WHOLE = Kind("a whole number", _whole(-(2**63)))
COUNT = Kind("a whole number from 1", _whole(1))
SECONDS = Kind('seconds, as in 90, "90 s", "10 min" or "24 h"', _quantity(_SECONDS), "seconds")
BYTES = Kind('bytes, as in 1048576 or "64 MiB"', lambda value: int(_quantity(_BYTES)(value)), "bytes")
DOLLARS = Kind("US dollars, as in 5 or 0.50", _amount, "US dollars")
LIST = Kind("a list of texts", _list)
PROCS = Kind('a whole number from 1, or "all"', _procs)
OUTPUTS = _choice("stderr", "stdout", "off")
VERBOSITIES = _choice("quiet", "normal", "verbose")

_BY_TYPE: dict[type, Kind] = {str: TEXT, bool: TRUTH, int: WHOLE, float: SECONDS, tuple: LIST}


def _key(default: Any, kind: Kind, what: str) -> Any:
    return field(default=default, metadata={"kind": kind, "what": what})


@dataclass(frozen=True)
class Bundling:
    """The section `bundle`: what travels to machines, and what is kept there. Its fields are keys."""

    rehearse: bool = _key(
        False, TRUTH, "machines on this computer run a bundle, as those elsewhere do, not the driver's own environment"
    )
    include: tuple[str, ...] = _key(
        (), LIST, "patterns, as in a .gitignore, of files that travel though they would be left out"
    )
    exclude: tuple[str, ...] = _key((), LIST, "patterns of files that stay here, besides those in .bigmignore")
    limit: int = _key(2**30, BYTES, "the program's files may be this much in all, and are refused beyond")
    store: str = _key(
        "~/.cache/bigm", TEXT, "folder on machines where parts are kept for later runs; another where it cannot be used"
    )
    keep: int = _key(10 * 2**30, BYTES, "what is kept there and used by nobody is removed beyond this")
    requirements: str = _key(
        "",
        TEXT,
        "file that says which distributions machines get: a requirements.txt, a lock, a pyproject.toml; empty: the "
        "script's own block, else what is installed",
    )
    mirror: str = _key(
        "",
        TEXT,
        "where interpreters are fetched that are sent: a release of python-build-standalone, or one archive of it with "
        "#sha256= behind its address; empty: the project's own",
    )


@dataclass(frozen=True)
class Settings:
    """What one cluster runs with, each value checked. The fields that are keys say what they mean.

    Args:
        bundle: what travels to machines.
        timeouts: every limit in time.
        systems: the given options of each system, checked against its `Options`.
        home: bigm's folder of this user (`BIGM_HOME`), absolute.
        profile: the chosen profile, or "".
        origins: where each value that is no default comes from, by dotted key.
    """

    system: str = _key("local", TEXT, "where machines come from: the name of a system")
    nmach: int | None = _key(
        None, COUNT, "machines to start where the program does not say; without it the program decides"
    )
    min_mach: int | None = _key(
        None,
        COUNT,
        "a start that launches fewer machines than this ends them and fails; without it one is enough, and it is said",
    )
    procs: int | Literal["all"] = _key(
        1, PROCS, 'workers on each machine where the program does not say; "all": one for each CPU the machine may use'
    )
    max_cost: float | None = _key(
        None, DOLLARS, "at this estimated cost the run's machines are ended; at four fifths of it there is a warning"
    )
    python: str = _key(
        "",
        TEXT,
        "the Python of workers that run a bundle: a version, an absolute path on machines, or `bundled`: one is sent; "
        "empty: one that is there, of the driver's minor version",
    )
    name: str = _key("", TEXT, "the cluster's name in messages and labels; empty: the program's")
    machine_output: Literal["stderr", "stdout", "off"] = _key(
        "stderr", OUTPUTS, "where the machines' output is shown; the run's folder keeps it in any case"
    )
    verbosity: Literal["quiet", "normal", "verbose"] = _key(
        "normal", VERBOSITIES, "how much bigm itself says on standard error"
    )
    keep_runs: int = _key(100, COUNT, "ended runs whose folders are kept; older ones are removed when a run ends")
    log_ring: int = _key(
        64 * 2**20,
        BYTES,
        "output a machine keeps for a driver that is slow or away; what it has to drop is counted and said",
    )
    bundle: Bundling = field(default_factory=Bundling)
    timeouts: Timeouts = field(default_factory=Timeouts)
    systems: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    home: Path = field(default_factory=Path)
    profile: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)

    def origin(self, key: str) -> str:
        """Where the value of *key* ("nmach", "timeouts.setup") comes from: flag, variable, file and line, "default"."""
        return self.origins.get(key, DEFAULT)

    @property
    def runs_folder(self) -> Path:
        """Where runs leave their folders."""
        return self.home / "runs"


class Key(NamedTuple):
    """One setting that can be given, for documents and completion. `name` is dotted; `what` says what it is."""

    name: str
    kind: Kind
    default: object
    what: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "BIGM_" + self.name.upper().replace(".", "_").replace("-", "_")


class _Given(NamedTuple):
    """One value as a source gave it, and where."""

    key: str
    value: object
    origin: str

    @property
    def subject(self) -> str:
        """How a message begins that is about this value: a file's line does not name the key, the others do."""
        return f"{self.origin}: {self.key}" if ":" in self.origin else self.origin


def load(
    overrides: Mapping[str, object] | None = None, *, environ: Mapping[str, str] = os.environ, cwd: str | None = None
) -> Settings:
    """Gather the settings from all their sources.

    Args:
        overrides: what the program itself asks for, by dotted key; None counts as not given.
        environ: where `BIGM_*`, `BIGM_FLAGS`, `BIGM_PROFILE` and `BIGM_HOME` are looked up.
        cwd: where the search for `bigm.yaml` starts, going upwards; None: the working folder.
    Raises:
        ConfigError: an unknown key, profile or bad value, with its source, or an unreadable file.
    """
    flags = _flags(environ)
    profile = str(flags.pop("profile", None) or environ.get("BIGM_PROFILE", ""))
    home = home_folder(environ)
    files = [_read_file(path) for path in (project_file(cwd), home / USER_FILE) if path is not None]
    if profile:
        _check_profile(profile, files)
    given = [_Given(name, value, f"argument {name}") for name, value in (overrides or {}).items()]
    given += [_Given(name, value, _OPTIONS.get(name, f"--{name.replace('_', '-')}")) for name, value in flags.items()]
    rest = [item for file in files for item in file.of_profile(profile)]
    system = next(
        (str(g.value) for g in given if g.key == "system" and g.value is not None), environ.get("BIGM_SYSTEM")
    )
    keys = _Keys(system or next((str(g.value) for g in rest if g.key == "system"), Settings.system))
    return _settings([*given, *_variables(environ, keys), *rest], keys, home, profile)


def project_file(cwd: str | None = None) -> Path | None:
    """The nearest `bigm.yaml` from *cwd* upwards, or None."""
    try:
        folder = Path(cwd).absolute() if cwd is not None else Path.cwd()
    except FileNotFoundError:
        return None  # the working folder was removed
    for candidate in (folder, *folder.parents):
        path = candidate / PROJECT_FILE
        if path.is_file():
            return path
    return None


def keys_of(record: type, prefix: str = "") -> list[Key]:
    """The keys that a record of settings declares: its fields with `metadata["what"]`, which tells their meaning.

    Their kind is `metadata["kind"]`, else it follows from the default; numbers with a point are seconds.
    """
    return [
        Key(
            prefix + item.name,
            item.metadata.get("kind") or _BY_TYPE[type(item.default)],
            item.default,
            item.metadata["what"],
        )
        for item in dataclasses.fields(record)
        if "what" in item.metadata
    ]


def general_keys() -> list[Key]:
    """The keys that do not belong to one system, in the order they are documented."""
    return [*keys_of(Settings), *keys_of(Bundling, "bundle."), *keys_of(Timeouts, "timeouts.")]


def system_keys() -> list[Key]:
    """The keys of every system there is. Imports them all."""
    from bigm.systems.base import find_system, system_names

    found = []
    for name in system_names():
        options = getattr(find_system(name), "Options", None)
        found += keys_of(options, f"{name}.") if options is not None else []
    return found


def nearest(word: str, known: Sequence[str] | Mapping[str, str], likeness: float = 0.6) -> str:
    """The sentence that names what *word* was probably meant to be, or "" when nothing known is that like it.

    Args:
        word: what was written.
        known: what could have been, or for each of these what the sentence calls it.
        likeness: from 0 to 1.
    """
    import difflib  # only a mistake pays for it

    names = known if isinstance(known, Mapping) else dict(zip(known, known, strict=True))
    matches = difflib.get_close_matches(word, list(names), n=1, cutoff=likeness)
    return f"did you mean {names[matches[0]]!r}?" if matches else ""


class _Keys:
    """What keys there are. A system's own are looked up only when something names them: that imports the system."""

    def __init__(self, system: str) -> None:
        self.system = system
        self.by_name = {key.name: key for key in general_keys()}
        self._sections: set[str] = set()

    def find(self, name: str) -> Key | None:
        if name not in self.by_name and "." in name:
            self.add_section(name.partition(".")[0])
        return self.by_name.get(name)

    def add_section(self, system: str) -> bool:
        """Take in the options of *system*; False when there is no system of that name."""
        from bigm.systems.base import find_system

        if system not in self._sections:
            try:
                options = getattr(find_system(system), "Options", None)
            except ConfigError:
                return False
            self._sections.add(system)
            if options is not None:
                self.by_name.update({key.name: key for key in keys_of(options, system + ".")})
        return True


def _settings(given: Sequence[_Given], keys: _Keys, home: Path, profile: str) -> Settings:
    """Check every value, also those that another source overrides, and keep the first of each key."""
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for item in given:
        key = keys.find(item.key)
        if key is None:
            raise _unknown(item, keys)
        if item.value is None:
            continue
        try:
            value = key.kind.read(item.value)
        except (ValueError, TypeError, OverflowError):
            raise ConfigError(f"{item.subject} must be {key.kind.words}, not {item.value!r}") from None
        if key.name not in values:
            values[key.name], origins[key.name] = value, item.origin
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, option = name.rpartition(".")
        sections.setdefault(section, {})[option] = value
    return Settings(
        **sections.pop("", {}),
        bundle=Bundling(**sections.pop("bundle", {})),
        timeouts=Timeouts(**sections.pop("timeouts", {})),
        systems=sections,
        home=home,
        profile=profile,
        origins=origins,
    )


def _unknown(item: _Given, keys: _Keys) -> ConfigError:
    hint = _in_sections(item.key, keys) or nearest(item.key, list(keys.by_name))
    return ConfigError(f"{item.origin}: unknown key {item.key!r}", hint=hint)


def _in_sections(name: str, keys: _Keys) -> str:
    """The sentence that names the sections' keys that end as *name* does; "" where none is."""
    from bigm.systems.base import OWN

    for system in OWN:  # those that are installed besides may be broken: this is about another mistake
        keys.add_section(system)
    last = name.rpartition(".")[2]
    found = [repr(key) for key in keys.by_name if key.rpartition(".")[2] == last]
    return f"did you mean {' or '.join(found)}?" if found else ""


def _flags(environ: Mapping[str, str]) -> dict[str, object]:
    text = environ.get(FLAGS_VARIABLE)
    if not text:
        return {}
    try:
        flags = json.loads(text)
        return {str(name): value for name, value in flags.items() if name not in ("run", "program")}
    except (ValueError, AttributeError):
        raise ConfigError(f"{FLAGS_VARIABLE} is set by `bigm run` alone and is not readable: {text[:60]!r}") from None


def _variables(environ: Mapping[str, str], keys: _Keys) -> Iterator[_Given]:
    """`BIGM_NMACH` and so on. A name that only resembles a setting's is refused; any other is the user's own affair."""
    names = [name for name in environ if name.startswith("BIGM_") and name not in _NOT_SETTINGS]
    if any(name.startswith(f"BIGM_{keys.system.upper()}_") for name in names):
        keys.add_section(keys.system)
    known = {key.variable: key.name for key in keys.by_name.values()}
    for name in names:
        if name in known:
            yield _Given(known[name], environ[name] or None, name)
        elif hint := nearest(name, list(known), likeness=0.85):
            raise ConfigError(f"unknown setting {name} in the environment", hint=hint)


@dataclass(frozen=True)
class _File:
    """One file of settings: its own keys, and those of each profile."""

    plain: tuple[_Given, ...] = ()
    profiles: Mapping[str, tuple[_Given, ...]] = field(default_factory=dict)

    def of_profile(self, profile: str) -> tuple[_Given, ...]:
        return self.profiles.get(profile, ()) + self.plain


def _read_file(path: Path) -> _File:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return _File()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    import yaml

    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: this is not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: this is not YAML: {error}") from error
    if root is None:
        return _File()
    plain: list[_Given] = []
    profiles: dict[str, tuple[_Given, ...]] = {}
    for name, node, where in _entries(root, path):
        if name == "profiles":
            for profile, body, _ in _entries(node, path):
                profiles[profile] = tuple(_givens(body, path))
        else:
            plain += _given(name, node, where, path)
    return _File(tuple(plain), profiles)


def _givens(node: yaml.Node, path: Path) -> Iterator[_Given]:
    for name, value, where in _entries(node, path):
        yield from _given(name, value, where, path)


def _given(name: str, node: yaml.Node, where: str, path: Path) -> Iterator[_Given]:
    """A key of the file, or every key of a section."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        yield _Given(name, _plain(node, path), where)
        return
    for option, value, line in _entries(node, path):
        yield _Given(f"{name}.{option}", _plain(value, path), line)


def _entries(node: yaml.Node, path: Path) -> Iterator[tuple[str, yaml.Node, str]]:
    """Key, value and place ("bigm.yaml:3") of each entry of a mapping."""
    import yaml

    if isinstance(node, yaml.ScalarNode) and not node.value:
        return
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: keys and values were expected here, as in `nmach: 5`")
    seen: set[str] = set()
    for key, value in node.value:
        where = f"{path}:{key.start_mark.line + 1}"
        name = str(key.value)
        if name in seen:
            raise ConfigError(f"{where}: {name!r} stands here a second time")
        seen.add(name)
        yield name, value, where


def _plain(node: yaml.Node, path: Path) -> object:
    """The text of a scalar, or a list of them; None for one that is empty."""
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return None if node.tag.endswith(":null") else str(node.value)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, path) for item in node.value]
    raise ConfigError(f"{path}:{node.start_mark.line + 1}: a section within a section is not expected here")


def _check_profile(profile: str, files: Sequence[_File]) -> None:
    known = sorted({name for file in files for name in file.profiles})
    if profile not in known:
        hint = nearest(profile, known) or (f"known profiles: {', '.join(known)}" if known else "no profile is defined")
        raise ConfigError(f"there is no profile called {profile!r}", hint=hint)
