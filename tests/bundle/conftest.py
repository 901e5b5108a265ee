"""Real environments, and one cache for the tests that need no fresh one."""

from __future__ import annotations

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


@pytest.fixture
def python(tmp_path: Path, wheels: Path) -> Path:
    """The interpreter of an environment with two distributions, one of which needs the other and has a command."""
    beta = {"beta/__init__.py": "import alpha\n\ndef main():\n    print('beta', alpha.VERSION)\n"}
    return make_environment(
        tmp_path / "env",
        make_wheel(wheels, "alpha", "1.5"),
        make_wheel(wheels, "beta-tools", "2.0", files=beta, requires=["alpha>=1"], scripts={"beta": "beta:main"}),
    )
