"""The log ring: offsets, bounds, and what a full disk costs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigm.ring import LogRecord, Ring, Slice


def read_all(ring: Ring, offset: int = 0, limit: int = 1000) -> tuple[bytes, int]:
    """Everything from *offset* on in several reads, and how much was dropped."""
    data, dropped = b"", 0
    while offset < ring.end:
        part = ring.read(offset, limit)
        assert part.next_offset > offset
        data += b"".join(record.data for record in part.records)
        dropped += part.dropped
        offset = part.next_offset
    return data, dropped


def test_a_record_comes_back_with_its_offset_time_source_and_stream(tmp_path):
    ring = Ring(str(tmp_path))
    assert ring.append("w0", "o", b"hello\n", 17.5) == 6
    assert ring.append("agent", "e", b"x", 18.5) == 7
    expected = (LogRecord(0, 17.5, "w0", "o", b"hello\n"), LogRecord(6, 18.5, "agent", "e", b"x"))
    assert ring.read(0, 1000) == Slice(expected, 7, 0, 7)


def test_a_read_in_the_middle_of_a_record_begins_there():
    ring = Ring()
    ring.append("w0", "o", b"hello", 1.0)
    assert ring.read(2, 1000) == Slice((LogRecord(2, 1.0, "w0", "o", b"llo"),), 5, 0, 5)


def test_a_read_at_or_beyond_the_end_is_empty():
    ring = Ring()
    ring.append("w0", "o", b"hello", 1.0)
    assert ring.read(5, 1000) == Slice((), 5, 0, 5)
    assert ring.read(99, 1000) == Slice((), 5, 0, 5)


def test_one_record_above_the_limit_is_still_given():
    ring = Ring()
    ring.append("w0", "o", b"hello", 1.0)
    ring.append("w0", "o", b"world", 1.0)
    assert [record.data for record in ring.read(0, 1).records] == [b"hello"]


@settings(max_examples=60)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=60),
    disk=st.integers(1, 3000),
    memory=st.integers(1, 2000),
    limit=st.integers(1, 300),
    start=st.integers(0, 500),
)
def test_what_is_read_is_exactly_what_was_written_less_the_bytes_said_to_be_dropped(
    pieces, disk, memory, limit, start, tmp_path_factory
):
    ring = Ring(str(tmp_path_factory.mktemp("ring")), disk_limit=disk, memory_limit=memory)
    for piece in pieces:
        ring.append("w1", "e", piece, 1.0)
    whole = b"".join(pieces)
    start = min(start, len(whole))
    data, dropped = read_all(ring, start, limit)
    assert len(data) + dropped == len(whole) - start
    assert whole.endswith(data)
    ring.close()


def test_records_that_left_memory_are_read_from_disk_and_the_disk_is_bounded(tmp_path):
    ring = Ring(str(tmp_path), disk_limit=80_000, memory_limit=2000)
    for number in range(10_000):
        ring.append("w0", "o", b"line %d\n" % number, 1.0)
    data, dropped = read_all(ring, limit=5000)
    assert data.endswith(b"line 9999\n")
    assert len(data) + dropped == ring.end
    assert 15_000 < len(data) < 80_000
    assert sum(os.path.getsize(tmp_path / name) for name in os.listdir(tmp_path)) < 100_000
    ring.close()
    assert os.listdir(tmp_path) == []


FULL_DISK = """
import resource, sys
from bigm.ring import Ring
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
ring = Ring(sys.argv[1], memory_limit=3000)
for number in range(1000):
    ring.append("w0", "o", b"line %03d\\n" % number, 1.0)
offset, got, dropped = 0, b"", 0
while offset < ring.end:
    part = ring.read(offset, 500)
    got += b"".join(record.data for record in part.records)
    dropped += part.dropped
    offset = part.next_offset
assert got.startswith(b"line 000\\n") and got.endswith(b"line 999\\n"), got[-100:]
assert dropped and dropped + len(got) == ring.end, (dropped, len(got), ring.end)
print(ring.disk_error)
"""


def test_a_full_disk_costs_the_records_in_between_and_is_said(tmp_path):
    """RLIMIT_FSIZE refuses as a full disk does: a part of a write first, then an error."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "too large" in done.stdout
    assert str(tmp_path) in done.stdout


def test_a_folder_that_cannot_be_written_costs_the_disk_only(tmp_path):
    ring = Ring(str(tmp_path / "missing"))
    ring.append("w0", "o", b"hello", 1.0)
    assert read_all(ring) == (b"hello", 0)
    assert "No such file" in ring.disk_error


def test_a_ring_does_not_leak_descriptors(tmp_path):
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("no /proc here")
    before = descriptors()
    ring = Ring(str(tmp_path), disk_limit=800)
    for _ in range(100):
        ring.append("w0", "o", b"x" * 100, 1.0)
    ring.close()
    assert descriptors() == before
