"""Other Pythons on this computer, for tests of what travels, and a computer without any."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

BASICS = ("/usr/bin", "/bin")


def find_python(version: str) -> str:
    """An interpreter of that minor version, executed to be sure: pyenv's shims look like interpreters; "" if none."""
    candidates = [shutil.which(f"python{version}")]
    pyenv = shutil.which("pyenv")
    if pyenv:
        candidates += map(str, Path(pyenv).resolve().parents[1].glob(f"versions/{version}.*/bin/python"))
    for candidate in filter(None, candidates):
        answer = subprocess.run([candidate, "-c", ""], capture_output=True, timeout=10)
        if answer.returncode == 0:
            return candidate
    return ""


def all_but_pythons(folder: Path) -> Path:
    """Make *folder*, with all the commands of this computer but its Pythons."""
    folder.mkdir()
    for path in [path for basic in BASICS for path in Path(basic).iterdir()]:
        link = folder / path.name
        if not path.name.startswith(("python", "pypy")) and not link.is_symlink():
            link.symlink_to(path)
    return folder
