"""Programs of every layout print the same where only what travelled is, and the original is gone.

Each is run by a real Python; then its folder is renamed, and the tree that was collected is run by another one, with
the search path and the working folder that a machine would have.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import travelling

PROJECT = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'


class There(NamedTuple):
    """How a program came out here, and what travelled."""

    here: dict[str, Any]
    there: str

    @property
    def files(self) -> list[str]:
        return self.here["files"]

    @property
    def paths(self) -> list[str]:
        """What of the program's tree is searched, in order."""
        return [path for kind, path in self.here["search_path"] if kind == "program"]


def files(root: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def run(command: list[str], cwd: Path, **environ: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    answer = subprocess.run(
        command, cwd=cwd, env={**clean, "PYTHONDONTWRITEBYTECODE": "1", **environ}, capture_output=True, timeout=120
    )
    assert answer.returncode == 0, f"{command}\n{answer.stdout.decode()}\n{answer.stderr.decode()}"
    return answer.stdout.decode()


def travel(root: Path, words: list[str], *, cwd: str = "", python: str = sys.executable, **environ: str) -> There:
    """Run the program of these words with *root* as it is; then what travelled of it, with *root* gone."""
    out = root.parent / "out"
    here = json.loads(run([python, travelling.__file__, str(out), *words], root / cwd, **environ))
    root.rename(root.parent / "gone")
    searched = [str(out / "tree" / path) for kind, path in here["search_path"] if kind == "program"]
    start = (
        f"runpy.run_module({words[1]!r}, run_name='__bigm_main__', alter_sys=True)"
        if words[0] == "-m"
        else f"runpy.run_path({str(out / 'tree' / here['script'])!r}, run_name='__bigm_main__')"
    )
    code = f"import sys, runpy; sys.path[:0] = {searched!r}; {start}"
    (out / "tree" / here["cwd"]).mkdir(parents=True, exist_ok=True)
    there = There(here, run([sys.executable, "-I", "-S", "-c", code], out / "tree" / here["cwd"]))
    assert here["printed"] == there.there
    assert here["printed"].strip(), "the program printed nothing"
    return there


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The computer: all that a program has lies below it."""
    (tmp_path / "computer").mkdir()
    return tmp_path / "computer"


@pytest.fixture
def environment(tmp_path: Path) -> tuple[str, dict[str, str]]:
    """A Python of its own environment, which finds the distributions of this one too, and variables for the program."""
    run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], tmp_path)
    (own,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    here = sysconfig.get_paths()["purelib"]
    (own / "tests.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    return str(tmp_path / "venv" / "bin" / "python"), {"TEST_SITE": here}


def install(python: str, project: Path) -> None:
    """Editable, by pip and setuptools themselves. A compiler that pip asks for its version makes itself at home."""
    pip = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check"]
    run(
        [*pip, "install", "--no-index", "--no-deps", "--no-build-isolation", "--editable", str(project)],
        project,
        HOME=str(project.parent),
    )


def test_one_script(root: Path):
    files(root, {"app/main.py": "print('hello')"})
    assert ["app/main.py"] == travel(root, ["app/main.py"]).files


def test_a_script_beside_modules_and_data_files(root: Path):
    files(
        root,
        {
            "app/main.py": "import helper; print(helper.read())",
            "app/helper.py": "import os\ndef read(): return open(os.path.dirname(__file__) + '/data/a.csv').read()",
            "app/data/a.csv": "1,2,3",
        },
    )
    assert ["app"] == travel(root, ["app/main.py"]).paths


def test_data_in_the_working_folder(root: Path):
    files(root, {"app/main.py": "print(open('a.csv').read())", "app/a.csv": "1,2,3"})
    assert "app" == travel(root, ["main.py"], cwd="app").here["cwd"]


def test_a_working_folder_elsewhere_is_the_scripts_own_there(root: Path):
    files(root, {"app/main.py": "import os; print(os.path.exists('unlikely'))", "data/x": ""})
    there = travel(root, ["../app/main.py"], cwd="data")
    assert ("app", ["app/main.py"]) == (there.here["cwd"], there.files)


SRC = {
    "p/pyproject.toml": PROJECT + '[project]\nname = "pkg"\nversion = "1"\n[project.scripts]\npkg = "pkg.main:main"\n',
    "p/src/pkg/__init__.py": "",
    "p/src/pkg/main.py": (
        "import pkg.other, importlib.metadata\n"
        "def main(): pass\n"
        "print(pkg.other.VALUE, importlib.metadata.version('pkg'), importlib.metadata.entry_points(name='pkg'))\n"
        "print(open(__file__[:-len('src/pkg/main.py')] + 'd').read())"
    ),
    "p/src/pkg/other.py": "VALUE = 42",
    "p/d": "data beside src",
}


@pytest.mark.slow
def test_a_src_package_that_is_installed_editable_run_as_a_module(root: Path, environment):
    files(root, SRC)
    python, environ = environment
    install(python, root / "p")
    there = travel(root, ["-m", "pkg.main"], cwd="p", python=python, **environ)
    assert {"p", "p/src"} <= set(there.paths)


@pytest.mark.slow
def test_a_src_package_run_by_its_console_command(root: Path, environment):
    files(root, SRC)
    python, environ = environment
    install(python, root / "p")
    command = str(Path(python).parent / "pkg")
    there = travel(root, [command], python=python, **environ)
    assert "bin/pkg" == there.here["script"]
    assert ["bin/pkg"] == [path for path in there.files if path.startswith("bin/")], (
        "no other command of the environment"
    )


def test_a_script_in_a_sub_folder_that_imports_from_the_root(root: Path):
    files(
        root,
        {
            "p/.git/HEAD": "",
            "p/lib.py": "X = 1",
            "p/scripts/run.py": (
                "import os, sys\n"
                "sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..'))\n"
                "import lib\n"
                "print(lib.X, open(os.path.dirname(__file__) + '/../data/x').read())"
            ),
            "p/data/x": "beside",
        },
    )
    assert ["p", "p/scripts"] == sorted(travel(root, ["p/scripts/run.py"]).paths)


def test_namespace_packages_in_several_folders(root: Path):
    files(
        root,
        {
            "one/ns/a/__init__.py": "V = 'a'",
            "two/ns/b.py": "V = 'b'",
            "app/main.py": "import ns.a, ns.b; print(ns.a.V, ns.b.V, len(list(ns.__path__)))",
        },
    )
    there = travel(root, ["app/main.py"], PYTHONPATH=f"{root}/one:{root}/two")
    assert ["app", "one", "two"] == there.paths


def test_siblings_stay_siblings_also_where_names_are_taken(root: Path):
    files(
        root,
        {
            "a/lib/x.py": "import os; V = open(os.path.dirname(__file__) + '/../data/f').read()",
            "a/data/f": "of a",
            "b/lib/y.py": "import os; V = open(os.path.dirname(__file__) + '/../data/f').read()",
            "b/data/f": "of b",
            "app/main.py": "import x, y; print(x.V, y.V)",
        },
    )
    path = ":".join(f"{root}/{name}" for name in ("a/lib", "a/data", "b/lib", "b/data"))
    there = travel(root, ["app/main.py"], PYTHONPATH=path)
    assert ["app", "lib", "data", "2/lib", "2/data"] == there.paths


@pytest.mark.slow
def test_an_editable_dependency_outside_the_project(root: Path, environment):
    """A flat one and one whose package is called otherwise than its folder, each found by setuptools' finder."""
    flat = PROJECT + '[project]\nname = "{0}"\nversion = "1"\n[tool.setuptools]\npackages = ["{0}"]\n'
    files(
        root,
        {
            "libs/flat/pyproject.toml": flat.format("flat"),
            "libs/flat/flat/__init__.py": "import os; V = open(os.path.dirname(__file__) + '/table').read()",
            "libs/flat/flat/table": "flat's table",
            "libs/other/pyproject.toml": flat.format("other") + 'package-dir = {other = "lib"}\n',
            "libs/other/lib/__init__.py": "from other.deep import V",
            "libs/other/lib/deep.py": "V = 'renamed'",
            "app/main.py": "import flat, other; print(flat.V, other.V)",
        },
    )
    python, environ = environment
    install(python, root / "libs" / "flat")
    install(python, root / "libs" / "other")
    there = travel(root, ["app/main.py"], python=python, **environ)
    assert "app" == there.paths[0]
    assert "_editable/other/deep.py" in there.files


@pytest.mark.slow
def test_a_package_within_an_editable_one_that_lies_elsewhere(root: Path, environment):
    """As bigm's own templates do."""
    files(
        root,
        {
            "p/pyproject.toml": PROJECT
            + '[project]\nname = "pkg"\nversion = "1"\n[tool.setuptools]\npackages = ["pkg", "pkg.inner"]\n'
            'package-dir = {"pkg" = "pkg", "pkg.inner" = "elsewhere"}\n',
            "p/pkg/__init__.py": "",
            "p/elsewhere/__init__.py": "V = 'inner'",
            "app/main.py": "import pkg.inner; print(pkg.inner.V)",
        },
    )
    python, environ = environment
    install(python, root / "p")
    assert "p/pkg/inner/__init__.py" in travel(root, ["app/main.py"], python=python, **environ).files


@pytest.mark.slow
def test_an_editable_namespace_package(root: Path, environment):
    files(
        root,
        {
            "p/pyproject.toml": PROJECT + '[project]\nname = "ns-pkg"\nversion = "1"\n[tool.setuptools.packages.find]\n'
            'where = ["."]\ninclude = ["ns*"]\nnamespaces = true\n',
            "p/ns/pkg/__init__.py": "V = 'of a namespace'",
            "p/notes/x": "",
            "app/main.py": "import ns.pkg; print(ns.pkg.V)",
        },
    )
    python, environ = environment
    install(python, root / "p")
    travel(root, ["app/main.py"], python=python, **environ)


def test_a_c_extension_that_was_built_in_place(root: Path):
    files(
        root,
        {
            "app/fast.c": (
                "#include <Python.h>\n"
                'static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fast"};\n'
                "PyMODINIT_FUNC PyInit_fast(void) {\n"
                "  PyObject *m = PyModule_Create(&module);\n"
                '  if (m) PyModule_AddIntConstant(m, "V", 42);\n'
                "  return m;\n}\n"
            ),
            "app/setup.py": "from setuptools import Extension, setup\n"
            "setup(name='fast', version='1', ext_modules=[Extension('fast', ['fast.c'])])",
            "app/main.py": "import fast; print(fast.V)",
        },
    )
    run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], root / "app")
    there = travel(root, ["app/main.py"])
    assert ["app/fast" + sysconfig.get_config_var("EXT_SUFFIX")] == [f for f in there.files if f.endswith(".so")]
    assert [] == [path for path in there.files if path.startswith("app/build/")], "setuptools' own leftovers"


