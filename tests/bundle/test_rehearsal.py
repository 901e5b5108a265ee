"""`bigm run --bundle`: programs of every layout run on machines as they run in place, from what was brought there."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from rehearsal import PROBE, Rehearsal, alike, outcome

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    return Rehearsal(tmp_path_factory.mktemp("rehearsal"))


def project(folder: Path, files: dict[str, str]) -> Path:
    """Make files; the folder."""
    for name, text in {"probe.py": PROBE, **files}.items():
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


MAIN = "import probe\nif __name__ == '__main__': probe.show({modules}, {files})\n"


def test_a_script_beside_its_modules_and_data(rehearsal: Rehearsal, tmp_path: Path) -> None:
    files = {"run.py": MAIN.format(modules=["helper"], files=["data.txt"]), "helper.py": "", "data.txt": "hello"}
    home = project(tmp_path / "app", files)
    found = both(rehearsal, tmp_path, "run.py", "-x", cwd=home)
    assert found["files"] == {"data.txt": "hello"}
    assert found["argv"] == ["run.py", "-x"]
