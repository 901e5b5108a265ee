"""`bigm logs`: what the machines of a run printed, live and afterwards."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import typer

from bigm.cli.completion import complete_machine, complete_run
from bigm.config import load, nearest
from bigm.errors import ConfigError
from bigm.runs import RUNNING, LogLine, follow_logs, read_run
from bigm.terminal import short_name


def logs(
    which: Annotated[str, typer.Argument(metavar="RUN", hidden=True, autocompletion=complete_run)] = "last",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
    machine: Annotated[
        str | None,
        typer.Option("--machine", metavar="NAME", help="This machine alone.", autocompletion=complete_machine),
    ] = None,
    times: Annotated[bool, typer.Option("-t", "--times", help="Say when each line was printed.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show what bigm's agents said, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with time and stream.")] = False,
) -> None:
    """Show what the machines of a run printed.

    RUN is an id that bigm ps lists, a part of one, a run's folder, or last. Both streams of every machine are shown,
    each line behind the machine's name, in the order of time.
    """
    run = read_run(load().runs_folder, which)
    procs = {info.machine: info.procs for info in run.machines()}
    if machine is not None and machine not in procs and not (follow and run.state == RUNNING):
        hint = nearest(machine, list(procs)) or f"it has: {', '.join(procs) or 'none'}"
        raise ConfigError(f"run {run.id} has no machine {machine!r}", hint=hint)
    out = sys.stdout.buffer
    for line in follow_logs(run, machine, follow=follow):
        if line.source == "agent" and not verbose:
            continue
        if line.machine not in procs:
            procs = {info.machine: info.procs for info in run.machines()}
        out.write(_json(line) if as_json else _text(line, procs.setdefault(line.machine, 1), times))
        if follow:
            out.flush()
    out.flush()


def _text(line: LogLine, procs: int, times: bool) -> bytes:
    name = short_name(line.machine, line.source, procs)
    when = time.strftime("%H:%M:%S", time.localtime(line.time)) + f".{int(line.time % 1 * 1000):03} " if times else ""
    return f"{when}{name} | ".encode() + line.text + b"\n"


def _json(line: LogLine) -> bytes:
    facts = {
        "time": line.time,
        "machine": line.machine,
        "source": line.source,
        "stream": {"o": "stdout", "e": "stderr"}.get(line.stream, line.stream),
        "text": line.text.decode(errors="replace"),
    }
    return json.dumps(facts).encode() + b"\n"
