"""`bigm config`: the settings, and where each comes from."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from bigm.cli.tables import as_written, print_table
from bigm.config import PROJECT_FILE, USER_FILE, Key, Settings, general_keys, load, project_file, system_keys
from bigm.home import home_folder

app = typer.Typer(help="Show settings, and where they come from.", no_args_is_help=True, rich_markup_mode=None)


@app.command("show")
def show(
    profile: Annotated[str | None, typer.Option(metavar="NAME", help="As with this profile.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show every setting, its value, and where that is from."""
    settings = load(environ={**os.environ, "BIGM_PROFILE": profile} if profile else os.environ)
    facts = values(settings)
    if as_json:
        shown = {key.name: {"value": value, "origin": settings.origin(key.name)} for key, value in facts.items()}
        print(json.dumps(shown, indent=1))
        return
    rows = [(key.name, as_written(key, value), settings.origin(key.name)) for key, value in facts.items()]
    print_table(("KEY", "VALUE", "FROM"), rows)


@app.command("path")
def path() -> None:
    """Show the files that settings are read from.

    The stronger one comes first; a file need not exist.
    """
    project = project_file()
    user = home_folder() / USER_FILE
    rows = [
        ("project", str(project or PROJECT_FILE), "read" if project else "none here or above"),
        ("user", str(user), "read" if user.exists() else "does not exist"),
    ]
    print_table(("FILE", "PATH", "STATE"), rows)


def values(settings: Settings) -> dict[Key, object]:
    """Every key and its value: the general ones, then those of systems."""
    found: dict[Key, object] = {}
    for key in [*general_keys(), *system_keys()]:
        section, _, name = key.name.rpartition(".")
        if section in ("", "timeouts"):
            found[key] = getattr(settings.timeouts if section else settings, name)
        else:
            found[key] = settings.systems.get(section, {}).get(name, key.default)
    return found
