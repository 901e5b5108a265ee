"""A manifest: equal trees, equal bytes; no path leads out of its tree."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bigm.manifest import File, Manifest, ManifestError

DIGEST = "ab" * 32
names = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)
files = st.builds(
    File, st.lists(names, min_size=1, max_size=3).map("/".join), st.just(DIGEST), st.integers(0), st.booleans()
)


@given(st.lists(files, max_size=8, unique_by=lambda file: file.path), st.randoms())
def test_it_reads_what_it_writes_whatever_order_the_files_came_in(found: list[File], random):
    paths = [file.path for file in found]
    assume(not any(other.startswith(path + "/") for path in paths for other in paths))
    manifest = Manifest(found)
    random.shuffle(found)
    assert manifest == Manifest.from_bytes(manifest.to_bytes())
    assert manifest.digest == Manifest(found).digest


def test_its_bytes_are_made_once_however_many_machines_are_told_of_it():
    manifest = Manifest([File("a", DIGEST, 1)])
    assert manifest.to_bytes() is manifest.to_bytes()


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "a\0b"])
def test_no_path_leads_out_of_the_tree(path: str):
    with pytest.raises(ManifestError, match="no path within a tree"):
        Manifest([File(path, DIGEST, 1)])


def test_a_path_stands_once():
    with pytest.raises(ManifestError, match="twice"):
        Manifest([File("a", DIGEST, 1), File("a", DIGEST, 2)])
    with pytest.raises(ManifestError, match="a file and a folder"):
        Manifest([File("a", DIGEST, 1), File("a/b", DIGEST, 2)])


@pytest.mark.parametrize("data", [b"", b"{}x", b"[1]", b'[["a"]]', b'"ab"', b"\xff"])
def test_what_is_no_manifest_is_refused(data: bytes):
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data)
