"""The store of parts: verified, resumable, never half visible."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigm.parts import PartError, Parts


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def parts(tmp_path) -> Parts:
    return Parts(str(tmp_path / "parts"))


def test_a_part_sent_in_pieces_comes_back_whole_and_is_missing_until_then(parts):
    data = os.urandom(10_000)
    digest = digest_of(data)
    assert parts.have([digest]) == {digest: 0}
    assert parts.put(digest, 0, data[:4000], last=False) == 4000
    assert parts.have([digest]) == {digest: 4000}
    assert parts.put(digest, 4000, data[4000:], last=True) == 10_000
    assert parts.have([digest]) == {}
    assert parts.get(digest, 0, 20_000) == data
    assert parts.get(digest, 9_990, 20_000) == data[9_990:]
    assert parts.get(digest, 10_000, 5) == b""


def test_an_empty_part_is_a_part(parts):
    digest = digest_of(b"")
    assert parts.put(digest, 0, b"", last=True) == 0
    assert parts.have([digest]) == {}


def test_wrong_content_is_refused_forgotten_and_can_be_sent_again(parts):
    digest = digest_of(b"right")
    with pytest.raises(PartError, match="arrived as"):
        parts.put(digest, 0, b"wrong", last=True)
    assert parts.have([digest]) == {digest: 0}
    parts.put(digest, 0, b"right", last=True)
    assert parts.get(digest, 0, 100) == b"right"


def test_a_gap_is_answered_with_where_to_go_on(parts):
    digest = digest_of(b"abcdef")
    assert parts.put(digest, 3, b"def", last=True) == 0
    assert parts.put(digest, 0, b"abc", last=False) == 3
    assert parts.put(digest, 3, b"def", last=True) == 6
    assert parts.have([digest]) == {}


def test_names_that_are_no_digests_are_refused(parts):
    for name in ("../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", ""):
        with pytest.raises(PartError, match="not a sha256"):
            parts.put(name, 0, b"", last=True)
        with pytest.raises(PartError, match="not a sha256"):
            parts.get(name, 0, 1)


def test_a_missing_part_is_said_to_be_missing(parts):
    with pytest.raises(PartError, match="not here"):
        parts.get("0" * 64, 0, 1)


def test_a_part_is_read_whole_however_little_memory_there_is_for_the_size_that_was_asked_for(parts):
    parts.put(digest_of(b"small"), 0, b"small", last=True)
    assert b"mall" == parts.get(digest_of(b"small"), 1, 1 << 60)


@settings(max_examples=50)
@given(data=st.binary(max_size=200), sends=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 100)), max_size=20))
def test_pieces_in_any_order_never_make_a_wrong_part(data, sends, tmp_path_factory):
    parts = Parts(str(tmp_path_factory.mktemp("parts")))
    digest = digest_of(data)
    for offset, size in sends:
        piece = data[offset : offset + size]
        if offset <= len(data):
            parts.put(digest, offset, piece, last=offset + size >= len(data))
    received = parts.have([digest]).get(digest, len(data))
    parts.put(digest, received, data[received:], last=True)
    assert parts.get(digest, 0, 1000) == data


def test_two_senders_of_one_part_make_one_part(parts):
    data = os.urandom(300_000)
    digest = digest_of(data)

    def send() -> None:
        offset = 0
        while offset < len(data):
            offset = parts.put(digest, offset, data[offset : offset + 1000], last=offset + 1000 >= len(data))

    senders = [threading.Thread(target=send, name=f"sender-{number}") for number in range(2)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(30)
    assert parts.get(digest, 0, 1 << 20) == data


FULL_DISK = """
import hashlib, resource, sys
from bigm.parts import Parts, PartError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
data = b"x" * 2000
digest = hashlib.sha256(data).hexdigest()
try:
    Parts(sys.argv[1]).put(digest, 0, data, last=True)
except PartError as error:
    print(error)
assert Parts(sys.argv[1]).have([digest]) == {digest: 1000}
"""


def test_a_full_disk_is_said_and_what_arrived_is_kept(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "too large" in done.stdout
