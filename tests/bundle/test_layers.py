from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bigm.bundle.bundle import Dependencies
from bigm.bundle.environment import DependencyError
from bigm.bundle.layers import Layers, Made, Seen
from bigm.parts import Parts

A, B, C = (digit * 64 for digit in "abc")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Parts:
    return Parts(str(tmp_path / "parts"))


@pytest.fixture
def layers(tmp_path: Path, store: Parts) -> Layers:
    return Layers(tmp_path, store)


def made(work: Path, *texts: str) -> Made:
    """A tree with a file for each of *texts*."""
    tree = work / "tree"
    tree.mkdir()
    for n, text in enumerate(texts):
        (tree / f"file{n}").write_text(text)
    return Made(tree, "3.11", ("alpha 1.0",), ("a note",))


def have(layers: Layers, key: str, *texts: str) -> Dependencies:
    return layers.layer(key, lambda work, root: made(work, *texts), waiting=lambda: None)


def never(work: Path, root: Path) -> Made:
    raise AssertionError("it was made before")


def age(tmp_path: Path, *keys: str) -> None:
    """Have the layers been used last in this order, the first of them longest ago."""
    for n, key in enumerate(keys):
        os.utime(tmp_path / "layers" / key, (n, n))


def here(store: Parts, layer: Dependencies) -> bool:
    return not store.have(file.digest for file in layer.manifest.files)


def test_a_layer_is_made_once(tmp_path: Path, store: Parts, layers: Layers):
    first = have(layers, A, "x", "y")
    assert (A, "3.11", ("alpha 1.0",), ("a note",)) == (first.key, first.python, first.distributions, first.notes)
    again = Layers(tmp_path, store).layer(A, never, waiting=lambda: None)
    assert first == again
    assert [] == list((tmp_path / "layers").glob("*.work"))


@pytest.mark.parametrize("whose", ["file", "manifest"])
def test_a_layer_whose_parts_are_not_all_here_is_made_again(store: Parts, layers: Layers, whose: str):
    """Even while a run uses it: that run is helped too."""
    layer = have(layers, A, "x")
    digest = layer.manifest.files[0].digest if whose == "file" else layer.manifest.digest
    os.unlink(store.path(digest))
    assert layer == have(layers, A, "x")
    assert here(store, layer)


def test_a_layer_with_a_part_that_a_crash_has_left_short_is_made_again(store: Parts, layers: Layers):
    layer = have(layers, A, "whole")
    part = Path(store.path(layer.manifest.files[0].digest))
    part.write_bytes(part.read_bytes()[:2])
    assert layer == have(layers, A, "whole")
    assert b"whole" == part.read_bytes()


def test_facts_that_were_not_written_to_their_end_count_as_none(tmp_path: Path, layers: Layers):
    layer = have(layers, A, "x")
    facts = tmp_path / "layers" / A
    facts.write_bytes(facts.read_bytes()[:20])
    assert layer == have(layers, A, "x")


def test_what_was_used_last_is_kept(tmp_path: Path, store: Parts, layers: Layers):
    made_ = [have(layers, key, "common", key) for key in (A, B, C)]
    manifests = [(layer.key, layer.manifest) for layer in made_]
    del made_
    age(tmp_path, B, A, C)
    size = len("common") + 2 * 64 + 2 * len(manifests[0][1].to_bytes())
    layers.prune(keep=size)
    assert [A, C] == sorted(path.name for path in (tmp_path / "layers").iterdir() if len(path.name) == 64)
    gone = [key for key, manifest in manifests if store.have(file.digest for file in manifest.files)]
    assert [B] == gone, "a part that another layer has is kept with it"


def test_what_a_run_uses_is_never_removed(tmp_path: Path, store: Parts, layers: Layers):
    used = have(layers, A, "x")
    layers.prune(keep=0)
    assert here(store, used)

    code = (
        "import sys, pathlib\n"
        "from bigm.bundle.layers import Layers\n"
        "from bigm.parts import Parts\n"
        "cache = pathlib.Path(sys.argv[1])\n"
        "layer = Layers(cache, Parts(str(cache / 'parts'))).layer(sys.argv[2], None, waiting=print)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    manifest = used.manifest
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path, A], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert "held\n" == other.stdout.readline()
        del used
        layers.prune(keep=0)
        assert not store.have(file.digest for file in manifest.files)
        other.communicate(timeout=10)
    layers.prune(keep=0)
    assert store.have(file.digest for file in manifest.files)


def test_nothing_is_removed_while_another_layer_is_being_made(tmp_path: Path, store: Parts, layers: Layers):
    """It may have found a part here that it shares with one that would go."""
    manifest = have(layers, A, "x").manifest

    def make(work: Path, root: Path) -> Made:
        layers.prune(keep=0)
        assert not store.have(file.digest for file in manifest.files)
        return made(work, "x", "z")

    assert here(store, layers.layer(B, make, waiting=lambda: None))


def test_one_makes_and_the_others_wait(layers: Layers):
    entered, leave = threading.Event(), threading.Event()
    waited: list[str] = []

    def make(work: Path, root: Path) -> Made:
        entered.set()
        assert leave.wait(10)
        return made(work, "x")

    def waiting() -> None:
        waited.append("second")
        leave.set()

    found: list[Dependencies] = []
    first = threading.Thread(target=lambda: found.append(layers.layer(A, make, waiting=lambda: waited.append("first"))))
    first.start()
    assert entered.wait(10)
    second = layers.layer(A, never, waiting=waiting)
    first.join(10)
    assert ([second], ["second"]) == (found, waited)


def test_what_a_failure_leaves_can_be_looked_at_until_another_layer_is_made(tmp_path: Path, layers: Layers):
    def fail(work: Path, root: Path) -> Made:
        (work / "log").write_text("why")
        raise DependencyError("no")

    with pytest.raises(DependencyError):
        layers.layer(A, fail, waiting=lambda: None)
    work = tmp_path / "layers" / f"{A[:12]}.work"
    assert "why" == (work / "log").read_text()
    have(layers, B, "x")
    assert not work.exists()


def test_a_cache_of_pex_that_is_too_big_begins_anew_unless_it_is_used(tmp_path: Path, layers: Layers):
    big = tmp_path / "pex" / "wheel"
    big.parent.mkdir()
    big.write_bytes(bytes(1000))
    layers.prune(keep_of_pex=1000)
    assert big.exists()

    def make(work: Path, root: Path) -> Made:
        layers.prune(keep_of_pex=999)
        assert big.exists()
        return made(work, "x")

    layers.layer(A, make, waiting=lambda: None)
    layers.prune(keep_of_pex=999)
    assert not big.exists()


def test_of_pexs_caches_for_patched_distributions_the_last_one_is_kept(tmp_path: Path, layers: Layers):
    for n, name in enumerate("cab"):
        (tmp_path / "pex" / "patched" / name).mkdir(parents=True)
        os.utime(tmp_path / "pex" / "patched" / name, (n, n))
    layers.prune()
    assert ["b"] == [path.name for path in (tmp_path / "pex" / "patched").iterdir()]


def test_the_environments_that_were_seen_are_remembered_up_to_a_count(tmp_path: Path, layers: Layers):
    odd = Seen("state", A, ("a note",), ("/a/plain", "/with\udcff/byte"))
    layers.see("e" * 64, odd)
    assert (odd, Seen()) == (layers.seen("e" * 64), layers.seen("f" * 64))
    for n in range(120):
        layers.see(f"{n:064x}", odd)
    layers.prune()
    assert 100 == len(list((tmp_path / "layers" / "seen").iterdir()))
