"""`bigm run --bundle`: programs of every layout run on machines as they run in place, from what was brought there."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from pathlib import Path

import pytest
from environments import make_wheel
from rehearsal import PROBE, Rehearsal, alike, outcome

pytestmark = pytest.mark.slow

MAIN = "import probe\nif __name__ == '__main__': probe.show({modules}, {files})\n"
EXTENSION = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fast", 0, -1, 0};
PyMODINIT_FUNC PyInit_fast(void) { return PyModule_Create(&module); }
"""


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    return Rehearsal(tmp_path_factory.mktemp("rehearsal"))


def project(folder: Path, files: dict[str, str]) -> Path:
    """Make files; the folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def both(rehearsal: Rehearsal, parent: Path, *words: str, cwd: Path, **variables: str) -> dict[str, object]:
    """What a machine says by the whole way, which is what one says in place."""
    [plain] = outcome(rehearsal.run(*words, cwd=cwd, bundle=False, **variables))
    [shipped] = outcome(rehearsal.run(*words, cwd=cwd, **variables))
    expected, found = alike(plain, parent), alike(shipped, parent)
    assert found == expected
    return found


def test_a_script_beside_its_modules_and_data(rehearsal: Rehearsal, tmp_path: Path) -> None:
    main = MAIN.format(modules=["helper", "tools.inner"], files=["data.txt", "deep/er.txt"])
    files = {"run.py": main, "helper.py": "", "tools/__init__.py": "", "tools/inner.py": ""}
    data = {"data.txt": "hello", "deep/er.txt": "down"}
    home = project(tmp_path / "app", {"probe.py": PROBE, **files, **data})
    found = both(rehearsal, tmp_path, "run.py", "-x", cwd=home)
    assert found["files"] == data
    assert found["argv"] == ["run.py", "-x"]


def test_a_package_in_src_run_as_a_module(rehearsal: Rehearsal, tmp_path: Path) -> None:
    files = {
        "pyproject.toml": "",
        "src/pkg/__init__.py": "",
        "src/pkg/probe.py": PROBE,
        "src/pkg/main.py": "from pkg import probe\nif __name__ == '__main__': probe.show(['pkg.probe'])\n",
    }
    home = project(tmp_path / "lib", files)
    found = both(rehearsal, tmp_path, "-m", "pkg.main", "1", cwd=home / "src")
    assert found["modules"] == {"pkg.probe": "PROGRAM/lib/src/pkg/probe.py"}


def test_a_script_in_a_folder_below_the_root_that_it_imports_from(rehearsal: Rehearsal, tmp_path: Path) -> None:
    start = "import os, sys\nsys.path.insert(1, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))\n"
    main = start + MAIN.format(modules=["common.things"], files=["../settings.toml"])
    files = {"setup.py": "", "probe.py": PROBE, "common/things.py": "", "settings.toml": "a = 1", "bin/run.py": main}
    home = project(tmp_path / "root", files)
    found = both(rehearsal, tmp_path, "run.py", cwd=home / "bin")
    assert found["files"] == {"../settings.toml": "a = 1"}


def test_a_namespace_package_in_two_folders_of_the_search_path(rehearsal: Rehearsal, tmp_path: Path) -> None:
    app = project(
        tmp_path / "app", {"run.py": MAIN.format(modules=["ns", "ns.a", "ns.b"], files=[]), "probe.py": PROBE}
    )
    one = project(tmp_path / "one", {"ns/a.py": ""})
    two = project(tmp_path / "two", {"ns/b.py": ""})
    found = both(rehearsal, tmp_path, "run.py", cwd=app, PYTHONPATH=f"{one}{os.pathsep}{two}")
    assert found["modules"]["ns"] == ["PROGRAM/one/ns", "PROGRAM/two/ns"]  # type: ignore[index]


def test_an_editable_project_elsewhere_and_a_console_command(rehearsal: Rehearsal, tmp_path: Path) -> None:
    lib = project(tmp_path / "lib", {"pyproject.toml": "", "lib/__init__.py": "", "lib/probe.py": PROBE})
    (lib / "lib" / "cmd.py").write_text("from lib import probe\ndef main(): probe.show(['lib.cmd'])\n")
    (site,) = (rehearsal.folder / "env").glob("lib/python*/site-packages")
    command = rehearsal.folder / "env" / "bin" / "lib-cmd"
    command.write_text(f"#!{rehearsal.python}\nfrom lib.cmd import main\nif __name__ == '__main__': main()\n")
    command.chmod(0o755)
    (site / "lib.pth").write_text(f"{lib}\n")
    try:
        [found] = outcome(rehearsal.run("lib-cmd", cwd=tmp_path))
    finally:
        (site / "lib.pth").unlink()
        command.unlink()
    assert alike(found, tmp_path)["modules"] == {"lib.cmd": "PROGRAM/lib/lib/cmd.py"}


def test_a_c_extension_built_beside_the_script(rehearsal: Rehearsal, tmp_path: Path) -> None:
    app = project(tmp_path / "app", {"run.py": MAIN.format(modules=["fast"], files=[]), "probe.py": PROBE})
    (tmp_path / "fast.c").write_text(EXTENSION)
    code = "import sysconfig as s; print(s.get_path('include'), s.get_config_var('EXT_SUFFIX'))"
    include, suffix = subprocess.run(
        [rehearsal.python, "-c", code], capture_output=True, text=True, check=True, timeout=20
    ).stdout.split()
    build = ["cc", "-shared", "-fPIC", f"-I{include}", str(tmp_path / "fast.c"), "-o", str(app / f"fast{suffix}")]
    subprocess.run(build, check=True, timeout=60)
    found = both(rehearsal, tmp_path, "run.py", cwd=app)
    assert found["modules"] == {"fast": f"PROGRAM/app/fast{suffix}"}


def test_variables_for_another_python_do_not_lead_machines_astray(rehearsal: Rehearsal, tmp_path: Path) -> None:
    app = project(tmp_path / "app", {"run.py": MAIN.format(modules=[], files=[]), "probe.py": PROBE})
    wrong = project(tmp_path / "wrong", {"wrong.py": ""})
    [found] = outcome(rehearsal.run("run.py", cwd=app, PYTHONPATH=str(wrong), PYTHONSTARTUP="/nowhere"))
    assert alike(found, tmp_path)["path"][1] == "PROGRAM/wrong"


def test_a_dry_run_says_what_would_travel_and_a_run_brings_it(rehearsal: Rehearsal, tmp_path: Path) -> None:
    app = project(tmp_path / "app", {"run.py": MAIN.format(modules=[], files=[]), "probe.py": PROBE, "data": "12345"})
    done = rehearsal.run("--dry-run", "--json", "run.py", cwd=app)
    said = json.loads(done.stdout)["travels"]
    size = sum(path.stat().st_size for path in app.iterdir())
    assert said["program"] == {"files": 3, "size": size}
    assert any(name.startswith("cryptography ") for name in said["distributions"]["names"])
    outcome(rehearsal.run("run.py", cwd=app))
    assert [event["bundle"] for event in rehearsal.events("shipped")] == [said["digest"]]
    plain = rehearsal.run("--dry-run", "run.py", cwd=app, bundle=False)
    assert "travels      nothing: machines run this environment where it is" in plain.stdout


def test_the_second_run_sends_nothing_and_an_edit_a_few_hundred_bytes(rehearsal: Rehearsal, tmp_path: Path) -> None:
    app = project(tmp_path / "app", {"run.py": MAIN.format(modules=[], files=["text"]), "probe.py": PROBE, "text": "a"})
    outcome(rehearsal.run("run.py", cwd=app))
    outcome(rehearsal.run("run.py", cwd=app, PATH="/nowhere"))
    assert rehearsal.sent() == 0
    (app / "text").write_text("b")
    [found] = outcome(rehearsal.run("run.py", cwd=app))
    assert found["files"] == {"text": "b"}
    assert 0 < rehearsal.sent() < 2000


def test_a_program_that_is_edited_while_it_runs_stays_as_it_was(rehearsal: Rehearsal, tmp_path: Path) -> None:
    program = """
        import bigm, json, pathlib
        from words import WORD

        class Said:
            def word(self): return WORD, pathlib.Path("words.py").read_text()

        def main():
            with bigm.start() as cluster:
                said = []
                for n in range(2):
                    [machine] = cluster.start(1, services={"Said": Said()})
                    cluster.wait([machine], timeout=60.0)
                    said.append([*machine.call("Said.word"), machine.bundle])
                    pathlib.Path("words.py").write_text("WORD = 'later'")
                print(json.dumps(said))

        if __name__ == "__main__":
            main()
    """
    app = project(tmp_path / "app", {"run.py": program, "words.py": "WORD = 'first'"})
    first, second = outcome(rehearsal.run("run.py", cwd=app))
    assert first == second
    assert first[:2] == ["first", "WORD = 'first'"]


def test_machines_run_another_program_whose_bundle_they_are_given(rehearsal: Rehearsal, tmp_path: Path) -> None:
    program = """
        import bigm, json, sys
        from words import Said

        def main():
            with bigm.start() as cluster:
                machines = cluster.start(1, services={"Said": Said()}, bundle=cluster.bundle("../other/run.py"))
                cluster.wait(machines, timeout=60.0)
                print(json.dumps(machines[0].call("Said.word")))

        if __name__ == "__main__":
            main()
    """
    words = "class Said:\n    def word(self):\n        import __main__\n        return {0!r}, __main__.__file__\n"
    app = project(tmp_path / "app", {"run.py": program, "words.py": words.format("mine")})
    project(tmp_path / "other", {"run.py": "", "words.py": words.format("the other's")})
    word, main = outcome(rehearsal.run("run.py", cwd=app, bundle=False))
    assert word == "the other's"
    assert str(main).endswith("/other/run.py")


def test_what_a_program_writes_into_its_folder_is_its_machines_own(rehearsal: Rehearsal, tmp_path: Path) -> None:
    program = """
        import bigm, json, os

        class Writer:
            def write(self, text):
                with open("out.txt", "a") as file:
                    file.write(text)
                return open("out.txt").read()

        def main():
            with bigm.start() as cluster:
                machines = cluster.start(2, services={"W": Writer()})
                cluster.wait(machines, timeout=60.0)
                print(json.dumps([machine.call("W.write", machine.id) for machine in machines]))

        if __name__ == "__main__":
            main()
    """
    app = project(tmp_path / "app", {"run.py": program})
    assert outcome(rehearsal.run("run.py", cwd=app)) == ["m0", "m1"]
    assert not (app / "out.txt").exists()


def test_a_file_of_requirements_replaces_what_is_installed_here(rehearsal: Rehearsal, tmp_path: Path) -> None:
    make_wheel(tmp_path, "alpha", "1.5")
    files = {"run.py": MAIN.format(modules=["alpha"], files=[]), "probe.py": PROBE}
    asked = {"wanted.txt": f"--no-index\n--find-links {tmp_path}\nalpha==1.5\n"}
    home = project(tmp_path / "app", {**files, **asked})
    # pip asks rustc for its version, which may write into the home folder.
    done = rehearsal.run("--requirements", "wanted.txt", "run.py", cwd=home, RUSTUP_HOME=str(tmp_path))
    [found] = outcome(done)
    assert ["alpha 1.5"] == [each for each in found["versions"] if not each.startswith("cloudpickle ")]

    missing = rehearsal.run("--requirements", "absent.txt", "run.py", cwd=home)
    assert (missing.returncode, "Traceback" in missing.stderr) == (2, False)
    assert f"cannot read {home}/absent.txt: No such file or directory" in missing.stderr


FRAMES = """
import json
import bigm


