"""What interpreters report of themselves, and what is made of things that are none."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bigm.bootstrap import report
from interpreters import find_python


@pytest.mark.parametrize("version", ["3.6", "3.8", "3.9", "3.10", "3.13"])
def test_an_interpreter_reports_what_it_is(version: str):
    python = find_python(version)
    if not python:
        pytest.skip(f"no Python {version} here")
    found = report.examine(python)
    assert str(found["version"]).startswith(version + ".")
    assert ("cpython", True) == (found["implementation"], found["venv"])
    assert os.path.isfile(str(found["executable"]))
    assert os.path.isdir(str(found["base_prefix"]))
    assert f"{sys.platform}-{os.uname().machine}" == found["platform"]


def test_an_interpreter_is_examined_as_itself_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    assert "error" not in report.examine(sys.executable)


def test_the_report_of_a_virtual_environment_names_its_base(tmp_path: Path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=60)
    found = report.examine(str(tmp_path / "venv" / "bin" / "python"))
    assert sys.base_prefix == found["base_prefix"]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2; exit 127\n", "pyenv: python3.12: command not"),
        ("#!/bin/sh\nexit 3\n", "exits with 3"),
        ("#!/bin/sh\necho hello\n", "something else"),
        ("#!/bin/sh\nprintf '\\377'\n", "something else"),
        ("#!/bin/sh\necho '[1]'\n", "something else"),
        ("not executable at all", "Exec format error"),
    ],
)
def test_what_only_looks_like_an_interpreter_is_told_from_one(tmp_path: Path, script: str, error: str):
    python = write(tmp_path / "python3.12", script)
    found = report.examine(python)
    assert {"path", "error"} == set(found)
    assert python == found["path"]
    assert error in str(found["error"])


def test_a_missing_interpreter_is_said_to_be(tmp_path: Path):
    assert "No such file" in str(report.examine(str(tmp_path / "python3"))["error"])


def test_one_that_never_reports_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "_EXAMINED_WITHIN", 0.2)
    python = write(tmp_path / "python3", "#!/bin/sh\nexec sleep 60\n")
    assert "within 0.2 s" in str(report.examine(python)["error"])


def test_the_program_is_found_in_a_zip_too(tmp_path: Path):
    """As on a machine, where this module lies in the agent's extension."""
    archive = tmp_path / "extension.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(report.__file__, "elsewhere/report.py")
        file.writestr("elsewhere/__init__.py", "")
    code = "import sys; from elsewhere import report; print(report.examine(sys.executable)['version'])"
    answer = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(archive)}, capture_output=True, text=True, timeout=60
    )
    assert "{}.{}.{}\n".format(*sys.version_info) == answer.stdout, answer.stderr


def elf(loader: str, order: str = "<") -> bytes:
    """The head of a 64-bit executable that names its loader, behind a segment of another kind."""
    name = os.fsencode(loader) + b"\0"
    head = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + bytes(10)
    head += struct.pack(order + "HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    other = struct.pack(order + "IIQQQQQQ", 6, 0, 0, 0, 0, 0, 0, 0)
    interp = struct.pack(order + "IIQQQQQQ", 3, 0, 176, 0, 0, len(name), len(name), 1)
    return head + other + interp + name


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_loader_of_a_musl_tells_its_version(tmp_path: Path, order: str):
    loader = write(
        tmp_path / "ld-musl-x86_64.so.1",
        "#!/bin/sh\nprintf 'musl libc (x86_64)\\nVersion 1.2.5\\nDynamic Program Loader\\n' >&2; exit 1\n",
    )
    executable = tmp_path / "python3"
    executable.write_bytes(elf(loader, order))
    assert (1, 2) == report._musl(str(executable))
    assert report._musl(sys.executable) is None


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01" + bytes(80), elf("/lib/x")[:100]])
def test_a_file_without_a_loader_has_no_musl(tmp_path: Path, content: bytes):
    executable = tmp_path / "python3"
    executable.write_bytes(content)
    assert report._musl(str(executable)) is None


def test_the_wheels_of_a_musl_name_no_glibc():
    expected = ["musllinux_1_2_aarch64", "musllinux_1_1_aarch64", "musllinux_1_0_aarch64", "linux_aarch64"]
    assert expected == report.linux_platforms("aarch64", musl=(1, 2))


def test_the_oldest_glibc_differs_by_architecture():
    assert "manylinux1_x86_64" in report.linux_platforms("x86_64", glibc=(2, 36))
    assert "manylinux2014_aarch64" == report.linux_platforms("aarch64", glibc=(2, 36))[-2]
    assert ["linux_armv8l"] == report.linux_platforms("armv8l", glibc=(2, 36))
