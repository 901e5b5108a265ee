"""A small dependency layer: a wheel made here, packed by the real pex."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

OPTIONS = ("--layout", "packed", "--venv", "prepend", "--sh-boot", "--include-tools")


def wheel(folder: Path, name: str, files: dict[str, str], requires: str = "") -> Path:
    """A pure wheel of *name* 1.0 with these modules."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    python = f"Requires-Python: {requires}\n" if requires else ""
    texts = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{python}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-hello = {name}:hello\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in texts.items():
            archive.writestr(each, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{each},,\n" for each in [*texts, f"{info}/RECORD"]))
    return path


def packed(folder: Path, wheels: Path, *names: str) -> dict[str, bytes]:
    """The files of a packed pex of the named wheels in a folder, by path. pip, which takes seconds, is not asked."""
    made = folder / "layer.pex"
    given = ["--pre-resolved-dists", str(wheels), *names, "--pex-root", str(folder / "root")]
    command = [sys.executable, "-m", "pex", *given, *OPTIONS]
    answer = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return {
        str(path.relative_to(made)): path.read_bytes()
        for path in sorted(made.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def greeting(folder: Path) -> dict[str, bytes]:
    """A layer whose module `greeting` says hello."""
    wheels = folder / "wheels"
    os.makedirs(wheels, exist_ok=True)
    text = "def hello():\n    print('hello')\n"
    wheel(wheels, "greeting", {"greeting/__init__.py": text, "greeting/words.txt": "hello"})
    return packed(folder, wheels, "greeting")
