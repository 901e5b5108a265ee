"""What the shell may complete: runs, and machines of the run that stands on the line."""

from __future__ import annotations

import contextlib

import typer

from bigm.config import load
from bigm.errors import BigmError
from bigm.runs import list_runs, read_run


def complete_run(incomplete: str) -> list[str]:
    """Ids of runs, the newest first."""
    with contextlib.suppress(BigmError):
        return [run.id for run in reversed(list_runs(load().runs_folder)) if run.id.startswith(incomplete)]
    return []


def complete_machine(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the machines of the run that was named before, or of the last."""
    with contextlib.suppress(BigmError):
        run = read_run(load().runs_folder, ctx.params.get("which") or "last")
        return [info.machine for info in run.machines() if info.machine.startswith(incomplete)]
    return []
