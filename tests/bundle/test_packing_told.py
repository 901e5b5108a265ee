"""What pex is told to make, and what becomes of it: by a stand-in, which makes nothing large and fetches nothing.

The real one is tested in test_pexfile.py, but for executables with a Python in them, which it fetches.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from environments import make_environment, site_packages

from bigm.bundle.embedded import FACTS

ROOT = Path(__file__).parents[2]
STUBS = ROOT / "tests" / "stubs"

BUILD = """
import sys
from pathlib import Path
from bigm.bootstrap.records import Main
from bigm.bundle.bundle import Bundle, Dependencies
from bigm.bundle.pexfile import build
from bigm.bundle.platforms import named
from bigm.bundle.snapshot import keep_bytes
from bigm.errors import BigmError
from bigm.manifest import File, Manifest
from bigm.parts import Parts

output, folder, scie = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "scie"
store = Parts(str(folder / "parts"))
text = b"{}"
one = lambda path: Manifest([File(path, keep_bytes(store, text), len(text))])
layer = Dependencies(one(".deps/numpy-2.1.0-py3-none-any.whl"), "key", "3.11", ("numpy 2.1.0",))
bundle = Bundle(
    one("project/x.py"), one("bigm/__init__.py"), {"": layer}, (), Main("path", "project/x.py"), "", "3.11", store
)
try:
    print([path.name for path in build(output, bundle, {"": named("linux-x86_64", "3.11")}, cache=folder, scie=scie)])
except BigmError as error:
    sys.exit(f"{error.message}|{error.hint}")
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An environment whose pex is the stand-in."""
    own = make_environment(tmp_path / "environment")
    shutil.copytree(STUBS / "pex", site_packages(own) / "pex")
    return own


def build(
    python: Path, tmp_path: Path, *options: str, output: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Have the environment's pex make a file, by default `tmp_path / "x.pex"`."""
    record = {"STUB_PEX_RECORD": str(tmp_path / "record.json"), "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"}
    return subprocess.run(
        [python, "-c", BUILD, output or tmp_path / "x.pex", tmp_path / "work", *options, "plain"],
        env={**os.environ, **record, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_pex_is_told_to_make_an_executable_beside_the_file(python: Path, tmp_path: Path):
    done = build(python, tmp_path, "scie")
    assert ("['x.pex', 'x']\n", 0) == (done.stdout, done.returncode), done.stderr
    assert ["an executable", "a pex"] == [(tmp_path / name).read_text() for name in ("x", "x.pex")]
    assert os.access(tmp_path / "x", os.X_OK)
    told = [word.replace(str(tmp_path), "") for word in json.loads((tmp_path / "record.json").read_text())]
    work = "/".join(told[1].split("/")[:-1])
    assert told == [
        *("--pex-repository", f"{work}/layer", "--intransitive", "numpy==2.1.0"),
        *("--sources-directory", f"{work}/sources", "--preamble-file", f"{work}/preamble.py"),
        *("--entry-point", "bigm.cli.embedded:main"),
        *("--layout", "zipapp", "--venv", "prepend", "--sh-boot", "--include-tools"),
        *("--scie", "eager", "--scie-python-version", "3.11", "-o", f"{work}/made/x.pex"),
    ]


def test_what_cannot_be_fetched_is_said_with_what_to_do(python: Path, tmp_path: Path):
    done = build(python, tmp_path, "scie", STUB_PEX_FAILS="<urlopen error [Errno -2] Name or service not known>")
    message, _, hint = done.stderr.strip().rpartition("|")
    assert message.startswith("an executable with a Python in it cannot be made: ")
    assert "<urlopen error [Errno -2] Name or service not known>" in message
    assert "Traceback" not in message
    assert "leave out --scie" in hint
    assert [] == [path.name for path in tmp_path.iterdir() if path.name.startswith((".x.pex", "x"))]


def test_what_pex_says_when_it_fails_is_shown_and_the_file_of_before_stays(python: Path, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "x.pex", "w") as archive:
        archive.writestr(FACTS, "{}")
    before = (tmp_path / "x.pex").read_bytes()
    done = build(python, tmp_path, STUB_PEX_FAILS="numpy is broken")
    assert done.returncode == 1
    assert "numpy is broken" in done.stderr
    assert "Traceback" not in done.stderr
    assert before == (tmp_path / "x.pex").read_bytes()
    assert [] == [path.name for path in (tmp_path / "work").glob("pexfile-*")]


def test_a_file_that_cannot_be_written_in_the_end_is_said(python: Path, tmp_path: Path):
    """/proc is a folder that even root makes nothing in."""
    done = build(python, tmp_path, output=Path("/proc/x.pex"))
    assert done.stderr.startswith("cannot write /proc/x.pex: ")
    assert done.stderr.endswith("|make room, or name another file: -o FILE.pex\n")


@pytest.mark.root
def test_a_full_disk_is_said_and_nothing_is_left_there(python: Path, tmp_path: Path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "bigm-test", small], check=True, timeout=10)
    try:
        done = build(python, tmp_path, output=small / "x.pex", STUB_PEX_SIZE="100000")
        assert "x.pex: No space left on device; it has 100.0 kB, and 65.5 kB are free there" in done.stderr
        assert [] == list(small.iterdir())
    finally:
        subprocess.run(["umount", small], check=True, timeout=10)


def test_pex_has_the_options_that_it_is_told(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "pex", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PEX_ROOT": str(tmp_path)},
    )
    used = [
        "--scie.* {lazy,eager}",  # since Python 3.13 the values are said after all names of an option
        "--scie-python-version",
        "--preamble-file",
        "--pex-repository",
        "--complete-platform",
    ]
    assert [] == [option for option in used if not re.search(option, done.stdout)]
