"""Whatever is removed from the driver's store, nothing is that something else there holds."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest

from bigm.bundle.holdings import PYTHONS, Holdings
from bigm.bundle.layers import Layers, Made
from bigm.bundle.programs import Programs
from bigm.bundle.snapshot import keep_bytes
from bigm.manifest import File, Manifest
from bigm.parts import Parts

A, B = "a" * 64, "b" * 64


@pytest.fixture
def store(tmp_path: Path) -> Parts:
    return Parts(str(tmp_path / "parts"))


@pytest.fixture
def layers(tmp_path: Path, store: Parts) -> Layers:
    return Layers(tmp_path, store)


@pytest.fixture
def programs(tmp_path: Path, store: Parts) -> Programs:
    return Programs(tmp_path, store)


@pytest.fixture
def interpreters(tmp_path: Path, store: Parts) -> Holdings:
    return Holdings(PYTHONS, tmp_path, store)


def have_layer(layers: Layers, *texts: str, key: str = A) -> Manifest:
    """A layer that nobody uses any more."""

    def make(work: Path, root: Path) -> Made:
        (work / "tree").mkdir()
        for n, text in enumerate(texts):
            (work / "tree" / f"file{n}").write_text(text)
        return Made(work / "tree", "3.11", ())

    return layers.layer(key, make, waiting=lambda: None).manifest


def use_program(programs: Programs, store: Parts, *texts: str) -> tuple[Manifest, object]:
    """A program, and what keeps it in use."""
    manifest = Manifest(File(f"{n}", keep_bytes(store, text.encode()), len(text)) for n, text in enumerate(texts))
    keep_bytes(store, manifest.to_bytes())
    with programs.adding():
        return manifest, programs.use(manifest)


def keep_interpreter(interpreters: Holdings, store: Parts, content: bytes) -> tuple[str, object]:
    with interpreters.adding():
        digest = keep_bytes(store, content)
        return digest, interpreters.use(digest, {digest: len(content)})


def lacks(store: Parts, *manifests: Manifest) -> list[str]:
    return [*store.have([file.digest for each in manifests for file in each.files])]


def test_a_part_that_a_program_uses_stays_when_its_layer_goes(store: Parts, layers: Layers, programs: Programs):
    """As a file that is in the program's tree and in an environment's, or a .pex that the program has as data."""
    layer = have_layer(layers, "both", "only the layer")
    program, hold = use_program(programs, store, "both")
    layers.prune(keep=0)
    assert 1 == len(lacks(store, layer))
    assert [] == lacks(store, program)
    del hold


def test_a_part_that_a_layer_has_stays_when_its_program_goes(store: Parts, layers: Layers, programs: Programs):
    layer = have_layer(layers, "both")
    program, _ = use_program(programs, store, "both", "only the program")
    del _
    gc.collect()
    programs.prune(keep=-1)
    assert 1 == len(lacks(store, program))
    assert [] == lacks(store, layer)


def test_an_interpreter_stays_when_layers_and_programs_go(
    store: Parts, layers: Layers, programs: Programs, interpreters: Holdings
):
    digest, _ = keep_interpreter(interpreters, store, b"python")
    have_layer(layers, "x")
    use_program(programs, store, "y")
    gc.collect()
    layers.prune(keep=0)
    programs.prune(keep=-1)
    assert {} == store.have([digest])
    assert [digest] == os.listdir(store.folder)


def test_interpreters_that_were_not_used_for_longest_go_first(tmp_path: Path, store: Parts, interpreters: Holdings):
    digests = []
    for n in range(3):
        digest, _ = keep_interpreter(interpreters, store, b"%d" % n * 1000)
        del _
        os.utime(tmp_path / "pythons" / digest, (n, n))
        digests.append(digest)
    interpreters.prune(keep=2000)
    assert [digests[0]] == list(store.have(digests))
    assert {*digests[1:]} == {path.name for path in (tmp_path / "pythons").iterdir()}


def test_an_interpreter_that_is_used_stays_however_little_is_kept(store: Parts, interpreters: Holdings):
    digest, hold = keep_interpreter(interpreters, store, b"python")
    interpreters.prune(keep=0)
    assert {} == store.have([digest])
    del hold
    gc.collect()
    interpreters.prune(keep=0)
    assert [digest] == list(store.have([digest]))


def test_what_a_killed_process_had_brought_and_not_noted_goes_with_the_next_that_goes(store: Parts, layers: Layers):
    orphan = keep_bytes(store, b"brought, then killed")
    have_layer(layers, "x")
    layers.prune(keep=0)
    assert [orphan] == list(store.have([orphan]))


def test_nothing_goes_while_nobody_can_tell_what_one_in_use_holds(store: Parts, layers: Layers, programs: Programs):
    """A manifest that a crash of the computer has left short: its files may be in use all the same."""
    layer = have_layer(layers, "x")
    program, hold = use_program(programs, store, "y")
    os.truncate(store.path(program.digest), 3)
    layers.prune(keep=0)
    assert [] == lacks(store, program, layer)
    del hold
    gc.collect()
    have_layer(layers, "z", key=B)
    layers.prune(keep=0)
    assert 2 == len(lacks(store, program, layer)), "they go with the next that goes"


def test_a_store_that_somebody_has_removed_is_pruned_of_its_records(tmp_path: Path, store: Parts, programs: Programs):
    hold = use_program(programs, store, "x")[1]
    del hold
    gc.collect()
    shutil.rmtree(store.folder)
    programs.prune(keep=-1)
    assert [] == list((tmp_path / "programs").iterdir())
