"""Environments for the tests of dependencies: real ones, with distributions that are made here and installed by pip."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import setuptools

from bigm.bundle.bundle import Dependencies
from bigm.bundle.dependencies import dependency_layer
from bigm.parts import Parts


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    files: Mapping[str, str] | None = None,
    requires: Iterable[str] = (),
    scripts: Mapping[str, str] | None = None,
    tag: str = "py3-none-any",
    build: str = "",
) -> Path:
    """A wheel, as a build backend writes it.

    Args:
        files: content by path; None: a module of the distribution's name that has its version.
        requires: its requirements.
        scripts: console scripts, "module:function" by name.
        tag: the Pythons and platforms it is for.
        build: its build number, which tells it from another of the same version.
    """
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    content = dict({f"{name.replace('-', '_')}.py": f"VERSION = {version!r}\n"} if files is None else files)
    content[f"{info}/METADATA"] = "".join(
        [
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            *(f"Requires-Dist: {each}\n" for each in requires),
        ]
    )
    content[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: {str(tag.endswith('-any')).lower()}\nTag: {tag}\n"
    )
    if scripts:
        lines = "".join(f"{script} = {function}\n" for script, function in scripts.items())
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}"
    record = "".join(f"{path},sha256={_hash(text)},{len(text.encode())}\n" for path, text in content.items())
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    path = folder / f"{stem}{build and '-' + build}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name_, text in content.items():
            wheel.writestr(zipfile.ZipInfo(name_, (2020, 1, 1, 0, 0, 0)), text)
    return path


def make_environment(folder: Path, *installed: Path | str, python: str = sys.executable) -> Path:
    """A virtual environment, with what pip is given to install and no index; its interpreter."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    own = folder / "bin" / "python"
    if installed:
        install(own, *installed)
    return own


def install(python: Path, *what: Path | str) -> None:
    """Have pip install into an environment, without dependencies: a wheel, or options and a project for setuptools."""
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "--no-input", "--quiet"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--no-warn-script-location"]
    done = subprocess.run(
        [*pip, "install", *offline, *what],
        # pip asks rustc for its version, which may write into the home folder. The backend is in our own environment.
        env={**os.environ, "HOME": str(python.parents[1]), "PYTHONPATH": str(Path(setuptools.__file__).parents[1])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def site_packages(python: Path) -> Path:
    """Where an environment has its distributions."""
    (found,) = (python.parents[1] / "lib").glob("python*/site-packages")
    return found


def make_project(folder: Path, name: str, files: Mapping[str, str], setup: str = "") -> Path:
    """A project that setuptools builds: a package below `src`, and what *setup* says besides its name.

    Args:
        files: content by path.
        setup: further arguments of `setuptools.setup`, as code.
    """
    folder.mkdir()
    (folder / "setup.py").write_text(
        "from setuptools import Extension, find_packages, setup\n"
        f"setup(name={name!r}, version='0.3', package_dir={{'': 'src'}}, packages=find_packages('src'), {setup})\n"
    )
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def make_layer(python: Path, cache: Path, said: list[str] | None = None) -> Dependencies:
    """The layer of an environment; *said* gets what is said meanwhile."""
    store = Parts(str(cache / "parts"))
    return dependency_layer(str(python), store, cache, progress=(said if said is not None else []).append)


def lay_out(layer: Dependencies, cache: Path, folder: Path) -> Path:
    """The virtual environment that a machine would make of a layer; its interpreter."""
    store = Parts(str(cache / "parts"))
    for file in layer.manifest.files:
        path = folder / "layer" / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path(store.path(file.digest)).read_bytes())
    environ = {**os.environ, "PEX_TOOLS": "1", "PEX_ROOT": str(folder / "root")}
    command = [sys.executable, folder / "layer" / "__main__.py", "venv", folder / "venv"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / "venv" / "bin" / "python"


def printed(*command: str | Path) -> str:
    """What a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(python: Path, code: str) -> str:
    """What an interpreter prints."""
    return printed(python, "-I", "-c", code)


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
