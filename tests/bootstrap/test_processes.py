"""Workers as processes: what a start leaves behind that fails. Their lives are in test_agent_process.py."""

from __future__ import annotations

import contextlib
import os
import resource
import sys

import pytest

from bigm.bootstrap.processes import _Process
from bigm.bootstrap.records import WorkerSpec
from bigm.errors import ConfigError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS only: no /proc to count descriptors in")

SPEC = WorkerSpec(proc=0, python=sys.executable, identity="", ca=b"", cert=b"", key=b"")


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("spare", range(9))
def test_a_start_without_descriptors_is_said_and_leaves_none_open(spare: int) -> None:
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filler = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)) + 30, hard))
    try:
        with contextlib.suppress(OSError):  # too many open files: that is the point
            while True:
                filler.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(spare):
            os.close(filler.pop())
        with pytest.raises(ConfigError, match=r"cannot start worker 0: .*Too many open files"):
            _Process(SPEC, lambda python, fd: [python, "-c", "pass"], {})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filler:
            os.close(fd)
    assert descriptors() == before
