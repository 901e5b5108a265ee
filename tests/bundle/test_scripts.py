"""Scripts that say what they need (PEP 723), run on real machines with a bundle of that."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from environments import make_wheel
from rehearsal import PROBE, Rehearsal, outcome

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    return Rehearsal(tmp_path_factory.mktemp("scripts"))


def script(folder: Path, *block: str, modules: list[str]) -> Path:
    """A program with a block; its folder."""
    folder.mkdir()
    (folder / "probe.py").write_text(PROBE)
    lines = "".join(f"# {line}\n" for line in block)
    main = f"# /// script\n{lines}# ///\nimport probe\nif __name__ == '__main__': probe.show({modules!r})\n"
    (folder / "run.py").write_text(main)
    return folder


def versions(rehearsal: Rehearsal, folder: Path, **variables: str) -> tuple[list[str], str]:
    """The distributions that a machine has, by name, and what bigm said."""
    done = rehearsal.run("run.py", cwd=folder, **variables)
    [found] = outcome(done)
    return [each.split()[0] for each in found["versions"]], done.stderr


def test_a_machine_has_what_the_block_asks_for_and_nothing_else(rehearsal: Rehearsal, tmp_path: Path) -> None:
    folder = script(tmp_path / "app", 'dependencies = ["packaging"]', modules=["packaging"])
    found, said = versions(rehearsal, folder, PIP_INDEX_URL="http://127.0.0.1:9/none")
    assert ["cloudpickle", "packaging"] == found
    assert "asks for" not in said


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pex has no pip of its own for this Python")
def test_what_is_not_installed_here_is_there_on_machines(rehearsal: Rehearsal, tmp_path: Path) -> None:
    index = tmp_path / "index"
    index.mkdir()
    make_wheel(index, "only-there", "2.0")
    folder = script(tmp_path / "app", 'dependencies = ["only-there>=2"]', modules=["only_there"])
    variables = {"PIP_FIND_LINKS": str(index), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}
    found, said = versions(rehearsal, folder, **variables)
    assert ["cloudpickle", "only-there"] == found
    assert "; machines that are brought a bundle get it: only-there>=2 (not installed)" in said
    assert 1 == said.count("asks for what"), "`bigm run` says it, and who makes the bundle does not again"


def test_a_script_for_other_pythons_is_refused_before_anything_starts(rehearsal: Rehearsal, tmp_path: Path) -> None:
    folder = script(tmp_path / "app", 'requires-python = "<3.10"', modules=[])
    for bundle in (False, True):
        done = rehearsal.run("run.py", cwd=folder, bundle=bundle)
        assert 2 == done.returncode
        assert "run.py requires Python <3.10, and this is 3." in done.stderr
        assert "Traceback" not in done.stderr
    assert "" == done.stdout
