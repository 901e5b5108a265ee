from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from environments import (
    ask,
    install,
    lay_out,
    make_environment,
    make_layer,
    make_project,
    make_wheel,
    printed,
    site_packages,
)

from bigm.bundle.bundle import Dependencies
from bigm.bundle.whereabouts import ours
from bigm.errors import BigmError
from interpreters import find_python


def names(layer: Dependencies) -> list[str]:
    """What is in a layer, but for what is always."""
    return [each for each in layer.distributions if not each.startswith("cloudpickle ")]


def test_what_is_installed_is_there_in_the_same_versions(tmp_path: Path, python: Path, warm: Path):
    layer = make_layer(python, warm)
    assert ["alpha 1.5", "beta-tools 2.0"] == names(layer)
    assert (f"{sys.version_info[0]}.{sys.version_info[1]}", ()) == (layer.python, layer.notes)

    there = lay_out(layer, warm, tmp_path / "machine")
    assert "1.5" == ask(there, "import beta; print(beta.alpha.VERSION)")
    assert "beta 1.5" == printed(there.parent / "beta")
    assert ask(there, "import cloudpickle; print(cloudpickle)"), "workers use it, and the environment has none"


@pytest.mark.slow
def test_the_same_environment_gives_the_same_bytes(tmp_path: Path, wheels: Path, warm: Path):
    wheel = make_wheel(wheels, "alpha", "1.5")
    first = make_layer(make_environment(tmp_path / "one", wheel), warm)
    second = make_layer(make_environment(tmp_path / "two", wheel), tmp_path / "cache")
    assert first == second
    assert [] == [file for file in first.manifest.files if str(tmp_path) in file.path]


def test_a_known_environment_starts_no_pex(tmp_path: Path, python: Path, warm: Path, monkeypatch: pytest.MonkeyPatch):
    """Which would fail, with this interpreter."""
    first = make_layer(python, warm)
    wheel = make_wheel(tmp_path, "gamma")
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        assert first == make_layer(python, warm, said)
    assert [] == said

    install(python, wheel)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(BigmError, match="No such file"):
        make_layer(python, warm, said)
    assert ["bundling 4 distributions with pex"] == said[1:]


@pytest.mark.slow
def test_a_file_changed_in_place_travels_as_it_is_and_is_named(tmp_path: Path, python: Path, warm: Path):
    before = make_layer(python, warm)
    changed = site_packages(python) / "alpha.py"
    changed.write_text("VERSION = 'patched'\n")
    layer = make_layer(python, warm)
    assert ("alpha was changed in place: alpha.py; so it travels",) == layer.notes
    assert before.key != layer.key
    assert "patched" == ask(lay_out(layer, warm, tmp_path / "one"), "import alpha; print(alpha.VERSION)")

    changed.write_text("VERSION = 'again'\n")
    assert "again" == ask(
        lay_out(make_layer(python, warm), warm, tmp_path / "two"), "import alpha; print(alpha.VERSION)"
    )

    changed.write_text("VERSION = '1.5'\n")
    assert before == make_layer(python, warm), "what is as it was again has the layer that it had"


@pytest.mark.slow
def test_a_missing_file_of_a_distribution_is_named(tmp_path: Path, python: Path, warm: Path):
    (site_packages(python) / "alpha.py").unlink()
    assert ("alpha was changed in place: alpha.py (missing); so it travels",) == make_layer(python, warm).notes


@pytest.mark.slow
def test_of_an_editable_project_travels_what_is_said_about_it(tmp_path: Path, python: Path, warm: Path):
    source = {"src/mine/__init__.py": "", "src/mine/cli.py": ""}
    project = make_project(tmp_path / "mine", "mine", source, "entry_points={'plugins': ['mine = mine.cli']}")
    install(python, "--editable", project)
    layer = make_layer(python, warm)
    assert ["alpha 1.5", "beta-tools 2.0", "mine 0.3"] == names(layer)
    assert () == layer.notes
    code = (
        "import importlib.metadata as m, importlib.util as u\n"
        "print(m.version('mine'), *[e.value for e in m.entry_points(group='plugins')], u.find_spec('mine'))"
    )
    assert "0.3 mine.cli None" == ask(lay_out(layer, warm, tmp_path / "machine"), code)


@pytest.mark.slow
def test_an_extension_in_c_that_was_built_here_travels(tmp_path: Path, python: Path, warm: Path):
    code = (
        "#include <Python.h>\n"
        'static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fast._fast"};\n'
        "PyMODINIT_FUNC PyInit__fast(void) {\n"
        "    PyObject *made = PyModule_Create(&module);\n"
        '    PyModule_AddIntConstant(made, "answer", 42);\n'
        "    return made;\n"
        "}\n"
    )
    source = {"src/fast/__init__.py": "from fast._fast import answer\n", "src/fast/_fast.c": code}
    extension = "ext_modules=[Extension('fast._fast', ['src/fast/_fast.c'])]"
    install(python, make_project(tmp_path / "fast", "fast", source, extension))
    layer = make_layer(python, warm)
    assert "fast 0.3" in layer.distributions
    assert "42" == ask(lay_out(layer, warm, tmp_path / "machine"), "import fast; print(fast.answer)")


@pytest.mark.slow
def test_an_environment_at_odds_with_itself_travels_and_says_so(tmp_path: Path, python: Path, warm: Path):
    needy = make_wheel(tmp_path, "needy", requires=["alpha>=7", "absent", "extra-only; extra == 'more'"])
    install(python, needy)
    layer = make_layer(python, warm)
    assert (
        "needy 1.0 requires alpha>=7, and alpha 1.5 is installed",
        "needy 1.0 requires absent, and absent is not installed",
    ) == layer.notes
    there = lay_out(layer, warm, tmp_path / "machine")
    assert "1.0 1.5" == ask(there, "import needy, alpha; print(needy.VERSION, alpha.VERSION)")


