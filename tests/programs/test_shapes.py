"""Every shape a driver program can have, as real programs that form a local machine and call it.

Each program prints what its service on the machine says of itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SERVICE = """
import os, sys
import bigm
class Greeter:
    def greet(self, name):
        return f"hello {name} from {type(self).__qualname__}, {bigm.is_driver()}, {sys.argv[1:]}"
"""
USE = """
def use(name="bob"):
    with bigm.start() as cluster:
        (machine,) = cluster.start(1, services={"Greeter": Greeter()})
        cluster.wait([machine])
        there = os.getpid() != machine.call("Greeter.pid")
        print(machine.call("Greeter.greet", name), there, type(machine.call("Greeter.me")) is Greeter)
"""
SERVICE += "    def pid(self): return os.getpid()\n    def me(self): return self\n"
MAIN = "if __name__ == '__main__':\n"
ARGPARSE = """
import argparse
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    use(parser.parse_args().name)
"""
CLICK = """
import click
@click.command()
@click.option("--name", required=True)
@click.argument("file", type=click.Path(exists=True))
def main(name, file):
    os.unlink(file)  # from now on only the driver has seen it
    use(name)
"""
TYPER = """
import pathlib, typer
app = typer.Typer()
@app.command()
def main(name: str, file: pathlib.Path = typer.Argument(exists=True)):
    file.unlink()  # from now on only the driver has seen it
    use(name)
