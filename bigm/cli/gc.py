"""`bigm gc`: what no living run owns, and its end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from bigm.bootstrap.trimming import usage
from bigm.bundle.layers import folder_size
from bigm.cli.systems import chosen
from bigm.cli.tables import duration, print_table, size
from bigm.errors import SystemFault
from bigm.leftovers import Leftover, end_leftovers, find_leftovers

_HEAD = ("SYSTEM", "INSTANCE", "HOST", "CLUSTER", "AGE", "KEEPS", "RUN", "WHAT")
_FAILED = SystemFault.exit_code


def gc(
    system: Annotated[str | None, typer.Option(metavar="NAME", help="Of this system; else the configured one.")] = None,
    hosts: Annotated[str | None, typer.Option(metavar="A,B", help="On these hosts, over ssh.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="End them without asking.")] = False,
    unknown: Annotated[
        bool,
        typer.Option("--unknown", help="Also those of runs that are not known here, but perhaps elsewhere."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON; ends nothing without --yes.")] = False,
) -> None:
    """Find machines that no living run owns, and end them.

    Machines end by themselves; this is for what could not. Those of a run that this computer does not know are listed,
    and ended only with --unknown. The exit code is 75 when a host could not be looked at, or something not be ended.
    """
    settings, found = chosen(system, hosts)
    left = find_leftovers(found, settings.runs_folder)
    overlooked = found.overlooked()
    seen = [host for host in found.places() if host not in overlooked]
    wanted = [one for one in left if one.run is not None or unknown]
    if not as_json:
        _show(found.name, left, seen, complete=not overlooked)
    ends = bool(wanted) and (yes or (not as_json and _agreed(len(wanted))))
    outcome = end_leftovers(found, wanted) if ends else {}
    if as_json:
        print(json.dumps([_facts(found.name, one, outcome) for one in left], indent=1))
    elif ends or (wanted and not sys.stdin.isatty()):
        _say(len(wanted), outcome)
    if not as_json and len(wanted) < len(left):
        print(
            f"bigm: {len(left) - len(wanted)} of runs that are not known here; --unknown takes them too",
            file=sys.stderr,
        )
    if not as_json and found.capabilities.local:
        _say_kept(settings.bundle.store, settings.bundle.keep)
        _say_cached(settings.home / "cache")
    for host, error in overlooked.items():
        print(f"bigm: {host} was not looked at: {error}", file=sys.stderr)
    if overlooked:
        print(f"bigm: looked at {', '.join(seen) or 'no host'}; not at {', '.join(overlooked)}", file=sys.stderr)
    if overlooked or any(outcome.values()):
        raise typer.Exit(_FAILED)


def _show(system: str, left: Sequence[Leftover], hosts: Sequence[str], *, complete: bool) -> None:
    """What is left; nothing is said of where nobody has looked."""
    if not left and (complete or hosts):
        print(f"nothing is left on {', '.join(hosts) or system}")
    if not left:
        return
    print_table(
        ("SYSTEM", "INSTANCE", "HOST", "CLUSTER", "AGE", "KEEPS", "RUN", "WHAT"), [_row(system, one) for one in left]
    )


def _say_kept(store: str, bound: int) -> None:
    """What bundles have left on this computer for later runs: no leftover, and perhaps much."""
    found = usage(os.path.expanduser(store))
    if found.parts + found.made:
        text = f"{store} keeps {size(found.parts + found.made)} of bundles, {size(found.used)} of it in use"
        print(f"bigm: {text}; what nobody uses is removed beyond {size(bound)} (bundle.keep)", file=sys.stderr)


def _say_cached(cache: Path) -> None:
    """What this computer keeps to make the next bundle sooner."""
    kept = folder_size(cache)
    if kept:
        text = f"{cache} keeps {size(kept)} to make bundles of, {size(folder_size(cache / 'pex'))} of it pex's"
        print(f"bigm: {text}; it may be removed when nothing runs", file=sys.stderr)


def _row(system: str, one: Leftover) -> tuple[str, ...]:
    instance = one.instance
    age = duration(time.time() - instance.since) if instance.since else ""
    run = f"{one.run.id} ({one.run.state})" if one.run is not None else "not known here"
    return system, instance.id, instance.host, instance.cluster, age, size(instance.kept), run, instance.reason


def _agreed(count: int) -> bool:
    """Whether whoever sits at the terminal wants them ended."""
    return sys.stdin.isatty() and sys.stdout.isatty() and typer.confirm(f"End {_counted(count)}?")


def _say(count: int, outcome: Mapping[str, SystemFault | None]) -> None:
    if not outcome:
        print(f"bigm: would end {_counted(count)}; --yes does", file=sys.stderr)
        return
    for error in filter(None, outcome.values()):
        print(f"bigm: {error}", file=sys.stderr)
    print(f"ended {_counted(sum(1 for error in outcome.values() if error is None))}")


def _counted(count: int) -> str:
    return f"{count} machine{'' if count == 1 else 's'}"


def _facts(system: str, one: Leftover, outcome: Mapping[str, SystemFault | None]) -> dict[str, object]:
    instance, run = one.instance, one.run
    error = outcome.get(instance.id)
    return {
        "system": system,
        "instance": instance.id,
        "host": instance.host,
        "cluster": instance.cluster,
        "launch": instance.launch,
        "state": instance.state,
        "reason": instance.reason,
        "since": instance.since or None,
        "kept": instance.kept,
        "run": run.id if run is not None else None,
        "run_state": run.state if run is not None else None,
        "ended": instance.id in outcome and error is None,
        "error": str(error) if error is not None else None,
    }
