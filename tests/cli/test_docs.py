"""What documents say of the command and of the keys is what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bigm import errors
from bigm.cli.docs import EXAMPLE, PAGES, files

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", [*PAGES, EXAMPLE])
def test_printed_pages_are_fresh(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stale? Run `python -m bigm.cli.docs` in the project's folder."""
    monkeypatch.setenv("COLUMNS", "200")  # the width of whoever runs this does not matter
    assert files(ROOT)[ROOT / name] == (ROOT / name).read_text()


def test_every_exit_code_an_error_carries_is_documented() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    documented = set(re.findall(r"^\| (\d+) \|", page, re.M))
    carried = {
        str(cls.exit_code) for cls in vars(errors).values() if isinstance(cls, type) and hasattr(cls, "exit_code")
    }
    assert carried <= documented
    assert {"2", "70", "75", "76", "77", "78", "79", "130", "143"} <= documented
