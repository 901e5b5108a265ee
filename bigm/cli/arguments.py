"""Whose argument is whose on the line of `bigm run`. Pure.

bigm run [bigm's options] PROGRAM [the program's arguments, and `ALSO_AFTER`] [-- only the program's]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bigm.errors import ConfigError

# How many machines, where, and what they may cost: a limit that is overlooked where it stands is worse than none.
ALSO_AFTER = ("--system", "--nmach", "--procs", "--min-mach", "--max-cost", "--max-lifetime")
WITH_VALUE = (
    *ALSO_AFTER,
    *("--name", "--machine-output", "--profile", "--python", "--hosts", "--requirements"),
)
MODULE = "-m"
_SETTINGS = {"max_lifetime": "timeouts.lifetime"}  # that are not named as their option

# Those before PROGRAM alone that may be missed behind it, and the variables that say the same.
BEFORE = {
    "--hosts": "BIGM_SSH_HOSTS",
    "--bundle": "BIGM_BUNDLE_REHEARSE",
    "--requirements": "BIGM_BUNDLE_REQUIREMENTS",
    "--name": "BIGM_NAME",
    "--machine-output": "BIGM_MACHINE_OUTPUT",
    "--profile": "BIGM_PROFILE",
    "--python": "",
    "--dry-run": "",
}


class Split(NamedTuple):
    """The options that are bigm's, in their order; the program, or None; the program's own arguments."""

    options: list[str]
    program: str | None
    arguments: list[str]

    @property
    def lacks_value(self) -> bool:
        """Whether the last option stands without its value."""
        words = iter(self.options)
        return any(word in WITH_VALUE and next(words, None) is None for word in words)


def split_arguments(line: Sequence[str]) -> Split:
    """Split what follows `bigm run`.

    Up to PROGRAM all is bigm's. Behind it, those of `ALSO_AFTER` are bigm's wherever they stand, with their values,
    and the rest is the program's; behind a first `--`, which itself goes, everything is. As with Python,
    `-m` ends the options: what follows it is PROGRAM. An option without its value is left for the parser to refuse.
    """
    options: list[str] = []
    rest = list(line)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return Split(options, rest[0] if rest else None, rest[1:])
        if word.startswith(MODULE) and not word.startswith("--"):
            options.append(MODULE)
            rest = [word[2:], *rest] if word[2:] else rest
            return _behind(options, rest)
        if not word.startswith("-") or word == "-":
            return _behind(options, [word, *rest])
        options.append(word)
        if word in WITH_VALUE and rest:
            options.append(rest.pop(0))
    return Split(options, None, [])


def _behind(options: list[str], rest: list[str]) -> Split:
    """The program and what stands behind it."""
    if not rest:
        return Split(options, None, [])
    program, *rest = rest
    arguments: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--":
            arguments += rest
            break
        if word in ALSO_AFTER:
            options.append(word)
            if rest:
                options.append(rest.pop(0))
        elif word.partition("=")[0] in ALSO_AFTER:
            options.append(word)
        else:
            arguments.append(word)
    return Split(options, program, arguments)


def flags_of(options: Sequence[str]) -> dict[str, str]:
    """What *options* say, by the names of settings: `["--nmach", "3", "--system=ssh"]` is `{"nmach": "3", ...}`.

    Each has its value, behind it or behind a "="; of one that stands twice the last holds, as everywhere.
    """
    flags: dict[str, str] = {}
    words = iter(options)
    for word in words:
        name, given, value = word.partition("=")
        key = name[2:].replace("-", "_")
        flags[_SETTINGS.get(key, key)] = value if given else next(words)
    return flags


def system_of(system: str | None, hosts: str | None, regions: str | None = None) -> str | None:
    """The system that a line asks for: `--hosts` alone means ssh, `--region` alone ec2; None: nothing is there.

    Raises:
        ConfigError: the system that is named has no such thing. The user's fault.
    """
    for option, value, things, owner in (("--hosts", hosts, "hosts", "ssh"), ("--region", regions, "regions", "ec2")):
        if value is None:
            continue
        if system not in (None, owner):
            raise ConfigError(
                f"{option} names {things} of {owner}, and the system that is asked for is {system!r}",
                hint="leave out one of the two",
            )
        system = owner
    return system
