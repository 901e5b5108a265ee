"""`bigm bundle --list` says what would travel and makes nothing, for people and for programs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from small import small_environment


@pytest.mark.slow
def test_what_would_travel_is_listed_and_nothing_is_made(tmp_path: Path):
    python = small_environment(tmp_path / "environment")
    app = tmp_path / "app"
    (app / "data").mkdir(parents=True)
    (app / ".git").mkdir()
    (app / "main.py").write_text("import bigm")
    (app / "data" / "a.csv").write_bytes(bytes(2500))
    (app / "data" / "b.log").touch()

    def listed(*options: str) -> str:
        answer = subprocess.run(
            [python, "-m", "bigm", "bundle", *options, "--exclude", "*.log", str(app / "main.py"), "--list"],
            cwd=tmp_path,
            env={**os.environ, "BIGM_HOME": str(tmp_path / "bigm"), "HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    summary, _, files = listed().partition("\n\n")
    assert ["program", "2", "files", "2.5", "kB"] == summary.splitlines()[1].split()
    lines = [line.split() for line in files.splitlines()]
    assert ["LAYER", "WHAT", "SIZE"] == lines[0]
    assert [
        ["program", "app/data/a.csv", "2.5", "kB"],
        ["program", "app/main.py", "11", "bytes"],
    ] == [line for line in lines if line[1].startswith("app/")]
    assert "cloudpickle" in [line[1] for line in lines if line[0] == "distributions"]
    assert [str(app / ".git"), str(app / "data" / "b.log")] == [line[2] for line in lines if line[0] == "left"]

    said = json.loads(listed("--json"))
    assert ["app/data/a.csv", "app/main.py"] == [file["path"] for file in said["program"]["files"]]
    assert [] == list(tmp_path.glob("*.pex"))
