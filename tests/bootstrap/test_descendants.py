"""The mark that a machine's processes bear. That none survives is tested with real agents, in test_agent_process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from machines import all_gone

from bigm.bootstrap import descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def sleeper(mark: str) -> subprocess.Popen[bytes]:
    """A child that bears *mark*, once it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"],
        env={**os.environ, descendants.MARK: mark},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def test_a_machine_started_by_a_machine_is_found_by_both_and_its_sibling_by_neither(monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1 << 30)  # else all of this are our descendants
    outer = descendants.machine_mark("c0-12345678")
    monkeypatch.setenv(descendants.MARK, outer)
    inner = descendants.machine_mark("c0-abcdefgh")
    process = sleeper(inner)
    try:
        assert process.pid in descendants.find(outer)
        assert process.pid in descendants.find(inner)
        assert process.pid not in descendants.find(b"ABCDEFGH".hex())
    finally:
        process.kill()
        process.wait()


def test_the_guard_kills_what_bears_the_mark_and_removes_the_folder_when_its_pipe_ends(tmp_path):
    mark = descendants.machine_mark(os.urandom(8).hex())
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    process = sleeper(mark)
    guard = descendants.Guard(mark, str(folder))
    assert process.poll() is None
    assert guard._pipe is not None
    os.close(guard._pipe)  # as the agent's death does
    assert process.wait(10.0) < 0
    os.waitpid(guard.pid, 0)
    assert not folder.exists()
    all_gone(process.pid)
