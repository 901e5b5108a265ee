"""Real environments, and one cache for the tests that need no fresh one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from environments import make_environment, make_wheel


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A driver's cache for all tests: pex prepares a new one for seconds."""
    return tmp_path_factory.mktemp("warm")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    beta = {"beta/__init__.py": "import alpha\n\ndef main():\n    print('beta', alpha.VERSION)\n"}
    make_environment(
        folder / "env",
        make_wheel(folder, "alpha", "1.5"),
        make_wheel(folder, "beta-tools", "2.0", files=beta, requires=["alpha>=1"], scripts={"beta": "beta:main"}),
    )
    return folder / "env"


@pytest.fixture
def python(tmp_path: Path, _prepared: Path) -> Path:
    """The interpreter of an environment with two distributions, one of which needs the other and has a command."""
    shutil.copytree(_prepared, tmp_path / "env", symlinks=True)
    return tmp_path / "env" / "bin" / "python"
