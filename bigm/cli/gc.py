"""`bigm gc`: what no living run owns, and its end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from bigm.bootstrap.trimming import usage
from bigm.bundle.layers import folder_size
from bigm.cli.found import counted, facts, say_overlooked, show
from bigm.cli.systems import chosen
from bigm.cli.tables import size
from bigm.errors import SystemFault
from bigm.leftovers import Found, end_leftovers, find_leftovers

_FAILED = SystemFault.exit_code


def gc(
    system: Annotated[str | None, typer.Option(metavar="NAME", help="Of this system; else the configured one.")] = None,
    hosts: Annotated[str | None, typer.Option(metavar="A,B", help="On these hosts, over ssh.")] = None,
    region: Annotated[str | None, typer.Option(metavar="A,B", help="In these regions of EC2; else in all.")] = None,
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
    settings, found = chosen(system, hosts, region)
    left = find_leftovers(found, settings.runs_folder)
    wanted = [one for one in left if unknown or not one.unknown]
    if not as_json:
        show(found, left, "nothing is left on")
    ends = bool(wanted) and (yes or (not as_json and _agreed(wanted)))
    outcome = end_leftovers(found, wanted) if ends else {}
    if as_json:
        print(json.dumps([{**facts(found.name, one), **_became(one, outcome)} for one in left], indent=1))
    elif ends or (wanted and not sys.stdin.isatty()):
        _say(wanted, outcome)
    if not as_json and (others := [one for one in left if one not in wanted]):
        print(f"bigm: {counted(others)} of runs that are not known here; --unknown takes them too", file=sys.stderr)
    if not as_json and found.capabilities.local:
        _say_kept(settings.bundle.store, settings.bundle.keep)
        _say_cached(settings.home / "cache")
    if say_overlooked(found) or any(outcome.values()):
        raise typer.Exit(_FAILED)


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


def _agreed(wanted: Sequence[Found]) -> bool:
    """Whether whoever sits at the terminal wants them ended."""
    return sys.stdin.isatty() and sys.stdout.isatty() and typer.confirm(f"End {counted(wanted)}?")


def _say(wanted: Sequence[Found], outcome: Mapping[str, SystemFault | None]) -> None:
    if not outcome:
        print(f"bigm: would end {counted(wanted)}; --yes does", file=sys.stderr)
        return
    for error in dict.fromkeys(map(str, filter(None, outcome.values()))):
        print(f"bigm: {error}", file=sys.stderr)
    print(f"ended {counted([one for one in wanted if outcome.get(one.instance.id) is None])}")


def _became(one: Found, outcome: Mapping[str, SystemFault | None]) -> dict[str, object]:
    error = outcome.get(one.instance.id)
    ended = one.instance.id in outcome and error is None
    return {"ended": ended, "error": str(error) if error is not None else None}
