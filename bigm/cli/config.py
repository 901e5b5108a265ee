"""`bigm config`: the settings, and where each comes from."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from bigm.cli.tables import print_table
from bigm.config import PROJECT_FILE, USER_FILE, Settings, general_keys, home_folder, load, project_file, system_keys

app = typer.Typer(help="Show settings, and where they come from.", no_args_is_help=True, rich_markup_mode=None)


@app.command("show")
def show(
    profile: Annotated[str | None, typer.Option(metavar="NAME", help="As with this profile.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show every setting, its value here and now, and where that comes from."""
    settings = load(environ={**os.environ, "BIGM_PROFILE": profile} if profile else os.environ)
    facts = values(settings)
    if as_json:
        print(
            json.dumps(
                {key: {"value": value, "origin": settings.origin(key)} for key, value in facts.items()}, indent=1
            )
        )
        return
    print_table(("KEY", "VALUE", "FROM"), [(key, _shown(value), settings.origin(key)) for key, value in facts.items()])


@app.command("path")
def path() -> None:
    """Show the files that settings are read from, the stronger one first, and whether they exist."""
    project = project_file()
    user = home_folder() / USER_FILE
    rows = [
        ("project", str(project or PROJECT_FILE), "read" if project else "none here or above"),
        ("user", str(user), "read" if user.exists() else "does not exist"),
    ]
    print_table(("FILE", "PATH", "STATE"), rows)


def values(settings: Settings) -> dict[str, object]:
    """Every key and its value: the general ones, then those of systems."""
    found: dict[str, object] = {}
    for key in general_keys():
        section, _, name = key.name.rpartition(".")
        found[key.name] = getattr(settings.timeouts if section else settings, name)
    for key in system_keys():
        section, _, name = key.name.rpartition(".")
        found[key.name] = settings.systems.get(section, {}).get(name, key.default)
    return found


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