def test_what_belongs_to_no_distribution_is_named(tmp_path: Path, python: Path, warm: Path):
    (site_packages(python) / "dropped.py").touch()
    (note,) = make_layer(python, warm).notes
    assert f"not bundled, since no distribution has them: dropped.py in {site_packages(python)}" == note


@pytest.mark.slow
def test_a_python_without_a_virtual_environment_is_bundled_too(
    tmp_path: Path, wheels: Path, warm: Path, monkeypatch: pytest.MonkeyPatch
):
    """As in a container, or with pyenv: pex itself takes virtual environments alone. Here it has two site-packages."""
    system = make_wheel(wheels, "alpha", files={"alpha.py": "", "shared/one.py": "", "shared/data.txt": ""})
    user = make_wheel(wheels, "beta", files={"shared/two.py": "", "beta.py": ""}, scripts={"beta": "shared.two:main"})
    older = make_wheel(wheels, "alpha", "0.9")
    pythons = [make_environment(tmp_path / "user", user), make_environment(tmp_path / "system", system)]
    install(pythons[1], make_wheel(wheels, "beta", "0.1"))
    install(pythons[0], older)
    base = Path(sys.executable).resolve()
    of = replace(
        ours(), python=str(base), prefix=sys.base_prefix, site=tuple(str(site_packages(each)) for each in pythons)
    )
    monkeypatch.setattr("bigm.bundle.dependencies.whereabouts_of", lambda python: of)
    layer = make_layer(base, warm)
    assert (["alpha 0.9", "beta 1.0"], ()) == (names(layer), layer.notes)
    there = lay_out(layer, warm, tmp_path / "machine")
    assert "0.9" == ask(there, "import alpha, shared.two; print(alpha.VERSION)")
    assert (there.parent / "beta").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not find_python("3.12"), reason="no Python 3.12 here")
def test_another_python_than_the_drivers_is_bundled(tmp_path: Path, wheels: Path, warm: Path):
    other = Path(find_python("3.12"))
    layer = make_layer(other, warm)
    assert ("3.12", []) == (layer.python, names(layer)), "a Python of pyenv has pip alone"
    inner = make_environment(tmp_path / "inner", make_wheel(wheels, "alpha"), python=str(other))
    assert ["alpha 1.0"] == names(make_layer(inner, warm))


@pytest.mark.slow
def test_settings_of_pex_python_and_pip_have_no_part_in_it(
    tmp_path: Path, python: Path, warm: Path, monkeypatch: pytest.MonkeyPatch
):
    plain = make_layer(python, warm)
    rubbish = {
        "PEX_ROOT": "/nowhere/root",
        "PEX_PYTHON": "/nowhere/python",
        "PEX_VERBOSE": "9",
        "PEX_SCRIPT": "nothing",
        "PEX_INTERPRETER": "1",
        "PYTHONPATH": str(tmp_path / "shadow"),
        "PYTHONHOME": "/nowhere/home",
        "PYTHONSTARTUP": "/nowhere/startup.py",
        "PYTHONOPTIMIZE": "2",
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_NO_BINARY": ":all:",
        "SOURCE_DATE_EPOCH": "1700000000",
    }
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "pex.py").write_text("raise SystemExit('the wrong pex')")
    for name, value in rubbish.items():
        monkeypatch.setenv(name, value)
    assert plain == make_layer(python, tmp_path / "cache")


@pytest.mark.slow
def test_distributions_of_every_shape_travel(tmp_path: Path, wheels: Path, warm: Path):
    """Odd versions, namespaces that several share, scripts, data, a `.pth` file, and a folder with a space."""
    data = {
        "Odd.Name_x.py": "",
        "Odd_Name.x-1!2.0rc1+cu118.data/scripts/plain": "#!python\nprint('plain')\n",
        "Odd_Name.x-1!2.0rc1+cu118.data/data/share/odd/data.txt": "of the environment",
        "odd.pth": "import sys; sys.odd = True\n",
    }
    odd = make_wheel(wheels, "Odd_Name.x", "1!2.0rc1+cu118", files=data, requires=["shared-two>=1.0a1"])
    one = make_wheel(wheels, "shared.one", files={"shared/one/__init__.py": "", "shared/one/data.bin": "x"})
    two = make_wheel(wheels, "shared-two", "1.0a2", files={"shared/two.py": "", "shared/deep/er/three.py": ""})
    python = make_environment(tmp_path / "an env", odd, one, two)
    layer = make_layer(python, warm)
    assert (["odd-name-x 1!2.0rc1+cu118", "shared-one 1.0", "shared-two 1.0a2"], ()) == (names(layer), layer.notes)

    there = lay_out(layer, warm, tmp_path / "machine")
    code = (
        "import sys, shared.one, shared.two, shared.deep.er.three, importlib.metadata as m, pathlib\n"
        "share = pathlib.Path(sys.prefix, 'share/odd/data.txt')\n"
        "data = pathlib.Path(shared.one.__file__).with_name('data.bin')\n"
        "print(sys.odd, m.version('odd-name.x'), share.read_text(), data.read_text())"
    )
    assert "True 1!2.0rc1+cu118 of the environment x" == ask(there, code)
    assert "plain" == printed(there.parent / "plain")
