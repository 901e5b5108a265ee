"""The page on testing holds what it says: its Python is a file of tests, which pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pages import snippets


@pytest.mark.parametrize(("system", "outcome"), [("inprocess", "6 passed"), ("local", "2 passed, 4 skipped")])
def test_the_tests_of_the_page_pass(tmp_path: Path, system: str, outcome: str) -> None:
    (tmp_path / "test_page.py").write_text("\n\n".join(snippets("testing.md")))
    options = [f"--bigm-system={system}", f"--basetemp={tmp_path / 'base'}", "-p", "no:cacheprovider"]
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert outcome in shown.stdout, f"{shown.stdout}\n{shown.stderr}"
