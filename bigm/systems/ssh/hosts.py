"""Which hosts there are, and how many machines each takes: reads what a user writes.

A host is whatever `ssh` takes for a destination: a Host of the user's ssh configuration, a name, user@name, an address.
Behind a star stands how many machines it takes, one without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bigm.errors import ConfigError

_MOST = 10_000  # machines on a host: more is a slip of the keyboard
_HOST = re.compile(r"(?P<name>[\w\[][\w.@:%+\[\]-]*)(?:\*(?P<slots>[0-9]+))?")


@dataclass(frozen=True)
class Slots:
    """One host, and how many machines it takes.

    Args:
        host: as ssh is to be told it.
        slots: machines, from 1.
    """

    host: str
    slots: int = 1


def parse_hosts(words: Iterable[str], origin: str = "ssh.hosts") -> list[Slots]:
    """Read hosts, in their order.

    Args:
        words: each "host" or "host*4".
        origin: what a message calls the place where they stand.
    Raises:
        ConfigError: one of them is no host.
    """
    found: list[Slots] = []
    for word in words:
        match = _HOST.fullmatch(word.strip())
        if match is None or not 1 <= int(match["slots"] or 1) <= _MOST:
            raise ConfigError(
                f"{origin}: {word.strip()!r} is no host",
                hint="write host, user@host, or host*4 for a host that takes four machines",
            )
        found.append(Slots(match["name"], int(match["slots"] or 1)))
    return found


def read_hosts(path: str) -> list[Slots]:
    """Read a file of hosts: one in each line, empty lines and what stands behind a # apart.

    Raises:
        ConfigError: it cannot be read, or a line is no host.
    """
    try:
        lines = Path(path).expanduser().read_text().splitlines()
    except (OSError, UnicodeError, RuntimeError) as error:
        raise ConfigError(f"cannot read the hosts in {path}: {getattr(error, 'strerror', None) or error}") from error
    found: list[Slots] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        found += parse_hosts([text], f"{path}:{number}") if text else []
    return found


def places(found: Iterable[Slots]) -> dict[str, int]:
    """How many machines each host takes, in their order: one that is named twice takes the sum."""
    total: dict[str, int] = {}
    for one in found:
        total[one.host] = total.get(one.host, 0) + one.slots
    return total


def share_out(n: int, free: Mapping[str, int]) -> dict[str, int]:
    """Spread *n* machines over hosts, each time to the one that has most room left, the first of equals.

    Args:
        n: machines.
        free: for each host how many it still takes.
    Returns:
        for each host that gets some, how many; less than *n* in all where there is not enough room.
    """
    left = dict(free)
    given: dict[str, int] = {}
    for _ in range(min(n, sum(max(0, room) for room in left.values()))):
        host = max(left, key=lambda name: left[name])
        left[host] -= 1
        given[host] = given.get(host, 0) + 1
    return given
