"""`bigm run`: look at the program, then become it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperCommand

from bigm.bundle.embedded import is_pexfile, read_program
from bigm.cli import probe
from bigm.cli.arguments import split_arguments, system_of
from bigm.config import DEFAULT, FLAGS_VARIABLE, load, nearest
from bigm.errors import ProgramError

_PROBE_TIME = 60.0  # seconds for another interpreter to start and import bigm


class RunCommand(TyperCommand):
    """A command whose line is split by `split_arguments` before it is parsed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Hand bigm's options to the parser first, then the program and its arguments, untouched."""
        split = split_arguments(args)
        own = ["--", split.program, *split.arguments] if split.program is not None and not split.lacks_value else []
        return super().parse_args(ctx, [*split.options, *own])

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What the line looks like."""
        return ["[OPTIONS]", "PROGRAM", "[ARGS]..."]


class Plan(NamedTuple):
    """What is about to be run: the interpreter's arguments behind its name, and the file, when it is known."""

    python: str
    words: list[str]
    file: str


def run(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", hidden=True)],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGS", hidden=True)] = None,
    system: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where machines come from: local, inprocess, ssh.")
    ] = None,
    nmach: Annotated[
        str | None, typer.Option(metavar="N", help="How many machines, where the program does not say.")
    ] = None,
    procs: Annotated[
        str | None, typer.Option(metavar="K|all", help="Workers on each machine, where the program does not say.")
    ] = None,
    min_mach: Annotated[
        str | None, typer.Option(metavar="K", help="With fewer machines than these there is no start.")
    ] = None,
    max_cost: Annotated[
        str | None, typer.Option(metavar="DOLLARS", help="End the machines when the run has cost about this much.")
    ] = None,
    max_lifetime: Annotated[
        str | None, typer.Option(metavar="TIME", help='End each machine at this age, as in "2 h", whatever happens.')
    ] = None,
    hosts: Annotated[
        str | None, typer.Option(metavar="A,B*4", help="Over ssh, on these hosts: B with up to four machines.")
    ] = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Machines on this computer run a bundle, as those elsewhere do.")
    ] = False,
    requirements: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Machines get what this file requires, not what is installed here."),
    ] = None,
    module: Annotated[bool, typer.Option("-m", help="PROGRAM is a module, as in python -m.")] = False,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The cluster's name in messages and labels.")] = None,
    machine_output: Annotated[
        str | None, typer.Option(metavar="stderr|stdout|off", help="Where the machines' output is shown.")
    ] = None,
    profile: Annotated[str | None, typer.Option(metavar="NAME", help="Use this profile of the configuration.")] = None,
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="Interpreter; else the active virtual environment's.")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="bigm says nothing but warnings.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="bigm says more, and shows its agents.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run and launched, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: as JSON.")] = False,
) -> None:
    """Run a program that forms machines.

    PROGRAM is a Python file, a command that the environment has installed, or, with -m, a module. Options stand before
    PROGRAM; --system, --nmach, --procs, --min-mach, --max-cost and --max-lifetime also behind it. Everything else
    there, and all that follows a --, is the program's own.
    """
    given = {
        "system": system_of(system, hosts),
        "nmach": nmach,
        "min_mach": min_mach,
        "max_cost": max_cost,
        "timeouts.lifetime": max_lifetime,
        "procs": procs,
        "ssh.hosts": hosts,
        "name": name,
        "machine_output": machine_output,
        "profile": profile,
        "bundle.rehearse": True if bundle else None,
        "bundle.requirements": os.path.abspath(requirements) if requirements else None,
        "verbosity": "quiet" if quiet else "verbose" if verbose else None,
    }
    flags = {key: value for key, value in given.items() if value is not None}
    environ = dict(os.environ)
    settings = load(environ={**environ, FLAGS_VARIABLE: json.dumps(flags)})
    if settings.origin("system") != DEFAULT:
        from bigm.systems.base import find_system  # it imports the system, too

        find_system(settings.system)
    plan = make_plan(program, arguments or [], module=module, python=python, environ=environ)
    note = check(plan, settings.verbosity == "verbose")
    if dry_run:
        from bigm.cli import dryrun

        if not same_environment(plan.python):
            _hand_over(plan.python, environ)
        travels = dryrun.what_travels(plan.file, program if module else "", settings)
        dryrun.show(plan.words, plan.python, travels, settings, as_json=as_json)
        return
    if note and settings.verbosity != "quiet":
        print(f"bigm: {note}", file=sys.stderr, flush=True)
    become(plan, {**environ, FLAGS_VARIABLE: json.dumps({**flags, "run": {"pid": os.getpid()}})})


def make_plan(
    program: str, arguments: list[str], *, module: bool, python: str | None, environ: Mapping[str, str]
) -> Plan:
    """Decide which interpreter runs what. A self-contained pex is run by one that it was made for.

    Raises:
        ProgramError: there is no such interpreter, file, command or module.
    """
    interpreter = _interpreter(python, environ)
    if module:
        return Plan(interpreter, ["-m", program, *arguments], _module_file(program, interpreter))
    file = _program_file(program, interpreter)
    if is_pexfile(file):
        interpreter = _interpreter_for(file, interpreter, chosen=python is not None, environ=environ)
    return Plan(interpreter, [file, *arguments], file)


