"""Platforms by report, name and file; the reference is pex itself, and `packaging` for what is not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import packaging.tags
import pytest

from bigm.bootstrap import report
from bigm.bundle import platforms
from bigm.bundle.bundle import Dependencies
from bigm.errors import ConfigError
from bigm.manifest import File, Manifest
from interpreters import find_python


def found(version: str) -> str:
    python = find_python(version)
    if not python:
        pytest.skip(f"no Python {version} here")
    return python


def inspect(python: str, root: Path) -> dict:
    """What pex says of an interpreter."""
    environ = {**os.environ, "PEX_ROOT": str(root)}
    command = [sys.executable, "-m", "pex.cli", "interpreter", "inspect", "--markers", "--tags", "--python", python]
    return json.loads(subprocess.run(command, env=environ, capture_output=True, timeout=60, check=True).stdout)


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_an_interpreter_is_described_as_pex_describes_it(version: str, tmp_path: Path):
    python = found(version)
    expected = inspect(python, tmp_path)
    platform = platforms.of_report(report.examine(python))
    described = json.loads(platform.to_json())
    assert expected["marker_environment"] == described["marker_environment"]
    assert sorted(expected["compatible_tags"]) == sorted(described["compatible_tags"])

    # Wheels that name no libc stand last here; `packaging` has them first since 26.3. None is on an index.
    def portable(tags: list[str]) -> list[str]:
        return [tag for tag in tags if "-linux_" not in tag]

    assert portable(expected["compatible_tags"]) == portable(described["compatible_tags"])


@pytest.mark.parametrize(
    ("version", "machine"),
    [
        *[(version, "x86_64") for version in ((10, 9), (10, 15), (11, 0), (13, 0), (26, 1))],
        *[(version, "arm64") for version in ((11, 0), (14, 2), (26, 1))],
    ],
)
def test_a_macos_takes_the_wheels_that_packaging_says(version: tuple[int, int], machine: str):
    expected = list(packaging.tags.mac_platforms(version, machine))
    assert expected == report.mac_platforms(version, machine)


def test_the_tags_of_a_macos_are_in_the_order_of_packaging():
    places = list(packaging.tags.mac_platforms((14, 0), "arm64"))
    expected = [
        *packaging.tags.cpython_tags((3, 12), ["cp312"], places),
        *packaging.tags.compatible_tags((3, 12), "cp312", places),
    ]
    assert tuple(map(str, expected)) == platforms.named("macosx-14.0-arm64", "3.12").tags


def test_a_python_without_the_gil_takes_no_stable_abi():
    tags = platforms._tags("3.13", ["cp313t"], ["linux_x86_64"])
    assert "cp313-cp313t-linux_x86_64" in tags
    assert not [tag for tag in tags if "abi3" in tag and "abi3t" not in tag]


@pytest.mark.parametrize("name", platforms.NAMES)
def test_every_known_name_is_one_and_names_itself(name: str):
    platform = platforms.named(name, "3.11")
    assert name == platform.name
    assert platform.markers["platform_machine"] == name.partition("-")[2]
    assert platforms.Platform(name, "3.11", platform.markers, platform.tags) == platform


def test_a_name_may_say_how_old_the_libc_is():
    old, new = platforms.named("linux-2.17-x86_64", "3.11"), platforms.named("linux-x86_64", "3.11")
    assert "cp311-cp311-manylinux_2_28_x86_64" in new.tags
    assert "cp311-cp311-manylinux_2_28_x86_64" not in old.tags
    assert "cp311-cp311-manylinux2014_x86_64" in old.tags
    assert not [tag for tag in platforms.named("musllinux-1.1-x86_64", "3.11").tags if "manylinux" in tag]


@pytest.mark.parametrize("name", ["linux", "windows-x86_64", "linux-x86", "macosx-11-arm64", "linux-sparc", ""])
def test_a_name_that_is_none_is_refused_with_the_known_ones(name: str):
    with pytest.raises(ConfigError, match=r"no platform called .*linux-aarch64"):
        platforms.parse(name, "3.11")


def test_a_file_of_pex_is_read(tmp_path: Path):
    platform = platforms.named("musllinux-aarch64", "3.12")
    file = tmp_path / "alpine.json"
    file.write_text(platform.to_json())
    assert platform == platforms.parse(str(file), "3.11")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "no JSON",
        '{"marker_environment": {"python_version": "3.11"}, "compatible_tags": ["py3-none-any"]}',
        '{"marker_environment": {}, "compatible_tags": ["cp311-cp311-linux_x86_64"]}',
        '{"marker_environment": {"python_version": "3.11"}, "compatible_tags": [1]}',
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "platform.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"describes no platform.*pex3 interpreter inspect"):
        platforms.parse(str(file), "3.11")


def test_a_file_that_is_missing_is_said_to_be(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        platforms.parse(str(tmp_path / "none.json"), "3.11")


def test_wheels_that_a_platform_does_not_take_are_named():
    wheels = [
        "pure-1.0-py2.py3-none-any.whl",
        "stable-1.0-cp38-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "new-1.0-cp311-cp311-manylinux_2_34_x86_64.whl",
        "mac-1.0-cp311-cp311-macosx_11_0_arm64.whl",
        "built_here-1.0-cp311-cp311-linux_x86_64.whl",
        "other_python-1.0-cp310-cp310-manylinux2014_x86_64.whl",
    ]
    files = [File(f".deps/{wheel}/x.py", "0" * 64, 1) for wheel in wheels] + [File("__main__.py", "0" * 64, 1)]
    layer = Dependencies(Manifest(files), "key", "3.11", ())
    assert platforms.misfits(layer, platforms.named("linux-x86_64", "3.11")) == [wheels[3], wheels[2], wheels[5]]
