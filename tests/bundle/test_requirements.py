"""Where dependencies come from: blocks in scripts, locks, files; and what means nothing is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from bigm.bundle import requirements
from bigm.bundle.environment import DependencyError
from bigm.bundle.requirements import (
    Block,
    check_python,
    find_file,
    find_lock,
    read_block,
    read_file,
    read_lock,
    unmet,
)
from bigm.errors import ConfigError, ProgramError

SCRIPT = """#!/usr/bin/env python3
# A program.

# /// script
# requires-python = ">=3.10"
# dependencies = [
#   "numpy>=2",
#   "requests[socks] ; python_version < '4'",
# ]
#
# [tool.uv]
# exclude-newer = "2024-01-01T00:00:00Z"
# ///

import numpy
"""


@pytest.fixture(autouse=True)
def _no_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path_factory.mktemp("uv")))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_block_of_a_script_is_read(tmp_path: Path, end: str):
    script = tmp_path / "bigpi.py"
    script.write_bytes(SCRIPT.replace("\n", end).encode())
    block = read_block(script)
    assert Block(script, ("numpy>=2", "requests[socks] ; python_version < '4'"), ">=3.10") == block
    assert "the block in bigpi.py" == block.requirements().origin


@pytest.mark.parametrize(
    "text",
    [
        "import numpy\n",
        "# /// script\nimport numpy\n",
        "# /// other\n# dependencies = 3\n# ///\n",
        "    # /// script\n    # dependencies = []\n    # ///\n",
        '"""\n/// script\n///\n"""\n',
        "\udcff",
    ],
)
def test_a_script_without_a_block_has_none(tmp_path: Path, text: str):
    script = tmp_path / "x.py"
    script.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_block(script) is None


def test_a_script_that_is_not_there_has_no_block(tmp_path: Path):
    assert read_block(tmp_path / "none.py") is None
    assert read_block(tmp_path) is None


def test_a_block_may_ask_for_nothing(tmp_path: Path):
    assert Block(tmp_path / "x.py", (), "") == read_block(write(tmp_path / "x.py", "# /// script\n#\n# ///\n"))


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ("dependencies = [", r"the block in .*x.py \(line 2\) is no TOML"),
        ("dependencies = 'numpy'", r"x.py \(line 2\) wants dependencies to be a list of texts"),
        ("dependencies = [1]", "wants dependencies to be a list of texts"),
        ("requires-python = 3.11", "and requires-python a text"),
        ("dependencies = ['numpy >= ']", r"x.py \(line 2\) has 'numpy >= ', which is no requirement: "),
        ("x = 1\n# ///\n\n# /// script\n# x = 1", "has 2 blocks"),
    ],
)
def test_a_block_that_means_nothing_is_refused(tmp_path: Path, block: str, error: str):
    script = write(tmp_path / "x.py", f"\n# /// script\n# {block}\n# ///\n")
    with pytest.raises(ConfigError, match=error):
        read_block(script)


def test_a_script_runs_on_the_pythons_it_asks_for_alone(tmp_path: Path):
    script = tmp_path / "x.py"
    for python in ("", ">=3.11", ">=3.11,<3.12", "==3.11.*", ">=3.11.0rc1"):
        check_python(Block(script, (), python), "3.11.7")
    with pytest.raises(ProgramError, match=r"x.py requires Python >=3.12, and this is 3.11.7; run it with"):
        check_python(Block(script, (), ">=3.12"), "3.11.7")
    with pytest.raises(ProgramError, match=r"requires-python in .* means nothing"):
        check_python(Block(script, (), "at least 3.11"), "3.11.7")


def test_what_an_environment_lacks_is_said_with_what_it_has():
    wanted = ["numpy>=2", "Py.YAML", "requests", "tomli; python_version < '3'", "wheel @ https://x/wheel.whl"]
    installed = {"numpy": "1.26.4", "requests": "2.0", "wheel": "1.0"}
    expected = ["numpy>=2 (1.26.4 is installed)", "Py.YAML (not installed)"]
    assert expected == unmet(wanted, installed, {})
    assert [] == unmet(["numpy>=2"], {"numpy": "2.1rc1"}, {})


def test_the_most_exact_lock_of_a_project_is_found(tmp_path: Path):
    assert find_lock(tmp_path) is None
    for name in ("poetry.lock", "uv.lock", "pylock.toml"):
        write(tmp_path / name, "")
        assert tmp_path / name == find_lock(tmp_path)


