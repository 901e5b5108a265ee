"""The program inside a self-contained pex is the program that `bigm run` would have run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bigm.bootstrap.records import Main
from bigm.bundle.bundle import PROGRAM, SITE, STDLIB
from bigm.bundle.embedded import FACTS, Program, search_path
from bigm.bundle.layout import find_layout
from bigm.bundle.pexfile import lay_out
from bigm.bundle.sources import collect, machine_tree
from bigm.parts import Parts

SHOW = """
import json, os, sys
import helper
main = sys.modules["__main__"]
print(json.dumps({
    "name": __name__, "is_main": vars(main) is globals(), "file": __file__,
    "spec": str(getattr(__spec__, "name", None)),
    "argv": sys.argv, "path": sys.path, "helper": helper.DATA, "flags": os.environ.get("BIGM_FLAGS"),
    "typer": "typer" in sys.modules,
}))
"""
HELPER = "import pathlib; DATA = (pathlib.Path(__file__).parent.parent / 'data.txt').read_text()"
COUNT = """
import bigm

class Count:
    def __init__(self): self.n = 0
    def add(self, n): self.n += n; return self.n

if __name__ == "__main__":
    with bigm.start() as cluster:
        machines = cluster.start(cluster.nmach or 1, services={"Count": Count()})
        print(sum(machine.call("Count.add", 20) for machine in machines))
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "bin").mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    (folder / "data.txt").write_text("the data")
    (folder / "bin" / "helper.py").write_text(HELPER)
    return folder


@pytest.fixture
def packed(project: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Run]:
    """Puts a script of the project into an environment as pex makes it; returns what runs it."""
    environment = tmp_path / "environment"
    site = environment / "lib" / "python3" / "site-packages"

    def pack(text: str, *, module: bool = False, file: str = "bin/main.py") -> Run:
        script = project / file
        script.write_text(text)
        store = Parts(str(tmp_path / "parts"))
        layout = find_layout(str(script), [str(project / "bin"), *sys.path], str(project), modules={})
        where = layout.place(str(script))
        assert where is not None
        main = Main("module", script.stem, where) if module else Main("path", where, where)
        program = Program(
            main, ((PROGRAM, "project/bin"), (STDLIB, ""), (SITE, "")), "project", "3.11", ("linux-x86_64",)
        )
        site.parent.mkdir(parents=True)
        lay_out(program, collect(layout, store).manifest, machine_tree(store), store, str(site))
        # What pex makes beside it: its name is the frame that a traceback would begin with.
        (environment / "pex").write_text(
            f"import sys; sys.path[:0] = [{str(environment)!r}, {str(site)!r}]\n"
            "from bigm.cli.embedded import main\nsys.exit(main())"
        )
        return run

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", str(environment / "pex"), *words],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return pack


def shown(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_script_is_the_main_module_with_its_siblings_data_and_arguments(packed: Callable[..., Run], tmp_path: Path):
    tree = str(tmp_path / "environment/lib/python3/site-packages/_bigm_program/tree/project")
    found = shown(packed(SHOW)("-n", "7"))
    assert ("__main__", True, "None", "the data", False) == tuple(
        found[name] for name in ("name", "is_main", "spec", "helper", "typer")
    )
    assert f"{tree}/bin/main.py" == found["file"]
    assert [found["file"], "-n", "7"] == found["argv"]


def test_its_search_path_has_the_recorded_order_and_nothing_of_pex(packed: Callable[..., Run], tmp_path: Path):
    environment = tmp_path / "environment"
    path = shown(packed(SHOW)())["path"]
    assert isinstance(path, list)
    site = str(environment / "lib/python3/site-packages")
    assert [f"{site}/_bigm_program/tree/project/bin", site] == [path[0], path[-1]]
    assert [] == [entry for entry in path[1:-1] if entry.startswith(str(environment))]
    assert os.__file__.rpartition("/")[0] in path


def test_a_module_is_run_as_python_m_runs_it(packed: Callable[..., Run]):
    found = shown(packed(SHOW, module=True)("x"))
    assert ("__main__", True, "main") == (found["name"], found["is_main"], found["spec"])
    assert [found["file"], "x"] == found["argv"]


def test_bigms_options_are_taken_and_the_rest_is_the_programs(packed: Callable[..., Run]):
    run = packed(SHOW)
    found = shown(run("--nmach", "3", "a", "--system=local", "--name", "b", "--", "--nmach", "4"))
    assert ["a", "--name", "b", "--nmach", "4"] == found["argv"][1:]  # type: ignore[index]
    flags = json.loads(str(found["flags"]))
    assert {"nmach": "3", "system": "local"} == {name: value for name, value in flags.items() if name != "run"}
    assert ["--nmach", "4"] == shown(run("--", "--nmach", "4"))["argv"][1:]  # type: ignore[index]


def test_machines_are_as_many_as_the_option_says(packed: Callable[..., Run]):
    done = packed(COUNT)("--nmach", "3")
    assert ("60\n", 0) == (done.stdout, done.returncode), done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nmach"], "bigm: option --nmach requires an argument\n"),
        (["--nmach", "none"], "bigm: --nmach must be a whole number from 1, not 'none'\n"),
    ],
)
def test_a_wrong_option_is_one_message_before_the_program_runs(
    packed: Callable[..., Run], words: list[str], message: str
):
    done = packed("print('ran')")(*words)
    assert ("", message, 2) == (done.stdout, done.stderr, done.returncode)


def test_a_traceback_begins_in_the_program(packed: Callable[..., Run]):
    done = packed("def fail():\n    raise LookupError('here')\n\nfail()\n")()
    lines = done.stderr.splitlines()
    assert ("Traceback (most recent call last):", "LookupError: here", 1) == (lines[0], lines[-1], done.returncode)
    assert ["main.py", "main.py"] == [line.split('"')[1].rpartition("/")[2] for line in lines if "  File" in line]


def test_its_status_is_the_programs(packed: Callable[..., Run]):
    assert 7 == packed("import sys; sys.exit(7)")().returncode


def test_a_program_without_a_cluster_is_told_so(packed: Callable[..., Run]):
    assert "bigm: the program ended without calling bigm.start(): no machine was started\n" == packed("pass")().stderr


def test_a_damaged_description_is_said_with_what_to_do(packed: Callable[..., Run], tmp_path: Path):
    run = packed(SHOW)
    (tmp_path / "environment/lib/python3/site-packages" / FACTS).write_text('{"format": 99}')
    done = run(PEX="/there/x.pex")
    assert "bigm: /there/x.pex has no program that can be read: it has format 99" in done.stderr
    assert "bigm: make it anew with `bigm bundle`" in done.stderr
    assert 2 == done.returncode


def test_a_description_is_read_as_it_was_written():
    path = ((PROGRAM, "a"), (STDLIB, ""), (SITE, "x"))
    program = Program(Main("path", "a/ü.py", "a/ü.py"), path, "a", "3.11", ("linux-x86_64", "macosx-arm64"))
    assert program == Program.from_json(program.to_json())


def test_the_search_path_is_what_was_recorded_and_each_entry_stands_once():
    current = ["/env", "/usr/lib/python311.zip", "/usr/lib/python3.11", "/env/lib/python3.11/site-packages"]
    entries = [(PROGRAM, "p/src"), (SITE, ""), (STDLIB, ""), (PROGRAM, ""), (STDLIB, ""), (SITE, "more")]
    site = "/env/lib/python3.11/site-packages"
    assert ["/tree/p/src", site, *current[1:3], "/tree", f"{site}/more"] == search_path(entries, "/tree", site, current)
