"""Wheels made again of what is installed: pip installs the same files from them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from environments import install, make_environment, make_wheel

from bigm.bundle.environment import Installed, environment_of
from bigm.bundle.wheels import is_portable, repack
from bigm.bundle.whereabouts import whereabouts_of


def printed(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


TAG = "cp{}{}".format(*sys.version_info)


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Installed]:
    (tmp_path / "made").mkdir()
    files = {"my_tool/__init__.py": "def main(): print('run')\n", "my_tool/data.txt": "data", "single.py": ""}
    python = make_environment(
        tmp_path / "venv",
        make_wheel(tmp_path / "made", "my-tool", "1.0.post1", files=files, scripts={"run-tool": "my_tool:main"}),
        make_wheel(tmp_path / "made", "both", tag="py2.py3-none-any"),
        make_wheel(tmp_path / "made", "native", tag=f"{TAG}-{TAG}-manylinux2014_x86_64"),
        make_wheel(tmp_path / "made", "abroad", files={"abroad-1.0.data/data/share/abroad.txt": "elsewhere"}),
    )
    return {each.name: each for each in environment_of(whereabouts_of(str(python))).distributions}


def test_what_is_of_python_files_alone_is_portable(found: dict[str, Installed]):
    assert ["both", "my-tool"] == sorted(name for name, each in found.items() if is_portable(each))
    assert is_portable(found["native"]._replace(in_place=True)), "of a project in place only metadata is made"


def test_a_wheel_made_again_installs_as_the_first_one_did(tmp_path: Path, found: dict[str, Installed]):
    (tmp_path / "again").mkdir()
    wheel = repack(found["my-tool"], tmp_path / "again")
    assert "my_tool-1.0.post1-py3-none-any.whl" == wheel.name
    python = make_environment(tmp_path / "other", wheel)
    (second,) = (tmp_path / "other").glob("lib/python*/site-packages")
    first = Path(found["my-tool"].site)

    def content(site: Path) -> dict[str, bytes]:
        paths = [path for pattern in ("my_tool/*", "single.py", "*.dist-info/*") for path in site.glob(pattern)]
        names = {"RECORD", "direct_url.json"}  # which say where it was installed from
        files = [path for path in paths if path.is_file() and path.name not in names and path.suffix != ".pyc"]
        return {
            str(path.relative_to(site)): path.read_bytes()
            for path in files
            if "my_tool" in str(path) or "single" in str(path)
        }

    assert content(first) == content(second)
    assert len(content(second)) >= 6
    assert "run" == printed(python.parent / "run-tool")


def test_the_same_distribution_makes_the_same_wheel(tmp_path: Path, found: dict[str, Installed]):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    one, two = (repack(found["both"], folder) for folder in folders)
    assert "both-1.0-py2.py3-none-any.whl" == one.name
    assert one.read_bytes() == two.read_bytes()


def test_of_a_project_in_place_there_is_metadata_alone(tmp_path: Path, found: dict[str, Installed]):
    python = make_environment(tmp_path / "other")
    install(python, repack(found["native"]._replace(in_place=True), tmp_path))
    code = "import importlib.metadata as m, importlib.util as u; print(m.version('native'), u.find_spec('native'))"
    assert "1.0 None" == printed(python, "-c", code)
