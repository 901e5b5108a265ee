"""The Python in the pages of docs/ runs as it stands: each page in one program, its blocks in their order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pages import snippets

# What a page's blocks need before them; most need nothing. docs/notebooks.md runs in a kernel: tests/test_notebook.py.
PAGES = {
    "asyncio.md": "",
    "executor.md": "",
    "functions.md": "",
    "peers.md": "",
    "sharing.md": "",
    "streams.md": "from pathlib import Path\nPath('words.txt').write_text('one\\ntwo\\n')",
    "variables.md": "",
}


@pytest.mark.parametrize("page", PAGES)
def test_the_snippets_of_a_page_run(page: str, tmp_path: Path):
    program = "\n".join([PAGES[page], *snippets(page)])
    assert program.strip(), "it has none"
    done = subprocess.run(
        [sys.executable, "-"], input=program, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert 0 == done.returncode, done.stderr
