"""What a machine says of its memory and CPUs, with the files of cgroups v2 and v1 as the kernel writes them."""

from __future__ import annotations

import os
import sys

import pytest

from bigm.bootstrap import samples

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
GIB = 1 << 30


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """A cgroup tree of the test's own, in which we are in a/b."""
    monkeypatch.setattr(samples, "_CGROUPS", str(tmp_path))
    monkeypatch.setattr(samples, "_box", lambda: (16 * GIB, 12 * GIB))

    def write(path: str, text: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


def in_cgroup(monkeypatch, line: str) -> None:
    real = open

    def fake(path, *args, **kwargs):
        if path == "/proc/self/cgroup":
            read, write = os.pipe()
            os.write(write, line.encode())
            os.close(write)
            return os.fdopen(read)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(samples, "open", fake, raising=False)


def test_the_least_limit_of_all_cgroups_above_counts(cgroups, monkeypatch):
    in_cgroup(monkeypatch, "0::/a/b\n")
    cgroups("a/b/memory.max", "max\n")
    cgroups("a/memory.max", f"{4 * GIB}\n")
    cgroups("a/memory.current", f"{3 * GIB}\n")
    cgroups("a/memory.stat", f"anon 1\ninactive_file {GIB}\n")
    memory = samples.memory()
    assert (memory.total, memory.limit, memory.used, memory.available) == (16 * GIB, 4 * GIB, 2 * GIB, 2 * GIB)


def test_cgroup_v1_counts_too_and_its_no_limit_is_none(cgroups, monkeypatch):
    in_cgroup(monkeypatch, "5:cpu:/a\n3:memory:/a/b\n0::/\n")
    cgroups("memory/memory.limit_in_bytes", "9223372036854771712\n")
    cgroups("memory/a/b/memory.limit_in_bytes", f"{GIB}\n")
    cgroups("memory/a/b/memory.usage_in_bytes", f"{GIB // 2}\n")
    assert samples.memory().limit == GIB


def test_without_a_limit_the_box_counts(cgroups, monkeypatch):
    in_cgroup(monkeypatch, "0::/a/b\n")
    memory = samples.memory()
    assert (memory.limit, memory.used, memory.available) == (16 * GIB, 4 * GIB, 12 * GIB)


def test_oom_kills_are_counted_where_our_cgroup_counts_them(cgroups, monkeypatch):
    in_cgroup(monkeypatch, "0::/a/b\n")
    cgroups("a/b/memory.events", "low 0\noom 3\noom_kill 2\n")
    assert samples.oom_kills() == 2


def test_our_own_process_has_memory_and_a_gone_one_has_none():
    assert samples.process(os.getpid())[0] > 1 << 20
    assert samples.process(1 << 30) == (0, 0.0)
