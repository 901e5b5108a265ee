"""The command's tree."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import bigm
from bigm.cli import bundle, config, doctor, gc, logs, ps, run

# Plain help: rich's frames cost 50 ms and break words at 80 columns. A bug's stack trace is `main`'s affair.
app = typer.Typer(
    name="bigm",
    help="Run programs on machines they form themselves, and look after them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command(cls=run.RunCommand)(run.run)
app.command(cls=bundle.BundleCommand)(bundle.bundle)
app.command()(logs.logs)
app.command()(ps.ps)
app.command()(gc.gc)
app.command()(doctor.doctor)
app.add_typer(config.app, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"bigm {bigm.__version__} (Python {sys.version.split()[0]}, {sys.platform})")
        raise typer.Exit


@app.callback()
def bigm_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version, and stop.")
    ] = False,
) -> None:
    """Run programs on machines they form themselves, and look after them."""
