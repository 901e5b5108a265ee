"""A small virtual environment made without an index: distributions copied from the one that runs the tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement

# What `bigm` and `pex` import, by name; the rest of what bigm depends on is for other systems.
NEEDED = ("bigm", "cloudpickle", "cryptography", "packaging", "pex", "pyyaml", "typer")
_LEFT_OUT = frozenset({"boto3", "psutil", "requests"})


def small_environment(folder: Path, *names: str) -> Path:
    """Make a virtual environment in *folder* with these distributions and all they need; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    (site,) = folder.glob("lib/python*/site-packages")
    for each in _closure([*NEEDED, *names]):
        for file in each.files or ():
            if "__pycache__" not in file.parts:
                target = Path(os.path.normpath(site / file))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(each.locate_file(file)), target)
    return folder / "bin" / "python"


def _closure(names: list[str]) -> list[Distribution]:
    """The distributions of these names and, in turn, what each requires here; extras are not followed."""
    found: dict[str, Distribution] = {}
    left_out = _LEFT_OUT - {*names}
    while names:
        name = re.sub("[-_.]+", "-", names.pop()).lower()
        if name in found or name in left_out:
            continue
        (found[name],) = Distribution.discover(name=name, path=[sysconfig.get_path("purelib")])
        for requirement in map(Requirement, found[name].requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                names.append(requirement.name)
    return list(found.values())
