"""`bigm ps`: runs and their machines."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from bigm.cli.completion import complete_run
from bigm.cli.found import facts, say_overlooked, show
from bigm.cli.systems import chosen
from bigm.cli.tables import duration, print_table, size, without_empty
from bigm.config import load
from bigm.costs import dollars
from bigm.errors import SystemFault
from bigm.leftovers import find_all
from bigm.runs import DIED, ENDED, RUNNING, MachineInfo, RunInfo, list_runs, read_run

_SHOWN = 10  # ended runs that are listed without --all
_QUIET_ENDS = ("", "shutdown")
_RUNS = ("RUN", "STATE", "SYSTEM", "MACHINES", "STARTED", "TOOK", "COST")
_HEAD = ("MACHINE", "STATE", "ADDRESS", "CPUS", "MEMORY", "TYPE", "ZONE", "UPTIME", "COST", "CAUSE")
_SPARE = ("ADDRESS", "MEMORY", "CPUS", "ZONE")  # what --json tells where a terminal is too narrow for all
_ALWAYS = ("MACHINE", "STATE", "ADDRESS", "UPTIME", "CAUSE")  # the others where one of the machines has something


def ps(
    which: Annotated[
        str | None,
        typer.Argument(metavar="RUN", hidden=True, autocompletion=complete_run),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All runs that are still kept.")] = False,
    system: Annotated[
        str | None, typer.Option(metavar="NAME", help="What this system has by its labels, instead of runs.")
    ] = None,
    hosts: Annotated[str | None, typer.Option(metavar="A,B", help="What these hosts have, over ssh.")] = None,
    region: Annotated[str | None, typer.Option(metavar="A,B", help="What these regions of EC2 have.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything known, as JSON.")] = False,
) -> None:
    """List runs and their machines.

    Live runs and the last ten, with the machines of live runs, and those that did not end as they should. RUN (an id, a
    part of one, a run's folder, or last) shows one run with all its machines. Of a cause the first line is shown;
    --json has all of it. With --system it is the system that is asked, not what runs have written: its machines, and
    what else launches have made there, with the runs they are of, as far as these are known here.
    """
    if (system, hosts, region) != (None, None, None):
        _ask(system, hosts, region, as_json=as_json)
        return
    folder = load().runs_folder
    runs = [read_run(folder, which)] if which else list_runs(folder)
    if not (everything or which):
        runs = [run for run in runs[:-_SHOWN] if run.state == RUNNING] + runs[-_SHOWN:]
    if as_json:
        print(json.dumps([_facts(run) for run in runs], indent=1))
        return
    if not runs:
        print(f"there are no runs in {folder}")
        return
    machines = {run.id: run.machines() for run in runs}
    print_table(*without_empty(_RUNS, [_row(run, machines[run.id]) for run in reversed(runs)], keep=_RUNS[:-1]))
    for run in reversed(runs):
        shown = [m for m in machines[run.id] if which or run.state == RUNNING or m.cause not in _QUIET_ENDS]
        if shown:
            print(f"\n{run.id}: {' '.join((run.program, *run.argv))}")
            table = without_empty(_HEAD, [_machine_row(run, m) for m in shown], keep=_ALWAYS)
            print_table(*table, indent="  ", spare=_SPARE)


def _ask(name: str | None, hosts: str | None, region: str | None, *, as_json: bool) -> None:
    settings, system = chosen(name, hosts, region)
    found = find_all(system, settings.runs_folder)
    if as_json:
        print(json.dumps([facts(system.name, one) for one in found], indent=1))
    else:
        show(system, found, "there is nothing on")
    if say_overlooked(system):
        raise typer.Exit(SystemFault.exit_code)


def _facts(run: RunInfo) -> dict[str, object]:
    machines = run.machines()
    listed = [{**asdict(machine), "cost": _cost_of(run, machine)} for machine in machines]
    return {
        **asdict(run),
        "folder": str(run.folder),
        "state": run.state,
        "cost": _cost(run, machines),
        "machines": listed,
    }


def _end_of(run: RunInfo, machine: MachineInfo) -> float:
    """When a machine ended, or now; 0 where nobody knows."""
    return machine.until or run.ended or (time.time() if run.state == RUNNING else 0.0)


def _cost_of(run: RunInfo, machine: MachineInfo) -> float | None:
    end = _end_of(run, machine)
    return machine.cost(end) if end else None


def _cost(run: RunInfo, machines: Sequence[MachineInfo]) -> float | None:
    """Dollars of a run: as it said at its end, else of its machines so far."""
    costs = [cost for machine in machines if (cost := _cost_of(run, machine)) is not None]
    return run.cost if run.cost is not None else sum(costs) if costs else None


def _dollars(cost: float | None) -> str:
    return "" if cost is None else dollars(cost)


def _row(run: RunInfo, machines: Sequence[MachineInfo]) -> tuple[str, ...]:
    state = f"exit {run.status}" if run.state == ENDED and run.status is not None else run.state
    now = time.time()
    took = duration((run.ended or now) - run.started) if run.state in (RUNNING, ENDED) else ""
    cost = _dollars(_cost(run, machines))
    return run.id, state, run.system, str(len(machines)), f"{duration(now - run.started)} ago", took, cost


def _machine_row(run: RunInfo, machine: MachineInfo) -> tuple[str, ...]:
    state, cause = machine.state, machine.text.removeprefix(f"machine {machine.addr} stopped: ") or machine.cause
    cause = cause or machine.notice
    if run.state == DIED and not machine.cause:
        state, cause = "unknown", "its driver died; it ends with its lease at the latest"
    end = _end_of(run, machine)
    uptime = duration(end - machine.since) if end else ""
    return (
        machine.machine,
        state,
        machine.addr,
        str(machine.maxprocs or ""),
        size(machine.memory or None),
        f"{machine.type} (spot)" if machine.spot else machine.type,
        machine.zone,
        uptime,
        _dollars(_cost_of(run, machine)),
        cause.strip().partition("\n")[0],  # the rest: --json
    )
