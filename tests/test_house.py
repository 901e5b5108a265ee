"""The house keeps its own rules: floors, what travels, what is said about what, nothing of one computer in it."""

from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from interpreters import find_python

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bigm"
OWN = [ROOT / name for name in ("bigm", "templates", "tests", "examples", "benchmarks")]


def floors() -> dict[str, int]:
    """Top-level module or package of bigm -> its floor, 0 the lowest, as setup.cfg tells import-linter."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    layers = config["importlinter:contract:floors"]["layers"].split("\n")[1:]
    return {
        name.strip(" ()"): floor for floor, layer in enumerate(reversed(layers)) for name in re.split(r"[:|]", layer)
    }


def sources(*folders: Path) -> Iterator[Path]:
    for folder in folders or (PACKAGE,):
        yield from (path for path in sorted(folder.rglob("*.py")) if "__pycache__" not in path.parts)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> str:
    """The part of `bigm.rpc.wire` that names its floor: `rpc`; of `bigm` itself: ``."""
    return (module.split(".") + [""])[1]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of all that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            # `from bigm import runs` names a module, `from bigm.runs import Run` does not: both forms are tried.
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


FLOORS = floors()
TRAVELLING = [
    path for path in sources() if FLOORS.get(floor_of(module_name(path)), -1) in range(FLOORS["worker"] + 1)
] + [PACKAGE / "__init__.py"]


def test_floors_name_every_module_of_the_house():
    known = set(FLOORS) | {"", "templates"}
    assert [] == [path for path in sources() if floor_of(module_name(path)) not in known]


def test_imports_go_downstairs_only():
    wrong = []
    for path in sources():
        module = module_name(path)
        here = floor_of(module)
        for line, name in imports(path):
            there = floor_of(name) if name.split(".")[0] == "bigm" else ""
            if there in FLOORS and here and here != there and FLOORS[there] > FLOORS[here]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {module} imports {name} from upstairs")
    assert [] == wrong


def test_systems_import_neither_one_another_nor_the_cluster():
    shared = {"__init__", "base", "orphans", "computer"}  # no systems: what is the same for several
    names = {path.stem for path in sources(PACKAGE / "systems")} - shared
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources(PACKAGE / "systems")
        for line, name in imports(path)
        if any(name.startswith(f"bigm.systems.{other}") for other in names - {path.stem})
    ]
    assert [] == wrong


def test_what_travels_uses_the_standard_library_alone():
    allowed = set(sys.stdlib_module_names) | {"bigm", "cloudpickle"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in TRAVELLING
        for line, name in imports(path)
        if name.split(".")[0] not in allowed
    ]
    assert [] == wrong


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: module_name(path))
def test_what_travels_has_the_grammar_of_python_3_9(path: Path):
    ast.parse(path.read_text(), feature_version=(3, 9))


def run_python(python: str, code: str, *options: str) -> str:
    answer = subprocess.run(
        [python, *options, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_what_travels_imports_on_a_real_python_3_9():
    python = find_python("3.9")
    if not python:
        pytest.skip("no Python 3.9 here")
    modules = sorted(module_name(path) for path in TRAVELLING)
    run_python(python, f"import importlib; [importlib.import_module(name) for name in {modules!r}]", "-I", "-S", "-B")


def test_importing_bigm_imports_nothing_else_of_it():
    loaded = run_python(
        sys.executable, "import bigm; print([m for m in sys.modules if m.startswith('bigm')])", "-I", "-S"
    )
    assert "['bigm']\n" == loaded


@pytest.mark.parametrize("module", ["bigm.bootstrap.agent", "bigm.worker.launcher", "bigm.bootstrap.keep"])
def test_a_machine_pays_for_nothing_of_the_drivers(module: str):
    heavy = ["typer", "rich", "boto3", "requests", "yaml", "asyncio", "numpy", "cryptography", "psutil", "cloudpickle"]
    code = f"import {module}; print([m for m in {heavy!r} if m in sys.modules])"
    assert "[]\n" == run_python(sys.executable, code)


def all_modules() -> list[str]:
    return ["bigm", *(info.name for info in pkgutil.walk_packages([str(PACKAGE)], "bigm."))]


def test_every_name_bigm_promises_exists_and_is_documented():
    import bigm

    assert bigm._PUBLIC, "the package promises nothing"
    assert [] == [name for name in bigm._PUBLIC if not inspect.getdoc(getattr(bigm, name))]


@pytest.mark.parametrize("name", all_modules())
def test_every_public_name_is_documented(name: str):
    module = importlib.import_module(name)
    silent = [] if module.__doc__ else [name]
    for key, value in vars(module).items():
        if key.startswith("_") or getattr(value, "__module__", None) != name:
            continue
        if inspect.isfunction(value) and not inspect.getdoc(value):
            silent.append(key)
        if inspect.isclass(value):
            silent += [f"{key}{member}" for member in _silent_members(value)]
    assert [] == silent


def _silent_members(cls: type) -> Iterator[str]:
    """ "" for the class itself (a dataclass's signature is no documentation), ".name" for its methods."""
    if not cls.__doc__ or cls.__doc__.startswith(f"{cls.__name__}("):
        yield ""
    for key, value in vars(cls).items():
        method = isinstance(value, (staticmethod, classmethod, property)) or inspect.isfunction(value)
        if method and not key.startswith("_") and not inspect.getdoc(getattr(cls, key)):
            yield f".{key}"


@pytest.mark.parametrize("folder", OWN, ids=lambda path: path.name)
def test_every_file_says_what_it_is_for(folder: Path):
    """A test module may leave it out: its name says whose tests they are."""
    files = [path for path in sources(folder) if not path.name.startswith("test_")]
    assert [] == [str(path.relative_to(ROOT)) for path in files if not ast.get_docstring(_parse(path))]


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def _calls(path: Path, *names: str) -> Iterator[ast.Call]:
    """Calls of functions so named (`time.sleep`, `pytest.skip`), however the module was imported as a whole."""
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield node


def test_every_sleep_says_why_it_is_one():
    """But for those of the programs and services that tests run, where sleeping is the work."""
    wrong = []
    for path in sources(*OWN):
        if ROOT / "tests" in path.parents and not re.match("test_|conftest|waiting", path.name):
            continue
        lines = path.read_text().splitlines()
        for call in _calls(path, "time.sleep", "sleep"):
            named = call.args and re.fullmatch("_?[A-Z_]+", ast.unparse(call.args[0]))  # a constant tells its reason
            if not named and not any("#" in line for line in lines[max(0, call.lineno - 2) : call.end_lineno]):
                wrong.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert [] == wrong, (
        "a sleep is no synchronisation; a comment on the line or the one above says why this one is fine"
    )


def test_every_skip_says_why():
    wrong = []
    for path in sources(ROOT / "tests"):
        for call in _calls(path, "pytest.skip", "pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail"):
            said = [word for word in call.keywords if word.arg == "reason"]
            if not said and not (ast.unparse(call.func) == "pytest.skip" and call.args):
                wrong.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert [] == wrong


def repository_files() -> list[Path]:
    """What git holds or would add; all files when this is no clone."""
    answer = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        timeout=10,
    )
    if answer.returncode == 0:
        return [path for name in answer.stdout.splitlines() if (path := ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not path.relative_to(ROOT).parts[0].startswith(".")]


def test_nothing_of_one_computer_is_in_the_repository():
    homes = [rf"(?<![\w.]){re.escape(os.sep)}{name}/" for name in ("work", "root")]
    hosts = [r"\bpypi\.", "pythonhosted", r"--(extra-)?index-url", "/opt/" + "wheels"]
    pattern = re.compile("|".join(homes + hosts))
    wrong = []
    for path in repository_files():
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert [] == wrong


def defined(path: Path) -> set[str]:
    """Names of a module's classes and functions, and "Class.method"."""
    found = set()
    for node in ast.walk(_parse(path)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


def test_the_architecture_names_what_exists():
    """Each file it names is there; each name behind a file's colon, or in brackets after it, is defined somewhere."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    files = set(re.findall(r"`(bigm/[\w/]+\.py)`", text))
    assert [] == [file for file in files if not (ROOT / file).exists()]
    pairs = re.findall(r"`(bigm/[\w/]+\.py)`:\s+`([\w.]+)`", text)
    assert len(pairs) > 20
    assert [] == [(file, name) for file, name in pairs if name not in defined(ROOT / file)]
    everywhere = set().union(*(defined(path) for path in sources()))
    methods = set(re.findall(r"`([A-Z]\w+\.\w+)(?:\(.*?\))?`", text))
    assert [] == sorted(methods - everywhere)


def test_links_between_pages_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())]
    assert [] == [(page.name, link) for page, link in links if not (page.parent / link).exists()]
    assert {page.name for page in pages[1:]} <= {Path(link).name for page, link in links if page.name == "README.md"}


def test_tests_that_are_left_out_by_default_are_run_by_ci():
    """Each marker of ours: nobody's tests are run by nobody."""
    settings, run = (ROOT / "pyproject.toml").read_text(), (ROOT / ".ci" / "run").read_text()
    [markers] = re.findall(r"^markers = \[\n(.*?)^\]", settings, re.M | re.S)
    names = re.findall(r'^ +"(\w+):', markers, re.M)
    assert {"slow", "root", "boot"} <= set(names)
    [left_out] = re.findall(r"^addopts = .* -m '(.*)'\"$", settings, re.M)
    assert " and ".join(f"not {name}" for name in names) == left_out
    chosen = " ".join(re.findall(r' -m (\w+|"[^"]*")', run)).replace("not ", "not_")
    assert set(names) <= set(re.findall(r"\w+", chosen))


@pytest.mark.slow
def test_an_installed_wheel_is_whole(tmp_path: Path):
    """From a wheel, without the repository: the type marker and templates are there, the agent's zip can be made."""
    tree = tmp_path / "tree"
    for path in repository_files():  # a copy: building writes into the tree
        target = tree / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    own = {**os.environ, "HOME": str(tmp_path)}  # pip asks a Rust compiler for its version, which makes itself at home
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(tree)]
    subprocess.run(build, check=True, timeout=120, env=own)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    expected = {module_name(path).replace(".", "/") for path in sources()}
    assert expected <= {name[: -len(".py")].replace("/__init__", "") for name in names if name.endswith(".py")}
    assert "bigm/py.typed" in names
    assert [] == [name for name in names if name.startswith(("tests", "examples", "benchmarks", "templates"))]

    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, timeout=120, env=own)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import importlib.resources as r, bigm;"
        "from bigm.bootstrap.agentzip import agent_zip;"
        "print(bigm.__file__, len(agent_zip()), sorted(p.name for p in r.files('bigm.templates').iterdir()))"
    )
    shown = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    assert str(site) in shown.stdout
    assert "__init__.py" in shown.stdout