class Frames:
    def make(self):
        import numpy, pandas, requests
        frame = pandas.DataFrame({"a": numpy.arange(4), "b": list("xyxy")})
        sums = {key: int(value) for key, value in frame.groupby("b")["a"].sum().items()}
        address = requests.Request("GET", "http://a.example/", params={"q": "1"}).prepare().url
        versions = {module.__name__: module.__version__ for module in (numpy, pandas, requests)}
        return {"sums": sums, "address": address, "versions": versions, "from": pandas.__file__}


if __name__ == "__main__":
    with bigm.start() as cluster:
        machines = cluster.start(1, services={"Frames": Frames()})
        cluster.wait(machines, timeout=200.0)
        print(json.dumps([Frames().make(), machines[0].options(timeout=100.0).call("Frames.make")]))
"""


def test_numpy_pandas_and_requests_are_on_a_machine_what_they_are_here(tmp_path: Path) -> None:
    """Compiled extensions with libraries of their own, and data files, by the whole way of a bundle."""
    rehearsal = Rehearsal(tmp_path / "rehearsal", "numpy", "pandas", "requests")
    home = project(tmp_path / "app", {"run.py": FRAMES})
    here, there = outcome(rehearsal.run("run.py", cwd=home))
    assert str(rehearsal.store) in there.pop("from")
    assert str(rehearsal.store) not in here.pop("from")
    assert here == there
    assert {"x": 2, "y": 4} == there["sums"]
    assert {"numpy", "pandas", "requests"} == set(there["versions"])