def test_a_zip_file_on_the_search_path(root: Path):
    files(root, {"app/main.py": "import zipped, inner; print(zipped.V, inner.V)", "libs/secret": ""})
    with zipfile.ZipFile(root / "libs" / "z.zip", "w") as archive:
        archive.writestr("zipped.py", "V = 1")
        archive.writestr("sub/inner.py", "V = 2")
    there = travel(root, ["app/main.py"], PYTHONPATH=f"{root}/libs/z.zip:{root}/libs/z.zip/sub")
    assert ["app", "libs/z.zip", "libs/z.zip/sub"] == there.paths
    assert ["app/main.py", "libs/z.zip"] == there.files


def test_a_module_that_was_imported_from_elsewhere_comes_alone(root: Path):
    files(
        root,
        {
            "app/main.py": (
                "import sys\n"
                "try:\n    import plugin, package\n"
                "except ImportError:\n"
                "    sys.path.insert(0, sys.argv[-1] if 0 else __file__ + '/../../elsewhere')\n"
                "    sys.path[0] = __import__('os').path.realpath(sys.path[0])\n"
                "    import plugin, package\n"
                "    del sys.path[0]\n"
                "print(plugin.V, package.V)"
            ),
            "elsewhere/plugin.py": "V = 1",
            "elsewhere/package/__init__.py": "from package.deep import V",
            "elsewhere/package/deep.py": "V = 2",
            "elsewhere/unrelated.bin": "",
        },
    )
    there = travel(root, ["app/main.py"])
    assert ["elsewhere/package/__init__.py", "elsewhere/package/deep.py", "elsewhere/plugin.py"] == [
        path for path in there.files if path.startswith("elsewhere/")
    ]


