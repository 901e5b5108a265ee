"""`bigm bundle`: the program as one file, which needs nothing but a Python to form machines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from bigm.cli.run import check, make_plan, same_environment
from bigm.config import FLAGS_VARIABLE, Settings, load
from bigm.errors import ProgramError

if TYPE_CHECKING:
    from bigm.bundle.bundle import Bundle


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
    only_list: Annotated[
        bool, typer.Option("--list", help="Say what would travel, file by file, and make nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say what was made, or would travel, as JSON.")] = False,
    profile: Annotated[str | None, typer.Option(metavar="NAME", help="Use this profile of the configuration.")] = None,
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="Interpreter; else the active virtual environment's.")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="bigm says nothing but warnings.")] = False,
) -> None:
    """Make one file of a program, which runs where there is only a Python, and forms machines from itself.

    PROGRAM is found as `bigm run` finds it. In the file are the program's folders, all distributions of the
    environment, and bigm: ./FILE.pex ARGS is there what `bigm run PROGRAM ARGS` is here.
    """
    environ = dict(os.environ)
    given = {
        "profile": profile,
        "bundle.include": include or None,
        "bundle.exclude": exclude or None,
        "verbosity": "quiet" if quiet else None,
    }
    flags = {name: value for name, value in given.items() if value is not None}
    settings = load(environ={**environ, FLAGS_VARIABLE: json.dumps(flags)})
    plan = make_plan(program, [], module=module, python=python, environ=environ)
    check(plan)
    if not same_environment(plan.python):
        _hand_over(plan.python, environ)
    if only_list:
        _list(plan.file, program if module else "", settings, as_json)
        return
    file = output or Path(f"{program.rpartition('.')[2] if module else Path(plan.file).stem}.pex")
    made = _make(plan.file, program if module else "", file, settings)
    if as_json:
        print(json.dumps(made, indent=1))
    else:
        print(f"{file}: {made['size']} bytes", file=sys.stderr)


def _make(program: str, module: str, file: Path, settings: Settings) -> dict[str, object]:
    """Make the file; returns what is known of it."""
    from bigm.bundle.build import bundle_program, cache_folder
    from bigm.bundle.described import describe
    from bigm.bundle.embedded import is_pexfile
    from bigm.bundle.pexfile import build, check_output
    from bigm.bundle.sources import Rules
    from bigm.terminal import Terminal

    if is_pexfile(program):
        raise ProgramError(f"{program} is a self-contained pex already", hint="name the program it was made of")
    check_output(file)
    terminal = Terminal.of(settings)
    rules = Rules(settings.bundle.include, settings.bundle.exclude, settings.bundle.limit)
    described = describe(program, module=module)
    bundle = bundle_program(described, settings.home, rules, tell=terminal.warn, progress=terminal.phase)
    terminal.phase(f"packing {file}")
    build(file, bundle, cache=cache_folder(settings.home))
    return _facts(file, bundle)


def _list(program: str, module: str, settings: Settings, as_json: bool) -> None:
    """Say what would travel: totals, then everything."""
    from bigm.bundle.build import bundle_program
    from bigm.bundle.described import describe
    from bigm.bundle.embedded import is_pexfile
    from bigm.bundle.listing import facts, listing, texts, totals
    from bigm.bundle.sources import Rules
    from bigm.cli.tables import print_table
    from bigm.terminal import Terminal

    if is_pexfile(program):
        raise ProgramError(f"{program} is a self-contained pex", hint="name the program it was made of")
    terminal = Terminal.of(settings)
    rules = Rules(settings.bundle.include, settings.bundle.exclude, settings.bundle.limit)
    described = describe(program, module=module)
    bundle = bundle_program(described, settings.home, rules, tell=terminal.warn, progress=terminal.phase)
    if as_json:
        print(json.dumps(facts(bundle), indent=1))
        return
    print_table(("LAYER", "WHAT", "SIZE"), texts([*totals(bundle), *listing(bundle)]))


def _facts(file: Path, bundle: Bundle) -> dict[str, object]:
    return {
        "file": str(file.absolute()),
        "size": file.stat().st_size,
        "program": {"files": len(bundle.program.files), "size": bundle.program.size},
        "distributions": sorted({name for layer in bundle.dependencies.values() for name in layer.distributions}),
        "python": bundle.python,
    }


def _hand_over(python: str, environ: Mapping[str, str]) -> NoReturn:
    """Let the bigm of the program's own environment do it: it sees that environment as the program does."""
    sys.stderr.flush()
    os.execve(python, [python, "-m", "bigm", *sys.argv[1:], "--python", python], environ)
