"""What `bigm bundle` does: finds the program, has its bundle made, and shows it or packs it into one file."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from bigm.bootstrap.report import report
from bigm.bundle.build import bundle_program, cache_folder
from bigm.bundle.bundle import Bundle
from bigm.bundle.described import Described, describe
from bigm.bundle.embedded import is_pexfile
from bigm.bundle.listing import facts, listing, texts, totals
from bigm.bundle.pexfile import build, check_output
from bigm.bundle.platforms import Platform, of_report, parse
from bigm.bundle.sources import Rules, size_text
from bigm.bundles import MAKING
from bigm.cli.run import check, make_plan, same_environment
from bigm.cli.tables import print_table
from bigm.config import FLAGS_VARIABLE, Settings, load
from bigm.errors import ProgramError
from bigm.terminal import Output, Terminal


class Wanted(NamedTuple):
    """What the line says of the program.

    Args:
        program: PROGRAM.
        module: it is a module's name.
        python: the interpreter that was asked for, or None.
        flags: settings, by dotted key.
        platforms: names of those that it is to run on; none: this one.
    """

    program: str
    module: bool
    python: str | None
    flags: Mapping[str, object]
    platforms: Sequence[str]

    @property
    def name(self) -> str:
        """What a file that is made of it is called."""
        return f"{self.program.rpartition('.')[2] if self.module else Path(self.program).stem}.pex"


def show(wanted: Wanted, as_json: bool) -> None:
    """Print what would travel: totals, then everything."""
    described, settings = _look(wanted)
    terminal = Terminal.of(settings)
    with contextlib.closing(Output(terminal)):
        bundle = _bundle(wanted, described, settings, terminal)
    if as_json:
        print(json.dumps(facts(bundle), indent=1))
        return
    print_table(("LAYER", "IN ALL", "SIZE"), texts(totals(bundle)))
    print()
    print_table(("LAYER", "WHAT", "SIZE"), texts(listing(bundle)))


def pack(wanted: Wanted, output: Path | None, *, scie: bool, as_json: bool) -> None:
    """Make the file, and tell what was made."""
    described, settings = _look(wanted)
    terminal = Terminal.of(settings)
    file = output or Path(wanted.name)
    check_output(file, scie=scie, platforms=wanted.platforms)
    platforms = _platforms(wanted)
    with contextlib.closing(Output(terminal)):  # it draws the live line
        bundle = _bundle(wanted, described, settings, terminal)
        terminal.phase(f"packing {file}")
        with terminal.live(lambda: f"packing {file}"):
            made = build(file, bundle, platforms, cache=cache_folder(settings.home), scie=scie)
    if as_json:
        files = [{"path": str(path.absolute()), "size": path.stat().st_size} for path in made]
        print(json.dumps({**facts(bundle), "files": files}, indent=1))
    for path in made:
        terminal.phase(f"{path}: {size_text(path.stat().st_size)}")


def _look(wanted: Wanted) -> tuple[Described, Settings]:
    """Find the program as `bigm run` does, and look at it."""
    environ = dict(os.environ)
    settings = load(environ={**environ, FLAGS_VARIABLE: json.dumps(wanted.flags)})
    plan = make_plan(wanted.program, [], module=wanted.module, python=wanted.python, environ=environ)
    if is_pexfile(plan.file):
        raise ProgramError(f"{plan.file} is a self-contained pex already", hint="name the program it was made of")
    check(plan)
    if not same_environment(plan.python):
        _hand_over(plan.python, environ)
    return describe(plan.file, module=wanted.program if wanted.module else ""), settings


def _bundle(wanted: Wanted, described: Described, settings: Settings, terminal: Terminal) -> Bundle:
    with terminal.live(lambda: MAKING):
        return bundle_program(
            described,
            settings.home,
            Rules.of(settings),
            requirements=settings.bundle.requirements,
            platforms=wanted.platforms,
            drives=True,
            tell=terminal.warn,
            progress=terminal.phase,
        )


def _platforms(wanted: Wanted) -> dict[str, Platform]:
    """By the names that the bundle has for them."""
    here = of_report(report())
    return {each.name: each for each in (parse(name, here.python) for name in wanted.platforms)} or {"": here}


def _hand_over(python: str, environ: Mapping[str, str]) -> NoReturn:
    """Let the bigm of the program's own environment do it: it sees that environment as the program does."""
    sys.stderr.flush()
    os.execve(python, [python, "-m", "bigm", *sys.argv[1:], "--python", python], environ)
