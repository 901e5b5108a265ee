from __future__ import annotations

import os
from pathlib import Path

import pytest
from environments import install, make_wheel, site_packages

from bigm.bundle.environment import Environment, environment_of, state_of
from bigm.bundle.whereabouts import ours, whereabouts_of


def look(python: Path) -> Environment:
    return environment_of(whereabouts_of(str(python)))


def test_our_own_packages_are_found_without_being_asked_for():
    assert ours().site
    assert {"bigm", "pex", "pytest"} < {each.name for each in environment_of(ours()).distributions}


def test_what_is_installed_is_known_by_name_and_version(python: Path):
    found = look(python)
    assert ["alpha 1.5", "beta-tools 2.0"] == [str(each) for each in found.distributions]
    assert ([], ()) == (found.patched(), found.notes)


def test_the_digest_changes_with_what_is_installed_alone(python: Path, wheels: Path):
    before = look(python).digest
    (site_packages(python) / "alpha.py").touch()
    (site_packages(python) / "~lpha-1.4.dist-info").mkdir()
    assert before == look(python).digest, "what pip could not remove counts for nothing"
    install(python, make_wheel(wheels, "gamma"))
    assert before != look(python).digest


def test_one_of_two_versions_in_one_folder_counts_and_is_named(python: Path, wheels: Path):
    info = site_packages(python) / "alpha-1.5.dist-info"
    info.rename(info.with_name("kept"))
    install(python, make_wheel(wheels, "alpha", "1.6"))
    info.with_name("kept").rename(info)
    (note,) = look(python).notes
    assert f"alpha 1.6 and 1.5 are both installed in {site_packages(python)}: the first counts" == note


def test_a_change_of_a_module_changes_the_state_though_its_size_is_the_same(python: Path):
    paths = look(python).watched()
    module = site_packages(python) / "alpha.py"
    assert str(module) in paths
    before = state_of(paths)
    assert before == state_of(paths)
    os.utime(module, ns=(1, 1))
    assert before != state_of(paths)


@pytest.mark.parametrize("name", ["alpha.py", "beta/__init__.py", "alpha-1.5.dist-info/METADATA"])
def test_a_file_that_was_changed_is_found(python: Path, name: str):
    (site_packages(python) / name).write_text("changed")
    (found,) = look(python).patched()
    assert (name, True) == (found.path, found.recorded)


def test_a_command_is_of_its_environment_and_counts_for_nothing(python: Path):
    """It names the interpreter, and is made anew for each."""
    (python.parent / "beta").write_text("#!/elsewhere/python")
    assert [] == look(python).patched()


def test_a_file_without_a_recorded_hash_counts_by_its_content(python: Path):
    record = site_packages(python) / "alpha-1.5.dist-info" / "RECORD"
    lines = [
        line.split(",")[0] + ",," if line.startswith("alpha.py") else line for line in record.read_text().split("\n")
    ]
    record.write_text("\n".join(lines))
    (found,) = look(python).patched()
    assert ("alpha.py", False) == (found.path, found.recorded)
