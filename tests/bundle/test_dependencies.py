from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from environments import make_environment, make_wheel

from bigm.bundle import pex
from bigm.bundle.bundle import Dependencies
from bigm.bundle.dependencies import dependency_layer
from bigm.parts import Parts


def make_layer(python: Path, cache: Path, said: list[str] | None = None) -> Dependencies:
    store = Parts(str(cache / "parts"))
    return dependency_layer(str(python), store, cache, progress=(said if said is not None else []).append)


def lay_out(layer: Dependencies, cache: Path, folder: Path) -> Path:
    """The virtual environment that a machine would make of a layer; its interpreter."""
    store = Parts(str(cache / "parts"))
    for file in layer.manifest.files:
        path = folder / "layer" / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path(store.path(file.digest)).read_bytes())
    environ = {**os.environ, "PEX_TOOLS": "1", "PEX_ROOT": str(folder / "root")}
    command = [sys.executable, folder / "layer" / "__main__.py", "venv", folder / "venv"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return folder / "venv" / "bin" / "python"


def ask(python: Path, code: str) -> str:
    """What an interpreter prints."""
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An environment with two distributions, one of which needs the other and has a command."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    return make_environment(
        tmp_path / "env",
        make_wheel(wheels, "alpha", "1.5"),
        make_wheel(
            wheels,
            "beta-tools",
            "2.0",
            files={"beta/__init__.py": "import alpha\n\ndef main():\n    print('beta', alpha.VERSION)\n"},
            requires=["alpha>=1"],
            scripts={"beta": "beta:main"},
        ),
    )


def test_what_is_installed_is_there_in_the_same_versions(tmp_path: Path, python: Path):
    layer = make_layer(python, tmp_path / "cache")
    assert ("alpha 1.5", "beta-tools 2.0") == tuple(each for each in layer.distributions if "cloudpickle" not in each)
    assert (f"{sys.version_info[0]}.{sys.version_info[1]}", ()) == (layer.python, layer.notes)

    there = lay_out(layer, tmp_path / "cache", tmp_path / "machine")
    assert "1.5" == ask(there, "import beta; print(beta.alpha.VERSION)")
    assert (
        "beta 1.5" == subprocess.run([there.parent / "beta"], capture_output=True, text=True, timeout=30).stdout.strip()
    )
    assert ask(there, "import cloudpickle; print(cloudpickle.__version__)"), (
        "workers use cloudpickle, and the environment has none"
    )


def test_the_same_environment_gives_the_same_bytes(tmp_path: Path, python: Path):
    first, second = (make_layer(python, tmp_path / name) for name in ("one", "two"))
    assert first == second


def test_a_known_environment_starts_no_pex(tmp_path: Path, python: Path, monkeypatch: pytest.MonkeyPatch):
    first = make_layer(python, tmp_path / "cache")
    monkeypatch.setattr(pex.sys, "executable", "/nowhere/python")
    said: list[str] = []
    assert first == make_layer(python, tmp_path / "cache", said)
    assert [] == said
