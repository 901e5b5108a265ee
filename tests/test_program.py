"""How a driver program is described to machines, asked of real interpreters in every way a program can be started."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TELL = "import bigm.program as p; m = p.main_module(); print(m.kind, m.value, m.file)"


def run(*command: str, cwd: Path, stdin: str = "") -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=env, input=stdin, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package = tmp_path / "pkg"
    package.mkdir()
    for name in ("__init__", "__main__", "main"):
        (package / f"{name}.py").write_text("" if name == "__init__" else TELL)
    for name in ("script.py", "tool", "pytest", "__main__.py"):
        (tmp_path / name).write_text(TELL)
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("__main__.py", TELL)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["script.py"], "path {0}/script.py {0}/script.py"),
        (["tool"], "path {0}/tool {0}/tool"),  # as console scripts are
        (["-m", "pkg.main"], "module pkg.main {0}/pkg/main.py"),
        (["-m", "pkg"], "module pkg.__main__ {0}/pkg/__main__.py"),
        (["."], "module __main__ {0}/__main__.py"),
        (["app.zip"], "module __main__ {0}/app.zip/__main__.py"),
        (["pytest"], "none"),
        (["-c", TELL], "none"),
        (["-"], "none"),
    ],
)
def test_main_module_is_named_such_that_a_machine_finds_it(folder: Path, command: list[str], expected: str):
    assert expected.format(folder) == run(*command, cwd=folder, stdin=TELL)


def test_main_module_of_pytest_itself_is_none():
    import bigm.program

    assert "none" == bigm.program.main_module().kind


def test_search_path_means_the_same_in_another_folder(folder: Path):
    code = "import sys, bigm.program as p; sys.path[:] = ['', 'pkg', '/x']; print(p.search_path())"
    assert f"('{folder}', '{folder}/pkg', '/x')" == run("-c", code, cwd=folder)


def test_what_a_machine_pickled_of_its_main_module_is_found_on_the_driver(folder: Path):
    (folder / "script.py").write_text(
        "import pickle, bigm.program\n"
        "class PI: pass\n"
        "bigm.program.share_main()\n"
        "print(pickle.loads(b'c__bigm_main__\\nPI\\n.') is PI)\n"
    )
    assert "True" == run("script.py", cwd=folder)
