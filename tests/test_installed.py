from __future__ import annotations

from bigm.bootstrap.records import Main, WorkerSpec
from bigm.bundle.bundle import PROGRAM, SITE, STDLIB, Bundle
from bigm.installed import installed
from bigm.manifest import Manifest
from bigm.parts import Parts

EMPTY = Manifest([])
ENVIRONMENT = {"python": "/e/bin/python", "stdlib": ["/usr/lib/python3.11"], "site": ["/e/site", "/e/site/extra"]}


def a_bundle(main: Main, *sys_path: tuple[str, str], cwd: str = "") -> Bundle:
    return Bundle(EMPTY, EMPTY, {}, sys_path, main, cwd, "3.11", Parts("/nowhere"))


def test_the_drivers_order_is_kept_and_bigm_comes_last() -> None:
    bundle = a_bundle(Main(), (PROGRAM, "app"), (STDLIB, ""), (SITE, ""), (SITE, "sub"), (PROGRAM, ""), (STDLIB, ""))
    found = installed(bundle, ENVIRONMENT, "/b", "/t")
    assert found.sys_path == (
        "/t/app",
        "/usr/lib/python3.11",
        "/e/site",
        "/e/site/extra",
        "/e/site/sub",
        "/t",
        "/b",
    )


def test_a_script_runs_by_its_path_there_and_is_called_so() -> None:
    bundle = a_bundle(Main("path", "app/run.py", "app/run.py"), cwd="app")
    spec = installed(bundle, ENVIRONMENT, "/b", "/t").adapt(a_spec())
    assert spec.main == Main("path", "/t/app/run.py", "/t/app/run.py")
    assert spec.argv == ("/t/app/run.py", "-x")
    assert installed(bundle, ENVIRONMENT, "/b", "/t").adapt(a_spec("run.py")).argv == ("run.py", "-x")
    assert (spec.python, spec.root, spec.cwd) == ("/e/bin/python", "/b", "/t/app")
    assert (spec.bundle, spec.minor) == (bundle.digest, "3.11")


def test_a_module_runs_by_its_name() -> None:
    spec = installed(a_bundle(Main("module", "app.run", "")), ENVIRONMENT, "/b", "/t").adapt(a_spec())
    assert spec.main == Main("module", "app.run", "")
    assert spec.argv == ("prog.py", "-x")


def test_variables_that_lead_python_astray_are_emptied_unless_the_program_sets_them() -> None:
    spec = installed(a_bundle(Main()), ENVIRONMENT, "/b", "/t").adapt(a_spec()._replace(env={"PYTHONPATH": "/mine"}))
    assert spec.env["PYTHONHOME"] == ""
    assert spec.env["PYTHONPATH"] == "/mine"


def a_spec(name: str = "prog.py") -> WorkerSpec:
    return WorkerSpec(proc=0, python="", identity="", ca=b"", cert=b"", key=b"", argv=(name, "-x"))
