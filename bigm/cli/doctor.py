"""`bigm doctor`: whether machines could be started, said before one is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from bigm.cli.systems import chosen
from bigm.cli.tables import print_table
from bigm.errors import SystemFault
from bigm.systems.base import FAILED, OK, WARNING, Finding

_STYLES = {OK: "green", WARNING: "yellow", FAILED: "bold red"}


def doctor(
    system: Annotated[
        str | None, typer.Argument(metavar="SYSTEM", show_default=False, help="The system; else the configured one.")
    ] = None,
    hosts: Annotated[str | None, typer.Option(metavar="A,B", help="Of these hosts, over ssh.")] = None,
    policy: Annotated[
        bool, typer.Option("--policy", help="Print the permissions that the system needs, and look at nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Look at what machines need, before any is started.

    Nothing is launched or changed. The exit code is 75 when something makes it certain that no machine can be started,
    on one of several hosts or at all; warnings leave it 0.
    """
    from bigm.doctor import examine  # it imports much, and other commands pass through here

    settings, found = chosen(system, hosts)
    if policy:
        print(found.policy())
        return
    with _waiting(found.name):
        findings = list(examine(found, settings))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        _show(findings)
    if any(finding.state == FAILED for finding in findings):
        raise typer.Exit(SystemFault.exit_code)


@contextmanager
def _waiting(name: str) -> Iterator[None]:
    """Says on a terminal that something is going on: a host may take a while to answer."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"looking at what {name} needs"):
        yield


def _show(findings: Iterable[Finding]) -> None:
    subjects: dict[str, list[Finding]] = {}
    for finding in findings:
        subjects.setdefault(finding.subject, []).append(finding)
    for number, (subject, found) in enumerate(subjects.items()):
        print(f"{'' if number == 0 else chr(10)}{subject}")
        rows = [(each.check, each.state, f"{each.text}; {each.hint}" if each.hint else each.text) for each in found]
        print_table(("CHECK", "STATE", "FOUND"), rows, indent="  ", styles=_STYLES)