def check(plan: Plan, verbose: bool = False) -> str:
    """Look at the program where it is to run; returns what the user should know, or "".

    Raises:
        ProgramError: it is not Python, or its interpreter has no bigm.
    """
    if is_pexfile(plan.file):
        return ""  # it has its own
    if same_environment(plan.python):
        problem, mentions = probe.examine(plan.file) if plan.file else ("", True)
    else:
        answer = _probe(plan)
        problem, mentions = answer["problem"], answer["mentions"]
        if not answer["bigm"]:
            raise ProgramError(
                f"{plan.python} cannot import bigm",
                hint=f"install it there ({plan.python} -m pip install bigm), or choose another with --python",
            )
    if problem:
        raise ProgramError(problem)
    if plan.file and b"# /// script" in Path(plan.file).read_bytes():
        from bigm.bundle.origins import check_script  # for few scripts

        if note := check_script(Path(plan.file), plan.python):
            return note
    if not mentions:
        return f"{plan.file} does not mention bigm: unless a module it imports does, no machine is started"
    return ""


def become(plan: Plan, environ: Mapping[str, str]) -> NoReturn:
    """Replace this process by the program, so that its signals and its exit status are the program's own."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(plan.python, [plan.python, *plan.words], environ)


def _interpreter(wanted: str | None, environ: Mapping[str, str]) -> str:
    if wanted is not None:
        found = shutil.which(os.path.expanduser(wanted), path=environ.get("PATH"))
        if found is None:
            raise ProgramError(f"there is no interpreter {wanted!r}", hint="give --python a path, or a name on PATH")
        return os.path.abspath(found)
    active = environ.get("VIRTUAL_ENV")
    if active and os.access(candidate := os.path.join(active, "bin", "python"), os.X_OK):
        return candidate
    return sys.executable


def _interpreter_for(file: str, interpreter: str, *, chosen: bool, environ: Mapping[str, str]) -> str:
    """*interpreter* if it has the version that a pex was made for: pex would choose another without a word."""
    wanted = read_program(file).python
    if _version_of(interpreter) == wanted:
        return interpreter
    if chosen:
        raise ProgramError(f"{file} was made for Python {wanted}, and {interpreter} is {_version_of(interpreter)}")
    found = shutil.which(f"python{wanted}", path=environ.get("PATH"))
    if found is None or _version_of(found) != wanted:
        raise ProgramError(
            f"{file} was made for Python {wanted}, and there is no python{wanted} on PATH",
            hint="install it, or name one with --python PATH",
        )
    return found


def _version_of(python: str) -> str:
    """Minor version, "3.11"."""
    if same_environment(python):
        return "{}.{}".format(*sys.version_info)
    return str(_probe(Plan(python, [], ""))["python"])


def same_environment(python: str) -> bool:
    """Whether *python* is that of the environment that runs us.

    Not by file: the interpreters of all virtual environments are links to one.
    """
    return os.path.dirname(os.path.abspath(python)) == os.path.dirname(os.path.abspath(sys.executable))


def _program_file(program: str, python: str) -> str:
    """The file that PROGRAM names: itself, else a command that the interpreter's environment has installed."""
    path = Path(program)
    if path.is_dir():
        hint = f"`bigm run -m {path.name}` runs a package" if (path / "__main__.py").exists() else ""
        raise ProgramError(f"{program} is a folder, not a program", hint=hint or "name the script in it")
    if path.exists():
        return program
    commands = Path(python).parent
    if os.sep not in program and (commands / program).is_file():
        return str(commands / program)
    others = [] if os.sep in program or path.suffix else [other.name for other in commands.iterdir()]
    known = {other: other for other in others} | {other.stem: str(other) for other in path.parent.glob("*.py")}
    raise ProgramError(f"there is no program {program!r}", hint=nearest(path.stem, known))


def _module_file(module: str, python: str) -> str:
    """The file of a module, found without importing anything of it; "" when only its own interpreter can tell."""
    if not same_environment(python):
        return ""
    path: list[str] | None = [os.getcwd(), *sys.path]
    found = None
    for depth in range(1, module.count(".") + 2):
        name = ".".join(module.split(".")[:depth])
        found = PathFinder.find_spec(name, path)
        if found is None:
            hint = f"searched from {os.getcwd()}, as python -m does"
            if PathFinder.find_spec(name, [os.path.abspath("src")]) is not None:
                hint = f"it is in src/: install the project (pip install -e .), or set PYTHONPATH=src; {hint}"
            raise ProgramError(f"there is no module {name!r}", hint=hint)
        path = list(found.submodule_search_locations or ())
    if path and (found := PathFinder.find_spec(f"{module}.__main__", path)) is None:
        raise ProgramError(f"{module} is a package without a __main__ module", hint=f"bigm run -m {module}.MODULE")
    return found.origin or "" if found and (found.origin or "").endswith(".py") else ""


def _probe(plan: Plan) -> dict[str, Any]:
    try:
        answer = subprocess.run(
            [plan.python, probe.__file__, plan.file], capture_output=True, text=True, timeout=_PROBE_TIME, check=True
        )
        found: dict[str, Any] = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = (getattr(error, "stderr", "") or "").strip().splitlines()
        detail = said[-1] if said else str(error)
        raise ProgramError(f"{plan.python} is not a Python that can be used: {detail}") from error
    return found


def _hand_over(python: str, environ: Mapping[str, str]) -> NoReturn:
    """Let the bigm of the program's own environment tell: it sees that environment as the program does."""
    sys.stderr.flush()
    os.execve(python, [python, "-m", "bigm", "run", "--python", python, *sys.argv[2:]], environ)
