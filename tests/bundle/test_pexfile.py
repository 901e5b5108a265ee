"""A self-contained pex runs, and forms machines, where there is a Python of its version and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from environments import install, make_environment, make_wheel
from small import small_environment

import sshd
from bigm.bootstrap.records import Main
from bigm.bootstrap.report import report
from bigm.bundle import pexfile
from bigm.bundle.bundle import PROGRAM, SITE, STDLIB, Bundle, Dependencies
from bigm.bundle.dependencies import dependency_layer
from bigm.bundle.embedded import FACTS, is_pexfile, read_program
from bigm.bundle.layout import find_layout
from bigm.bundle.pex import LAYOUT, OFFLINE, run_pex
from bigm.bundle.platforms import named, of_report
from bigm.bundle.snapshot import keep_file
from bigm.bundle.sources import collect, machine_tree
from bigm.errors import ConfigError, ProgramError
from bigm.manifest import File, Manifest
from bigm.parts import Parts
from interpreters import find_python

MINOR = "{}.{}".format(*sys.version_info)
HERE = {"": of_report(report())}

ASK = """
import json, os, pathlib, sys
import bigm
from parts import helper

class Ask:
    def tell(self):
        import cloudpickle
        return {
            "data": helper.data(), "helper": helper.__file__, "cloudpickle": cloudpickle.__file__,
            "bigm": bigm.__file__, "path": sys.path, "argv": sys.argv, "cwd": os.getcwd(),
            "main": sys.modules["__main__"].__file__, "pid": os.getpid(),
        }

if __name__ == "__main__":
    with bigm.start() as cluster:
        machines = cluster.start(cluster.nmach or 1, services={"Ask": Ask()})
        told = [machine.call("Ask.tell") for machine in machines]
    print(json.dumps({"here": Ask().tell(), "there": told, "executable": sys.executable}))
"""
HELPER = """
import pathlib
def data():
    return (pathlib.Path(__file__).parents[1] / "data" / "words.txt").read_text()
"""


def make_project(folder: Path) -> Path:
    (folder / "parts").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "pyproject.toml").touch()
    (folder / "data" / "words.txt").write_text("some words")
    (folder / "parts" / "helper.py").write_text(HELPER)
    (folder / "ask.py").write_text(ASK)
    return folder / "ask.py"


def clean(home: Path, **variables: str) -> dict[str, str]:
    """The environment of a computer that has this Python, no index that can be used, and knows nothing of us."""
    commands = home / "commands"
    if not commands.exists():
        commands.mkdir(parents=True)
        (commands / f"python{MINOR}").symlink_to(find_python(MINOR) or sys.executable)
    path = f"{commands}:/usr/bin:/bin"
    unusable = {"PIP_NO_INDEX": "1", "PIP_INDEX_URL": "http://127.0.0.1:9/"}
    return {"PATH": path, "HOME": str(home), "TMPDIR": os.environ["TMPDIR"], **unusable, **variables}


def run(*words: str | Path, env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, words)], env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def pack(python: Path, *words: str | Path, cwd: Path, home: Path) -> None:
    """`bigm bundle` of an environment, with what it keeps in *home*."""
    done = run(python, "-m", "bigm", "bundle", *words, env=own(home), cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def started_as(file: Path, env: Mapping[str, str]) -> tuple[str, str]:
    """What a pex that ran before executes: the Python of the environment made of it, and that environment."""
    with zipfile.ZipFile(file) as archive:
        content = json.loads(archive.read("PEX-INFO"))["pex_hash"]
    (venv,) = Path(env["HOME"], ".cache", "pex", "venvs").glob(f"*/{content}/*/pex")
    return str(venv.parent / "bin" / "python"), str(venv.parent)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has bigm and little else; its interpreter."""
    return small_environment(tmp_path_factory.mktemp("small") / "environment")


