"""The Python in the pages of docs/ runs, page by page, as a reader would copy it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pages import snippets

PAGES = ["streams.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page: str, tmp_path: Path) -> None:
    """All of it as one program, whose driver's part is guarded."""
    classes, rest = snippets(page)[0], snippets(page)[1:]
    program, _, opening = classes.partition("cluster = bigm.start()")
    driver = "\n".join(["cluster = bigm.start()" + opening, *rest])
    indented = "".join(f"    {line}" if line.strip() else line for line in driver.splitlines(keepends=True))
    path = tmp_path / "page.py"
    path.write_text(f"{program}\nif __name__ == '__main__':\n{indented}")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert 0 == done.returncode, done.stderr
