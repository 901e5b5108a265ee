"""What systems have by label, as a person reads it: for `bigm gc` and `bigm ps --system`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence

from bigm.cli.tables import duration, print_table, size, without_empty
from bigm.leftovers import Found
from bigm.systems.base import INSTANCE, Instance, System

_HEAD = ("KIND", "INSTANCE", "WHERE", "CLUSTER", "AGE", "KEEPS", "RUN", "WHAT")
_SPARE = ("CLUSTER", "KEEPS", "WHERE")  # what --json tells where a terminal is too narrow for all


def show(system: System, found: Sequence[Found], none: str) -> None:
    """Print them as a table, without the columns that say nothing of any; nothing is said of where nobody has looked.

    Args:
        system: it has just been asked.
        found: what of its answer is shown.
        none: the beginning of the sentence that there is nothing ("nothing is left on").
    """
    several = any(one.instance.kind != INSTANCE for one in found)
    rows = [_row(one, several=several) for one in found]
    seen = _seen(system)
    if rows:
        print_table(*without_empty(_HEAD, rows, ()), spare=_SPARE)
    elif seen or not system.overlooked():
        print(f"{none} {', '.join(seen) or system.name}")


def say_overlooked(system: System) -> bool:
    """Say on standard error where *system* could not look; False: there is nothing to say."""
    overlooked = system.overlooked()
    for place, error in overlooked.items():
        print(f"bigm: {place} was not looked at: {error}", file=sys.stderr)
    if overlooked and system.places():
        text = f"looked at {', '.join(_seen(system)) or 'no host'}; not at {', '.join(overlooked)}"
        print(f"bigm: {text}", file=sys.stderr)
    return bool(overlooked)


def _seen(system: System) -> list[str]:
    """The hosts that were looked at, where there are any named."""
    overlooked = system.overlooked()
    return [host for host in system.places() if host not in overlooked]


def counted(found: Sequence[Found]) -> str:
    """How many of what: "2 machines, 1 launch template"."""
    kinds = Counter(one.instance.kind for one in found)
    machines = kinds.pop(INSTANCE, 0)
    words = [("machine", machines), *sorted(kinds.items())] if machines or not kinds else sorted(kinds.items())
    return ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in words)


def facts(system: str, one: Found) -> dict[str, object]:
    """The same for other programs."""
    instance, run = one.instance, one.run
    return {
        "system": system,
        "kind": instance.kind,
        "instance": instance.id,
        "host": instance.host,
        "zone": instance.zone,
        "type": instance.type,
        "spot": instance.spot,
        "user": instance.user,
        "cluster": instance.cluster,
        "launch": instance.launch,
        "state": instance.state,
        "reason": instance.reason,
        "since": instance.since or None,
        "expires": instance.expires or None,
        "expired": one.expired,
        "kept": instance.kept,
        "run": run.id if run is not None else None,
        "run_state": run.state if run is not None else None,
    }


def _row(one: Found, *, several: bool) -> tuple[str, ...]:
    instance = one.instance
    return (
        instance.kind if several else "",
        instance.id,
        instance.host or instance.zone,
        instance.cluster,
        duration(time.time() - instance.since) if instance.since else "",
        size(instance.kept),
        _run(one),
        _what(instance),
    )


def _run(one: Found) -> str:
    due = f"should have ended {duration(time.time() - one.instance.expires)} ago" if one.expired else ""
    if one.run is None:
        return due or "not known here"
    return ", ".join(filter(None, (f"{one.run.id} ({one.run.state})", due)))


def _what(instance: Instance) -> str:
    bought = {True: "spot", False: "on demand", None: ""}[instance.spot]
    return ", ".join(filter(None, (" ".join(filter(None, (instance.type, bought))), instance.reason)))