@pytest.fixture(scope="module")
def made(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pex of a project, made by the command, in a folder where the project is not."""
    folder = tmp_path_factory.mktemp("made")
    script = make_project(folder / "project")
    done = run(environment, "-m", "bigm", "bundle", script, "-o", folder / "ask.pex", env=own(folder), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    away = tmp_path_factory.mktemp("away") / "ask.pex"
    shutil.move(folder / "ask.pex", away)
    shutil.rmtree(folder)
    return away


def own(folder: Path) -> dict[str, str]:
    """Our environment, with a home in *folder*."""
    return {**os.environ, "HOME": str(folder), "BIGM_HOME": str(folder / "bigm")}


@pytest.fixture(scope="module")
def computer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where no pex was run yet; the tests of this module run it there."""
    return tmp_path_factory.mktemp("computer")


@pytest.mark.slow
def test_it_forms_machines_where_there_is_only_a_python(made: Path, computer: Path, tmp_path: Path):
    done = run(made, "-n", "1", "--nmach", "2", "--", "--nmach", "9", env=clean(computer), cwd=tmp_path)
    found = told(done)
    assert 2 == len(found["there"])
    for each in [found["here"], *found["there"]]:
        assert "some words" == each["data"]
        assert ["-n", "1", "--nmach", "9"] == each["argv"][1:]
        assert [] == [name for name in ("helper", "cloudpickle", "bigm", "main") if str(computer) not in each[name]]
    assert "bigm: starting 2 machines on local\n" == done.stderr


@pytest.mark.slow
def test_machines_elsewhere_get_all_from_inside_of_it(made: Path, computer: Path, tmp_path: Path):
    """Twice: then nothing is sent, and no environment is made."""
    variables = clean(computer, BIGM_BUNDLE_REHEARSE="1", BIGM_BUNDLE_STORE=str(tmp_path / "store"))
    for sent in (True, False):
        done = run(made, "--nmach", "2", env=variables, cwd=tmp_path)
        found = told(done)
        assert 2 == len(found["there"])
        for each in found["there"]:
            assert "some words" == each["data"]
            assert str(tmp_path / "store") in each["bigm"]
            assert str(tmp_path / "store") in each["cloudpickle"]
            assert str(computer / ".cache/pex") not in json.dumps(each["path"])
            assert each["cwd"] == os.path.dirname(each["main"]) == each["path"][0]
        assert ("making the environment" in done.stderr) is sent, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(bool(sshd.MISSING), reason=sshd.MISSING)
def test_hosts_with_a_sshd_and_a_python_get_all_from_inside_of_it(made: Path, computer: Path, tmp_path: Path):
    with sshd.Rig() as rig:
        for name in ("alpha", "beta"):
            rig.add(name, python=MINOR)
        variables = clean(computer, BIGM_SSH_CONFIG=rig.config, BIGM_SSH_HOSTS="alpha,beta", BIGM_BUNDLE_STORE="")
        done = run(made, "--system", "ssh", "--nmach", "2", "-n", "1", env=variables, cwd=tmp_path)
        found = told(done)
        assert ["some words"] * 2 == [each["data"] for each in found["there"]]
        assert [["-n", "1"]] * 2 == [each["argv"][1:] for each in found["there"]]
        inside = [each[name] for each in found["there"] for name in ("helper", "cloudpickle", "bigm", "main")]
        assert [] == [path for path in inside if str(computer) in path]
        assert rig["alpha"].is_empty()
        assert rig["beta"].is_empty()


MODULE = """
import json, pathlib, sys
import bigm
from app import numbers

class Tell:
    def tell(self):
        return [numbers.__name__, sys.modules["__main__"].__spec__.name, numbers.one(), sys.argv[1:]]

def main():
    with bigm.start() as cluster:
        (machine,) = cluster.start(1, services={"Tell": Tell()})
        print(json.dumps(machine.call("Tell.tell")))

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_module_of_a_project_with_src_is_run_as_python_m_runs_it(environment: Path, computer: Path, tmp_path: Path):
    package = tmp_path / "project" / "src" / "app"
    package.mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").touch()
    (package / "__init__.py").touch()
    (package / "numbers.py").write_text("def one():\n    return 1\n")
    (package / "main.py").write_text(MODULE)
    pack(environment, "-m", "app.main", "-o", tmp_path / "app.pex", cwd=package.parent, home=computer)
    shutil.rmtree(tmp_path / "project")
    done = run(tmp_path / "app.pex", "x", env=clean(computer, BIGM_BUNDLE_REHEARSE="1"), cwd=tmp_path)
    assert ["app.numbers", "app.main", 1, ["x"]] == told(done)


@pytest.mark.slow
def test_a_command_of_the_environment_is_a_program_too(environment: Path, computer: Path, tmp_path: Path):
    module = MODULE.replace("from app import numbers", "import command_numbers as numbers").replace(".__spec__", "")
    files = {
        "command_app.py": module.replace('["__main__"].name', '["__main__"].__name__'),
        "command_numbers.py": "def one():\n    return 1\n",
    }
    install(environment, make_wheel(tmp_path, "command-app", files=files, scripts={"ask-app": "command_app:main"}))
    pack(environment, "ask-app", "-o", tmp_path / "app.pex", cwd=tmp_path, home=computer)
    done = run(tmp_path / "app.pex", "x", env=clean(computer), cwd=tmp_path)
    assert ["command_numbers", "__bigm_main__", 1, ["x"]] == told(done)


@pytest.mark.slow
def test_a_file_that_was_replaced_meanwhile_is_not_shipped(made: Path, computer: Path, tmp_path: Path):
    file = tmp_path / "x.pex"
    shutil.copy(made, file)
    variables = clean(computer, BIGM_BUNDLE_REHEARSE="1", BIGM_BUNDLE_STORE=str(tmp_path / "store"))
    assert told(run(file, env={**variables, "BIGM_BUNDLE_REHEARSE": "0"}, cwd=tmp_path))
    python, venv = started_as(file, variables)
    file.unlink()
    done = run(python, "-I", venv, env={**variables, "PEX": str(file)}, cwd=tmp_path)
    assert f"cannot read the program in {file}: [Errno 2]" in done.stderr
    assert 2 == done.returncode


@pytest.mark.slow
def test_an_executable_with_a_python_in_it_forms_machines_of_the_pex_inside(made: Path, computer: Path, tmp_path: Path):
    """Such a file is a launcher, a Python, the pex, and a line of JSON; started, it names itself as the pex."""
    file = tmp_path / "ask"
    manifest = json.dumps({"scie": {"lift": {"files": [{"name": "cpython.tar.gz"}, {"name": "ask.pex"}]}}})
    file.write_bytes(os.urandom(100_000) + made.read_bytes() + f"\n{manifest}\n".encode())
    assert told(run(made, env=clean(computer), cwd=tmp_path))
    python, venv = started_as(made, clean(computer))
    variables = clean(computer, PEX=str(file), BIGM_BUNDLE_REHEARSE="1", BIGM_BUNDLE_STORE=str(tmp_path / "store"))
    found = told(run(python, "-I", venv, env=variables, cwd=tmp_path))
    assert ["some words"] == [each["data"] for each in found["there"]]


@pytest.mark.slow
def test_bigm_run_runs_it_as_it_runs_itself(made: Path, computer: Path, tmp_path: Path):
    line = [sys.executable, "-m", "bigm", "run", "--nmach", "2", made, "-n", "1", "--", "--nmach", "9"]
    found = told(run(*line, env={**own(computer), "VIRTUAL_ENV": ""}, cwd=tmp_path))
    assert 2 == len(found["there"])
    assert ["-n", "1", "--nmach", "9"] == found["here"]["argv"][1:]
    assert str(computer) in found["here"]["bigm"]


@pytest.mark.slow
def test_a_python_of_another_version_is_refused_and_not_replaced_in_silence(made: Path, tmp_path: Path):
    other = next(filter(None, (find_python(v) for v in ("3.10", "3.11", "3.12", "3.13") if v != MINOR)), "")
    if not other:
        pytest.skip("no other Python here")
    done = run(sys.executable, "-m", "bigm", "run", "--python", other, made, env=own(tmp_path), cwd=tmp_path)
    assert f"bigm: {made} was made for Python {MINOR}, and {other} is 3." in done.stderr
    assert 2 == done.returncode


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Makes a bundle of a project and an environment with a few distributions that were made here."""

    def make(*names: str, cache: str = "cache") -> Bundle:
        project, wheels, python = tmp_path / "project", tmp_path / "wheels", tmp_path / "environment" / "bin" / "python"
        if not project.exists():
            make_project(project)
            wheels.mkdir()
            make_environment(tmp_path / "environment", *(make_wheel(wheels, name) for name in names))
        store = Parts(str(tmp_path / cache / "parts"))
        return Bundle(
            program=collect(
                find_layout(str(project / "ask.py"), [str(project)], str(project), modules={}), store
            ).manifest,
            machine=machine_tree(store),
            dependencies={"": dependency_layer(str(python), store, tmp_path / cache)},
            sys_path=((PROGRAM, "project"), (STDLIB, ""), (SITE, "")),
            main=Main("path", "project/ask.py", "project/ask.py"),
            cwd="project",
            python=MINOR,
            store=store,
        )

    return make


@pytest.mark.slow
def test_it_has_the_program_as_data_and_what_tells_how_to_run_it(bundle: Callable[..., Bundle], tmp_path: Path):
    file = tmp_path / "x.pex"
    pexfile.build(file, bundle("first", "second"), HERE, cache=tmp_path / "work")
    assert is_pexfile(str(file))
    assert (Main("path", "project/ask.py", "project/ask.py"), MINOR) == read_program(str(file))[0::3]
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        assert b"some words" == archive.read("_bigm_program/tree/project/data/words.txt")
        assert "bigm/cli/embedded.py" in names
        wheels = {name.split("/")[1] for name in names if name.startswith(".deps/") and name.count("/") > 1}
        assert {"first-1.0-py3-none-any.whl", "second-1.0-py3-none-any.whl"} <= wheels
    assert [] == [path.name for path in (tmp_path / "work").iterdir()]


MAC = named("macosx-arm64", MINOR)


def foreign(bundle: Bundle, folder: Path) -> Dependencies:
    """A layer for machines of another platform, where one distribution is of another version than here."""
    links = folder / "links"
    links.mkdir()
    abi = "cp" + MINOR.replace(".", "")
    make_wheel(links, "second", "2.0", tag=f"{abi}-{abi}-macosx_11_0_arm64")
    make_wheel(links, "first")
    (folder / "mac.json").write_text(MAC.to_json())
    arguments = [*LAYOUT, *OFFLINE, "--find-links", str(links), "--complete-platform", str(folder / "mac.json")]
    run_pex([*arguments, "first", "second"], folder / "layer", root=folder / "root", work=folder / "work")
    files = [path for path in (folder / "layer").rglob("*") if path.is_file()]
    kept = [File(path.relative_to(folder / "layer").as_posix(), *keep_file(bundle.store, str(path))) for path in files]
    return Dependencies(Manifest(kept), "foreign", MINOR, ("first 1.0", "second 2.0"))


@pytest.mark.slow
def test_each_platform_in_a_file_has_its_own_distributions(bundle: Callable[..., Bundle], tmp_path: Path):
    file = tmp_path / "x.pex"
    made = bundle("first", "second")
    both = replace(made, dependencies={**made.dependencies, MAC.name: foreign(made, tmp_path)})
    pexfile.build(file, both, {**HERE, MAC.name: MAC}, cache=tmp_path / "work")
    with zipfile.ZipFile(file) as archive:
        required = json.loads(archive.read("PEX-INFO"))["requirements"]
    assert "first==1.0" in required
    assert 'second==2.0; sys_platform == "darwin" and platform_machine == "arm64"' in required
    assert sorted([HERE[""].name, MAC.name]) == list(read_program(str(file)).platforms)
    code = "import first, second; print(first.VERSION, second.VERSION)"
    done = run(file, "-c", code, env=clean(tmp_path, PEX_INTERPRETER="1"), cwd=tmp_path)
    assert ("1.0 1.0\n", 0) == (done.stdout, done.returncode), done.stderr


@pytest.mark.slow
def test_a_file_for_other_platforms_alone_says_so_in_one_sentence(bundle: Callable[..., Bundle], tmp_path: Path):
    file = tmp_path / "x.pex"
    made = bundle("first")
    only = replace(made, dependencies={MAC.name: foreign(made, tmp_path)})
    pexfile.build(file, only, {MAC.name: MAC}, cache=tmp_path / "work")
    expected = f"bigm: {file} is for macosx-arm64, and this is {HERE[''].name}\n"
    for line in ([file], [sys.executable, "-m", "bigm", "run", file]):
        done = run(*line, env={**clean(tmp_path), "BIGM_HOME": str(tmp_path)}, cwd=tmp_path)
        assert (expected, 2) == (done.stderr.partition("\n")[0] + "\n", done.returncode)


@pytest.mark.slow
def test_equal_inputs_make_equal_files_whatever_is_cached(bundle: Callable[..., Bundle], tmp_path: Path):
    first, second = tmp_path / "first.pex", tmp_path / "elsewhere" / "second.pex"
    second.parent.mkdir()
    pexfile.build(first, bundle("first", "second"), HERE, cache=tmp_path / "work")
    pexfile.build(second, bundle(cache="another"), HERE, cache=tmp_path / "more")
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path).encode() not in first.read_bytes()


def test_what_is_no_self_contained_pex_is_not_taken_for_one(tmp_path: Path):
    script, empty, other = tmp_path / "x.py", tmp_path / "empty", tmp_path / "other.zip"
    script.write_text("print('a script, long enough to have an end')")
    empty.touch()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("__main__.py", "")
    paths = [script, empty, other, tmp_path, tmp_path / "missing"]
    assert [] == [path for path in paths if is_pexfile(str(path))]


def test_a_pex_of_a_later_bigm_says_so(tmp_path: Path):
    path = tmp_path / "x.pex"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(FACTS, '{"format": 99}')
    with pytest.raises(ProgramError, match=r"cannot read the program in .*x\.pex: it has format 99, and this is bigm"):
        read_program(str(path))


def test_an_output_that_cannot_be_written_is_said_before_anything_is_made(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cannot write .*/none/x\.pex: there is no folder .*/none"):
        pexfile.check_output(tmp_path / "none" / "x.pex")
    with pytest.raises(ConfigError, match="it is a folder"):
        pexfile.check_output(tmp_path)
