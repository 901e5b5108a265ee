"""Workers as processes: what a start leaves behind that fails. Their lives are in test_agent_process.py."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys

import pytest

from bigm.bootstrap.processes import _Process, worker_command
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
            _Process(SPEC, lambda spec, fd: [spec.python, "-c", "pass"], {})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filler:
            os.close(fd)
    assert descriptors() == before


def test_a_workers_bigm_is_the_one_in_its_root(tmp_path):
    (tmp_path / "bigm" / "worker").mkdir(parents=True)
    (tmp_path / "bigm" / "__init__.py").touch()
    (tmp_path / "bigm" / "worker" / "__init__.py").touch()
    (tmp_path / "bigm" / "worker" / "launcher.py").write_text("def main(fd): print(__file__, fd)")
    command = worker_command(SPEC._replace(root=str(tmp_path)), 7)
    printed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert printed == f"{tmp_path}/bigm/worker/launcher.py 7\n"
