"""The program's main module on a machine, imported by real interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bigm.bootstrap.records import Main

ROOT = Path(__file__).parents[2]
IMPORT = """
import sys
from bigm.bootstrap.records import Main
from bigm.errors import ProgramError
from bigm.worker import program
try:
    program.import_main({main!r})
except ProgramError as error:
    print("FAILED", error)
"""


def imported(main: Main, then: str = "", *, cwd: Path) -> str:
    """What a process says that imports *main* and then executes *then*."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(cwd)])}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT.format(main=main) + then],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def script(folder: Path, text: str) -> Main:
    path = folder / "prog.py"
    path.write_text(text)
    return Main("path", str(path), str(path))


def test_what_is_guarded_does_not_run(tmp_path: Path):
    main = script(tmp_path, "print('body')\nif __name__ == '__main__':\n    print('guarded')\n")
    assert "body\n" == imported(main, cwd=tmp_path)


def test_main_module_stands_under_both_names_and_shares_its_globals(tmp_path: Path):
    main = script(tmp_path, "N = 1\nclass PI: pass\ndef n(): return N\n")
    then = """
main = sys.modules["__main__"]
main.N = 2
print(main is sys.modules["__bigm_main__"], main.n(), main.PI.__module__)
"""
    assert "True 2 __bigm_main__\n" == imported(main, then, cwd=tmp_path)


def test_annotations_and_dataclasses_of_the_main_module_work(tmp_path: Path):
    text = """
from __future__ import annotations
import dataclasses, typing
@dataclasses.dataclass
class Point:
    x: int
    kind: typing.ClassVar[str] = "p"
print(dataclasses.fields(Point)[0].type, len(dataclasses.fields(Point)), Point(1))
"""
    assert "int 1 Point(x=1)\n" == imported(script(tmp_path, text), cwd=tmp_path)


def test_future_statements_of_bigm_do_not_leak_into_the_program(tmp_path: Path):
    assert "<class 'int'>\n" == imported(
        script(tmp_path, "def f(x: int): pass\nprint(f.__annotations__['x'])\n"), cwd=tmp_path
    )


@pytest.mark.parametrize(
    ("value", "file"),
    [("pkg.main", "pkg/main.py"), ("pkg.__main__", "pkg/__main__.py"), ("__main__", "__main__.py")],
)
def test_modules_are_imported_by_name_with_relative_imports(tmp_path: Path, value: str, file: str):
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "other.py").write_text("")
    relative = "" if value == "__main__" else "from . import other\n"
    (tmp_path / file).write_text(f"{relative}print(__name__, __file__, __spec__.name)\n")
    said = imported(Main("module", value, str(tmp_path / file)), cwd=tmp_path)
    assert f"__bigm_main__ {tmp_path / file} {value}\n" == said


def test_a_zipped_program_is_imported_from_its_zip_file(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("__main__.py", "print('from', __file__)\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'app.zip')!r})\n" + IMPORT.format(
        main=Main("module", "__main__", "")
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert f"from {tmp_path}/app.zip/__main__.py\n" == done.stdout, done.stderr


def test_no_main_module_is_nothing_to_import(tmp_path: Path):
    assert "" == imported(Main("none"), cwd=tmp_path)


@pytest.mark.parametrize(
    ("text", "what", "advice"),
    [
        ("def f():\n    raise ValueError('boom')\nf()\n", "ValueError: boom", "if __name__"),
        ("import sys\nsys.exit(2)\n", "it called sys.exit(2)", "if __name__"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt", "if __name__"),
        ("import no_such_module\n", "No module named 'no_such_module'", "sys.path there is ["),
        ("def f(:\n", "SyntaxError", "newer than the machine's"),
    ],
)
def test_a_failed_import_says_what_where_and_what_to_do(tmp_path: Path, text: str, what: str, advice: str):
    said = imported(script(tmp_path, text), cwd=tmp_path)
    first, _, traceback = said.partition("\n")
    assert f"FAILED the program's main module {tmp_path}/prog.py could not be imported: " in first
    assert what in first
    assert advice in first
    assert f'File "{tmp_path}/prog.py", line' in traceback
    assert "bigm/worker" not in traceback  # the user's frames only
    assert "importlib" not in traceback


def test_a_module_that_is_not_there_is_named(tmp_path: Path):
    said = imported(Main("module", "no.such", "/x/no/such.py"), cwd=tmp_path)
    assert "the program's main module no.such (/x/no/such.py) could not be imported" in said
    assert "No module named 'no'" in said


def test_start_outside_of_the_import_is_refused_on_a_machine(tmp_path: Path):
    then = """
program.become_machine(sys.exit)
from bigm.errors import ConfigError
try:
    program.start()
except ConfigError as error:
    print(program.is_driver(), error)
"""
    said = imported(Main("none"), then, cwd=tmp_path)
    assert said.startswith("False bigm.start() was called by a service on a machine")


def test_start_within_the_import_serves_and_leaves_no_module_locked(tmp_path: Path):
    (tmp_path / "deep.py").write_text("class PI: pass\nfrom bigm.worker import program\nprogram.start()\n")
    code = f"""
import os, sys, threading
from bigm.bootstrap.records import Main
from bigm.worker import program
def serve():
    thread = threading.Thread(target=lambda: print(program.is_driver(), __import__("deep").PI.__name__))
    thread.start()
    thread.join(10)
    sys.stdout.flush()
    os._exit(thread.is_alive())
program.become_machine(serve)
program.import_main({script(tmp_path, "import deep")!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ("False PI\n", 0) == (done.stdout, done.returncode), done.stderr
