"""What travels of a program, and where it lies in its tree: real trees of files, collected as a bundle's are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bigm.bundle.layout import find_layout
from bigm.bundle.sources import collect, machine_tree
from bigm.parts import Parts


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(str(tmp_path_factory.mktemp("store") / "parts"))


def write(root: Path, *names: str) -> None:
    """Files of that name below *root*, each containing its name; a folder where one ends in a slash."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(name)


def paths_of(script: Path, store: Parts, *entries: Path) -> list[str]:
    """What travels of a program whose `sys.path` are its own folder and *entries*."""
    layout = find_layout(str(script), [str(script.parent), *map(str, entries)], str(script.parent), modules={})
    return [file.path for file in collect(layout, store).manifest.files]


def test_modules_and_data_beside_a_script_travel(tmp_path: Path, store: Parts):
    write(tmp_path, "app/main.py", "app/helper.py", "app/data/a.csv", "beside.py")
    assert ["app/data/a.csv", "app/helper.py", "app/main.py"] == paths_of(tmp_path / "app/main.py", store)


def test_every_content_and_the_manifest_are_in_the_store(tmp_path: Path, store: Parts):
    write(tmp_path, "app/main.py")
    (tmp_path / "app" / "run.sh").write_text("#!/bin/sh")
    (tmp_path / "app" / "run.sh").chmod(0o755)
    layout = find_layout(str(tmp_path / "app/main.py"), [str(tmp_path / "app")], str(tmp_path), modules={})
    manifest = collect(layout, store).manifest
    assert {} == store.have([manifest.digest, *(file.digest for file in manifest.files)])
    assert [("app/main.py", False), ("app/run.sh", True)] == [(file.path, file.executable) for file in manifest.files]
    assert b"app/main.py" == Path(store.path(manifest.files[0].digest)).read_bytes()


def test_a_tree_of_bigm_itself_has_its_modules_and_no_caches(store: Parts):
    paths = [file.path for file in machine_tree(store).files]
    assert {"bigm/__init__.py", "bigm/worker/launcher.py", "bigm/bundle/sources.py"} <= set(paths)
    assert [] == [path for path in paths if "__pycache__" in path or not path.startswith("bigm/")]
    assert os.path.exists(store.path(machine_tree(store).digest))