def test_a_script_in_the_home_folder_takes_modules_and_what_is_imported(root: Path):
    files(
        root,
        {
            "main.py": "import helper, package; print(helper.V, package.V)",
            "helper.py": "V = 1",
            "package/__init__.py": "V = open(__file__[:-len('__init__.py')] + 'table').read()",
            "package/table": "2",
            "Documents/secret.txt": "",
            "notes.txt": "",
            "pyproject.toml": "",
            ".git/HEAD": "",
        },
    )
    there = travel(root, ["main.py"], HOME=str(root))
    names = ["helper.py", "main.py", "package/__init__.py", "package/table"]
    assert [f"computer/{name}" for name in names] == there.files
    (note,) = there.here["notes"]
    assert note.startswith(f"{root} is too wide to travel whole")


def test_a_project_below_the_home_folder_is_whole_and_home_is_not(root: Path):
    files(root, {"p/main.py": "print(open(__file__[:-7] + 'd/x').read())", "p/d/x": "data", "p/.git/HEAD": "", "x": ""})
    assert ["p/d/x", "p/main.py"] == travel(root, ["p/main.py"], HOME=str(root)).files


def test_a_folder_is_a_program(root: Path):
    files(root, {"app/__main__.py": "import other; print(other.V)", "app/other.py": "V = 1", "beside.py": ""})
    assert ["app/__main__.py", "app/other.py"] == travel(root, ["app/__main__.py"]).files


def test_a_linked_script_travels_with_the_folder_it_really_lies_in(root: Path):
    files(root, {"app/main.py": "import other; print(other.V)", "app/other.py": "V = 1", "bin/x": ""})
    (root / "bin" / "tool").symlink_to(root / "app" / "main.py")
    there = travel(root, ["bin/tool"])
    assert "app/main.py" == there.here["script"]
    assert ["app/main.py", "app/other.py"] == there.files


def test_the_standard_library_and_distributions_are_named_in_their_order(root: Path):
    files(root, {"app/main.py": "print(1)"})
    kinds = [kind for kind, _ in travel(root, ["app/main.py"]).here["search_path"]]
    assert ["program", "stdlib", "site"] == kinds


def test_this_interpreters_own_folders_are_no_program():
    assert [] == [
        path
        for path in [*site.getsitepackages(), sysconfig.get_paths()["stdlib"], os.__file__, json.__file__]
        if not travelling.Interpreter.current().owns(path)
    ]
