"""What this computer lacks is found before a machine is started on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bigm.systems import computer
from bigm.systems.base import FAILED, OK, WARNING
from bigm.systems.inprocess import InProcess
from bigm.systems.local import Local

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says who may trace whom")


def test_this_computer_lacks_nothing_that_its_machines_need() -> None:
    for system in (Local(), InProcess()):
        findings = {each.check: each for each in system.doctor()}
        assert {"loopback", "CPUs", "memory", "keys in memory"} <= set(findings)
        assert [] == [each for each in findings.values() if each.state == FAILED]
        assert {computer.HERE} == {each.subject for each in findings.values()}


def test_a_computer_without_a_place_for_temporary_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(computer.tempfile, "gettempdir", none)
    [found] = [each for each in computer.machines_here() if each.check == "temporary files"]
    assert (FAILED, "No usable temporary directory found") == (found.state, found.text)


def test_looking_at_a_folder_leaves_nothing_in_it_and_does_not_make_it(tmp_path: Path) -> None:
    found = computer.folder("cache", tmp_path / "a" / "b", "it is the cache")
    assert found.state in (OK, WARNING), found
    assert str(tmp_path / "a" / "b") in found.text
    assert [] == list(tmp_path.iterdir())


def test_what_is_no_folder_is_said_to_be_none_and_fails_only_what_needs_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "cache"
    for needed, state in ((True, FAILED), (False, WARNING)):
        found = computer.folder("cache", path, "set BIGM_HOME", needed=needed)
        assert (state, f"{path} cannot be written to: Not a directory", "set BIGM_HOME") == (
            found.state,
            found.text,
            found.hint,
        )


@linux
@pytest.mark.parametrize(("scope", "state"), [("0", OK), ("1", OK), ("3", WARNING)])
def test_who_may_trace_whom_decides_on_stacks(scope: str, state: str, tmp_path: Path) -> None:
    (tmp_path / "ptrace_scope").write_text(f"{scope}\n")
    assert state == computer.stacks(str(tmp_path / "ptrace_scope")).state


@linux
def test_a_kernel_that_does_not_restrict_tracing_is_fine(tmp_path: Path) -> None:
    assert OK == computer.stacks(str(tmp_path / "none")).state


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk in memory with options."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "bigm-test", str(path)], check=True)
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.root
def test_bad_disks_are_told_from_good_ones(disk: Callable[[str], Path]) -> None:
    noexec = disk("noexec,size=2g")
    assert OK == computer.folder("cache", noexec, "").state
    assert computer.folder("cache", noexec, "").text.endswith("(noexec)"), "it is said, and harmless"
    found = computer.folder("cache", noexec, "take another", runs=True)
    assert (FAILED, True) == (found.state, found.text.endswith("; nothing may be run from there (noexec)"))
    assert FAILED == computer.folder("cache", disk("size=2m"), "").state
    assert WARNING == computer.folder("cache", disk("size=200m"), "").state
    full = disk("size=1m")
    (full / "zeros").write_bytes(bytes(1 << 20))
    assert f"{full} cannot be written to: No space left on device" == computer.folder("cache", full, "").text
    read_only = disk("ro")
    assert f"{read_only} cannot be written to: Read-only file system" == computer.folder("cache", read_only, "").text


@pytest.mark.root
def test_a_computer_without_loopback_can_start_no_machines() -> None:
    program = (
        "import dataclasses, json; from bigm.systems.computer import loopback; "
        "print(json.dumps(dataclasses.asdict(loopback())))"
    )
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=dict(os.environ),
    )
    found = json.loads(done.stdout)
    assert (FAILED, True) == (found["state"], found["text"].startswith("cannot connect to 127.0.0.1: ")), found
    assert "ip link set lo up" in found["hint"]
