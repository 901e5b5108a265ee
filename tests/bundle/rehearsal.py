"""Programs run as a user runs them, on machines of this computer, in place and by the whole way of a bundle."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from small import small_environment

ROOT = Path(__file__).resolve().parents[2]

# What machines say of where they are. A program imports it as `probe`.
PROBE = """
import importlib.metadata, os, sys
import bigm


class Probe:
    def look(self, modules, files):
        found = {}
        for name in modules:
            __import__(name)
            module = sys.modules[name]
            found[name] = getattr(module, "__file__", None) or list(module.__path__)
        return {
            "path": sys.path,
            "cwd": os.getcwd(),
            "argv": sys.argv,
            "modules": found,
            "files": {name: open(name).read() for name in files},
            "versions": sorted(f"{d.name} {d.version}" for d in importlib.metadata.distributions() if d.name != "bigm"),
            "main": sys.modules["__main__"].__name__,
        }


def show(modules=(), files=()):
    import json
    with bigm.start() as cluster:
        machines = cluster.start(cluster.nmach or 1, services={"Probe": Probe()})
        cluster.wait(machines, timeout=120.0)
        print(json.dumps([machine.call("Probe.look", list(modules), list(files)) for machine in machines]))
"""


class Rehearsal:
    """A small environment with bigm in it, a home and a store.

    Args:
        folder: where all of it is made.
        names: distributions that the environment has besides.
    """

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self.python = small_environment(folder / "env", "packaging", *names)
        (site,) = (folder / "env").glob("lib/python*/site-packages")
        shutil.rmtree(site / "bigm", ignore_errors=True)  # as it was when it was last installed
        (site / "bigm.pth").write_text(f"{ROOT}\n")
        self.home, self.store = folder / "home", folder / "store"

    def environ(self, **variables: str) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("BIGM_", "PYTHON", "VIRTUAL_"))
        }
        return {**kept, "BIGM_HOME": str(self.home), "BIGM_BUNDLE_STORE": str(self.store), **variables}

    def run(self, *words: str, cwd: Path, bundle: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """`bigm run`, or with *bundle* `bigm run --bundle`."""
        command = [str(self.python), "-m", "bigm", "run", *["--bundle"] * bundle, *words]
        environ = self.environ(**variables)
        return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=cwd, env=environ)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of that name of the latest run."""
        run = max((self.home / "runs").iterdir())
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        return [event for event in events if event["event"] == name]

    def sent(self) -> int:
        """Bytes that the driver of the latest run sent."""
        return sum(event["sent"] for event in self.events("shipped"))


def outcome(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """What the machines said."""
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def alike(found: dict[str, Any], parent: Path) -> dict[str, Any]:
    """The same in words that do not tell where it was, for a program whose folders are in *parent*."""

    def plain(text: str) -> str:
        text = re.sub(r".*/tree-[0-9a-f]{16}(?=/|$)", "PROGRAM", text)
        text = re.sub(r".*/(kept/venv-[0-9a-f]+|env)/lib/python3\.\d+/site-packages", "SITE", text)
        return text.replace(str(parent), "PROGRAM")

    own = re.compile(rf".*/kept/tree-[0-9a-f]{{64}}$|{re.escape(str(ROOT))}$")  # where bigm is
    return {
        **found,
        "path": [plain(entry) for entry in found["path"] if not own.match(entry)],
        "cwd": plain(found["cwd"]),
        "argv": [plain(word) for word in found["argv"]],
        "modules": {
            name: plain(where) if isinstance(where, str) else [plain(each) for each in where]
            for name, where in found["modules"].items()
        },
    }