"""


def run(folder: Path, *command: str, status: int = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert status == done.returncode, done.stdout + done.stderr
    return done


def test_a_script_with_its_service_in_itself(tmp_path: Path):
    (tmp_path / "prog.py").write_text(SERVICE + USE + MAIN + "    use()")
    assert "hello bob from Greeter, False, ['-x'] True True\n" == run(tmp_path, "prog.py", "-x").stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("libraries", "arguments"),
    [(ARGPARSE, ["--name", "bob"]), (CLICK, ["--name", "bob", "file"]), (TYPER, ["bob", "file"])],
    ids=["argparse", "click", "typer"],
)
def test_flags_are_read_on_the_driver_only(tmp_path: Path, libraries: str, arguments: list[str]):
    (tmp_path / "file").touch()
    (tmp_path / "prog.py").write_text(
        SERVICE + USE + libraries + MAIN + ("    app()" if "typer" in libraries else "    main()")
    )
    assert f"hello bob from Greeter, False, {arguments} True True\n" == run(tmp_path, "prog.py", *arguments).stdout


@pytest.mark.slow
def test_a_script_with_its_service_in_a_sibling_module(tmp_path: Path):
    (tmp_path / "sibling.py").write_text(SERVICE)
    (tmp_path / "prog.py").write_text("import os, bigm\nfrom sibling import Greeter\n" + USE + MAIN + "    use()")
    assert "hello bob from Greeter, False, [] True True\n" == run(tmp_path.parent, str(tmp_path / "prog.py")).stdout


@pytest.mark.slow
def test_a_service_of_an_installed_package(tmp_path: Path):
    """`sortedcontainers` is installed beside hypothesis; nothing in it knows of bigm."""
    (tmp_path / "prog.py").write_text(
        "import bigm, sortedcontainers\n"
        + MAIN
        + "    with bigm.start() as cluster:\n"
        + "        (machine,) = cluster.start(1, services={'List': sortedcontainers.SortedList([3, 1])})\n"
        + "        machine.call('List.add', 2)\n"
        + "        print(machine.call('List.index', 2), list(machine.call('List.copy')))\n"
    )
    assert "1 [1, 2, 3]\n" == run(tmp_path, "prog.py").stdout


@pytest.mark.slow
@pytest.mark.parametrize("module", ["pkg.main", "pkg"])
def test_a_module_run_by_name(tmp_path: Path, module: str):
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "services.py").write_text(SERVICE)
    program = "import os, bigm\nfrom .services import Greeter as Base\nclass Greeter(Base): pass\n" + USE
    (package / ("main.py" if module == "pkg.main" else "__main__.py")).write_text(program + MAIN + "    use()")
    assert "hello bob from Greeter, False, ['-x'] True True\n" == run(tmp_path, "-m", module, "-x").stdout


@pytest.mark.slow
def test_a_console_entry_point(tmp_path: Path):
    """As pip writes it: a file without a suffix, elsewhere than the program."""
    (tmp_path / "prog.py").write_text(SERVICE + USE)
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "greet").write_text("import sys\nfrom prog import use\n" + MAIN + "    sys.exit(use())\n")
    done = run(tmp_path, "bin/greet", env={"PYTHONPATH": str(tmp_path)})
    assert "hello bob from Greeter, False, [] True True\n" == done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_or_zip_file_with_a_main_module(tmp_path: Path, zipped: bool):
    text = SERVICE + USE + MAIN + "    use()"
    if zipped:
        with zipfile.ZipFile(tmp_path / "prog", "w") as archive:
            archive.writestr("__main__.py", text)
    else:
        (tmp_path / "prog").mkdir()
        (tmp_path / "prog" / "__main__.py").write_text(text)
    assert "hello bob from Greeter, False, [] True True\n" == run(tmp_path, "prog").stdout


@pytest.mark.slow
def test_a_program_without_a_guard(tmp_path: Path):
    (tmp_path / "prog.py").write_text(SERVICE + USE + "use()\nprint('driver only')")
    assert "hello bob from Greeter, False, [] True True\ndriver only\n" == run(tmp_path, "prog.py").stdout


@pytest.mark.slow
def test_pytest_as_the_driver_with_a_class_of_the_test_module(tmp_path: Path):
    (tmp_path / "test_it.py").write_text(SERVICE + USE + "def test_it():\n    use()\n    assert bigm.is_driver()\n")
    done = run(tmp_path, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "test_it.py")
    assert "hello bob from Greeter, False" in done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.slow
def test_the_interpreters_options_hold_on_machines(tmp_path: Path):
    program = (
        SERVICE
        + "    def flags(self): return __debug__, sys.flags.dev_mode, 'ignore::UserWarning' in sys.warnoptions\n"
    )
    program += MAIN + "    with bigm.start() as cluster:\n"
    program += "        print(cluster.start(1, services={'G': Greeter()})[0].call('G.flags'))\n"
    (tmp_path / "prog.py").write_text(program)
    done = run(tmp_path, "-O", "-X", "dev", "-W", "ignore::UserWarning", "prog.py")
    assert "(False, True, True)\n" == done.stdout


@pytest.mark.slow
def test_a_prompt_forms_machines_that_are_threads_with_classes_of_its_own(tmp_path: Path):
    text = SERVICE + USE.replace("bigm.start()", "bigm.start('inprocess')") + "use()"
    assert "hello bob from Greeter, True, [] False True\n" == run(tmp_path, "-c", text).stdout


@pytest.mark.slow
def test_the_environment_given_overrides_the_drivers_own(tmp_path: Path):
    program = SERVICE + "    def env(self): return os.environ['COLOUR'], os.environ['SIZE']\n" + MAIN
    program += "    with bigm.start() as cluster:\n"
    program += "        machines = cluster.start(1, services={'G': Greeter()}, env={'COLOUR': 'blue'})\n"
    program += "        print(machines[0].call('G.env'))\n"
    (tmp_path / "prog.py").write_text(program)
    assert "('blue', '7')\n" == run(tmp_path, "prog.py", env={"COLOUR": "red", "SIZE": "7"}).stdout


def test_a_program_that_raises_before_its_start_leaves_nothing_and_is_python_s_own(tmp_path: Path):
    (tmp_path / "prog.py").write_text(SERVICE + USE + MAIN + "    1/0\n    use()")
    done = run(tmp_path, "prog.py", status=1)
    assert "" == done.stdout
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_program_that_raises_with_machines_ends_them_and_exits_as_python_does(tmp_path: Path):
    text = SERVICE + MAIN + "    cluster = bigm.start()\n    (machine,) = cluster.start(1, services={'G': Greeter()})\n"
    text += "    print(machine.call('G.pid'), flush=True)\n    1/0\n"
    (tmp_path / "prog.py").write_text(text)
    done = run(tmp_path, "prog.py", status=1)
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert not Path(f"/proc/{int(done.stdout)}").exists()


def test_a_program_that_raises_on_machines_only_says_so_on_the_driver(tmp_path: Path):
    text = "import sys\nif __name__ != '__main__':\n    raise LookupError('no licence here')\n"
    (tmp_path / "prog.py").write_text(text + SERVICE + USE + MAIN + "    use()")
    done = run(tmp_path, "prog.py", status=2)
    assert f"{tmp_path}/prog.py could not be imported: LookupError: no licence here" in done.stderr
    assert "if __name__" in done.stderr
    assert "bigm/worker" not in done.stderr


@pytest.mark.slow
def test_an_unguarded_parser_that_exits_on_the_machine_says_what_to_guard(tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "prog.py").write_text(SERVICE + USE + CLICK + "main()")
    done = run(tmp_path, "prog.py", "--name", "bob", "file", status=2)
    assert "it called sys.exit(2); what only the driver does belongs under `if __name__" in done.stderr


def test_a_class_made_in_python_c_travels_by_value(tmp_path: Path):
    done = run(tmp_path, "-c", SERVICE + USE + "use()", "-x")
    assert "hello bob from Greeter, False, ['-x'] True True\n" == done.stdout
