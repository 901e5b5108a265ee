"""`bigm config` tells what holds, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commanding import Said

from bigm.config import general_keys, system_keys

Command = Callable[..., Said]


def test_every_key_is_shown_with_its_value_and_source(
    command: Command, work: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "bigm.yaml").write_text("timeouts:\n  setup: 300\nlocal:\n  parent_death: no\n")
    (home / "config.yaml").write_text("profiles:\n  big:\n    nmach: 50\n")
    monkeypatch.setenv("BIGM_PROCS", "all")
    rows = dict(line.split(None, 1) for line in command("config", "show", "--profile", "big").out.splitlines()[1:])
    assert {key.name for key in [*general_keys(), *system_keys()]} == set(rows)
    assert rows["system"].split() == ["local", "default"]
    assert rows["nmach"].split() == ["50", f"{home}/config.yaml:3"]
    assert rows["procs"].split() == ["all", "BIGM_PROCS"]
    assert rows["timeouts.setup"].split() == ["5", "min", f"{work}/bigm.yaml:2"]
    assert rows["local.parent_death"].split() == ["false", f"{work}/bigm.yaml:4"]
    facts = json.loads(command("config", "show", "--json").out)
    assert facts["timeouts.setup"] == {"value": 300.0, "origin": f"{work}/bigm.yaml:2"}
    assert facts["nmach"] == {"value": None, "origin": "default"}


def test_the_files_that_are_read_are_named(command: Command, work: Path, home: Path) -> None:
    assert command("config", "path").out.splitlines()[1:] == [
        "project  bigm.yaml" + " " * (len(f"{home}/config.yaml") - 9) + "  none here or above",
        f"user     {home}/config.yaml  does not exist",
    ]
    (work / "bigm.yaml").touch()
    assert f"{work}/bigm.yaml" in command("config", "path").out


def test_the_version_is_told(command: Command) -> None:
    assert command("--version").out.startswith("bigm 0.")
