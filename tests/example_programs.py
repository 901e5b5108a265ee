"""The programs in examples/, for tests that run them as a user would."""

from __future__ import annotations

import contextlib
import importlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Optional, Union

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
BIGM = [Path(sys.executable).with_name("bigm")]

Shown = subprocess.CompletedProcess


def run(*command: Union[str, Path], cwd: Optional[Path] = None, code: int = 0, timeout: float = 60) -> Shown[str]:
    """Run a command to its end, which must be of exit code *code*, within *timeout* seconds."""
    shown = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=timeout)
    assert shown.returncode == code, f"exit code {shown.returncode}\n{shown.stdout}\n{shown.stderr}"
    return shown


def run_example(
    name: str, *args: Union[str, Path], system: str = "local", nmach: int = 2, cwd: Optional[Path] = None, code: int = 0
) -> Shown[str]:
    """Run an example by `bigm run`, with *args* as its own."""
    options = ["--system", system, "--nmach", str(nmach)]
    return run(*BIGM, "run", *options, EXAMPLES / f"{name}.py", "--", *args, cwd=cwd, code=code)


def refuses(name: str, *args: Union[str, Path]) -> str:
    """What an example says to a mistake of its user's, which it finds before it starts anything."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, [f"{name}.py", *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            importlib.import_module(name).main()
    finally:
        sys.argv = argv
    assert (2, "") == (end.value.code, out.getvalue())
    assert "starting" not in err.getvalue()
    return err.getvalue()