def test_a_file_that_says_what_is_required_is_found(tmp_path: Path):
    assert find_file(tmp_path) is None
    write(tmp_path / "pyproject.toml", "[tool.ruff]\n")
    assert find_file(tmp_path) is None, "it requires nothing"
    write(tmp_path / "pyproject.toml", '[project]\ndependencies = ["numpy"]\n')
    assert tmp_path / "pyproject.toml" == find_file(tmp_path)
    write(tmp_path / "requirements.txt", "numpy\n")
    assert tmp_path / "requirements.txt" == find_file(tmp_path)


def test_requirements_of_a_file_change_with_those_it_names(tmp_path: Path):
    write(tmp_path / "b.txt", "numpy==1\n-r a.txt\n")
    path = write(tmp_path / "a.txt", "pandas\n-r b.txt\n-c https://x/c.txt\n")
    first = read_file(path)
    assert ("a.txt", (str(path),)) == (first.origin, first.files)
    write(tmp_path / "b.txt", "numpy==2\n-r a.txt\n")
    assert first.text != read_file(path).text
    (tmp_path / "b.txt").unlink()
    with pytest.raises(DependencyError, match=r"cannot read .*b.txt: No such file"):
        read_file(path)


def test_the_requirements_of_a_project_are_those_of_its_pyproject(tmp_path: Path):
    path = write(tmp_path / "pyproject.toml", '[project]\ndependencies = ["numpy>=2", "pandas"]\n')
    assert ("numpy>=2", "pandas") == read_file(path).lines
    write(path, '[project]\ndependencies = ["numpy=2"]\n')
    with pytest.raises(ConfigError, match=r"pyproject.toml has 'numpy=2', which is no requirement"):
        read_file(path)
    write(path, '[project]\ndependencies = "numpy"\n')
    with pytest.raises(ConfigError, match="to be a list of texts"):
        read_file(path)
    write(path, "[project\n")
    with pytest.raises(ConfigError, match=r"pyproject.toml is no TOML"):
        read_file(path)


def test_of_poetrys_own_form_the_names_count_and_its_lock_has_the_versions(tmp_path: Path):
    write(
        tmp_path / "pyproject.toml",
        '[tool.poetry.dependencies]\npython = "^3.10"\nNumPy = "^2"\nrich = {version = "*", optional = true}\n'
        'uvicorn = {version = "^0.3", extras = ["standard"], markers = "sys_platform != \'win32\'"}\n',
    )
    lock = write(
        tmp_path / "poetry.lock",
        '[[package]]\nname = "numpy"\nversion = "2.1"\n[[package]]\nname = "twice"\nversion = "1"\n'
        '[[package]]\nname = "twice"\nversion = "2"\n[[package]]\nname = "mine"\nversion = "1"\n'
        '[package.source]\ntype = "directory"\nurl = "."\n',
    )
    found = read_lock(lock)
    assert ("NumPy", "uvicorn[standard] ; sys_platform != 'win32'") == found.lines
    assert ("numpy==2.1",) == found.constraints


def test_a_lock_of_uv_is_read_for_its_versions_where_uv_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(requirements.shutil, "which", lambda name, path=None: None)
    write(tmp_path / "pyproject.toml", '[project]\nname = "app"\ndependencies = ["numpy"]\n')
    lock = write(
        tmp_path / "uv.lock",
        'version = 1\n[[package]]\nname = "app"\nversion = "1"\nsource = { virtual = "." }\n'
        '[[package]]\nname = "numpy"\nversion = "2.1"\nsource = { registry = "https://x" }\n',
    )
    found = read_lock(lock)
    assert (("numpy",), ("numpy==2.1",)) == (found.lines, found.constraints)
    assert ("uv.lock is read for its versions alone: uv is not installed",) == found.notes


def test_what_uv_says_of_a_lock_it_cannot_read_is_shown(tmp_path: Path):
    write(tmp_path / "pyproject.toml", '[project]\nname = "app"\nversion = "1"\ndependencies = ["numpy"]\n')
    with pytest.raises(DependencyError, match=r"uv cannot export .*uv.lock: .*parse"):
        read_lock(write(tmp_path / "uv.lock", "nonsense\n"))


def test_a_lock_as_of_pep_751_is_taken_as_it_is(tmp_path: Path):
    for name in ("pylock.toml", "pylock.gpu.toml"):
        path = write(tmp_path / name, 'lock-version = "1.0"\n')
        found = read_file(path)
        assert (name, str(path), 'lock-version = "1.0"\n') == (found.origin, found.pylock, found.text)
