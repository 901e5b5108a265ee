"""`bigm bundle`: its line. What it does is imported by who runs it: `bigm.cli.packing`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


class BundleCommand(TyperCommand):
    """A command whose PROGRAM is shown as that of `bigm run` is."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What the line looks like."""
        return ["[OPTIONS]", "PROGRAM"]


def bundle(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", hidden=True)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="What to write; else PROGRAM and .pex behind it."),
    ] = None,
    module: Annotated[bool, typer.Option("-m", help="PROGRAM is a module, as in python -m.")] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Files that travel though they would be left out; may be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Files that stay here; may be repeated.")
    ] = None,
    platform: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What it runs on (linux-aarch64, macosx-arm64, ...); may be repeated. Else this platform.",
        ),
    ] = None,
    requirements: Annotated[
        str | None, typer.Option(metavar="FILE", help="What says which distributions; else the environment has them.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Say what would travel, file by file, and make nothing.")
    ] = False,
    scie: Annotated[
        bool, typer.Option("--scie", help="Make an executable that needs no Python, too: fetches one from GitHub.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was made, or with --list would be, as JSON.")] = False,
    profile: Annotated[str | None, typer.Option(metavar="NAME", help="Use this profile of the configuration.")] = None,
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="Interpreter; else the active virtual environment's.")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="bigm says nothing but warnings.")] = False,
) -> None:
    """Make one file of a program and all it needs.

    The file runs where there is only a Python, and forms machines from itself. PROGRAM is found as `bigm run` finds it.
    In the file are the program's folders, all distributions of the environment, and bigm: ./FILE.pex ARGS is there what
    `bigm run PROGRAM ARGS` is here.
    """
    from bigm.cli import packing

    flags = {
        "profile": profile,
        "bundle.include": include or None,
        "bundle.exclude": exclude or None,
        "bundle.requirements": os.path.abspath(requirements) if requirements else None,
        "verbosity": "quiet" if quiet else None,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    wanted = packing.Wanted(program, module, python, given, platform or ())
    if show:
        packing.show(wanted, as_json)
    else:
        packing.pack(wanted, output, scie=scie, as_json=as_json)
