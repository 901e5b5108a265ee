"""Programs run as a user runs them, on hosts that have only a sshd and a Python."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rehearsal import ROOT, Rehearsal

import sshd
from waiting import eventually

PI = ROOT / "examples" / "bigpi.py"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(sshd.MISSING), reason=sshd.MISSING)]


@pytest.fixture(scope="module")
def rig() -> Iterator[sshd.Rig]:
    with sshd.Rig() as rig:
        rig.add("alpha")
        rig.add("beta")
        yield rig


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    return Rehearsal(tmp_path_factory.mktemp("rehearsal"), "numpy")


def over_ssh(rehearsal: Rehearsal, rig: sshd.Rig, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    variables = {"BIGM_SSH_CONFIG": rig.config, "BIGM_SYSTEM": "ssh", "BIGM_BUNDLE_STORE": ""}
    return rehearsal.run("--hosts", "alpha*2,beta*2", *words, cwd=cwd, bundle=False, **variables)


def test_bigpi_runs_on_hosts_and_a_second_run_sends_them_nothing(
    rehearsal: Rehearsal, rig: sshd.Rig, tmp_path: Path
) -> None:
    words = ("--nmach", "4", str(PI), "-n", "10_000_000")
    first = over_ssh(rehearsal, rig, *words, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert re.search(r"π = 3\.14\d+ .*4 machines", first.stdout + first.stderr)
    hosts = {event["host"] for event in rehearsal.events("enrolled")}
    assert len(hosts) == 1, "the hosts of the rig are all this computer"
    assert {"alpha", "beta"} == {event["instance"].partition("#")[0] for event in rehearsal.events("enrolled")}
    second = over_ssh(rehearsal, rig, *words, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "shipped" not in second.stderr
    assert rig["alpha"].is_empty()
    assert rig["beta"].is_empty()


def test_a_connection_that_is_cut_while_a_bundle_is_sent_only_delays_it(
    rehearsal: Rehearsal, rig: sshd.Rig, tmp_path: Path
) -> None:
    host = rig.add("gamma")
    cuts: list[int] = []

    def cut_when_parts_arrive() -> None:
        with contextlib.suppress(AssertionError):
            eventually(lambda: received(host.home) > 1 << 20, 120.0, poll=0.001)
            cuts.append(host.cut())

    cutter = threading.Thread(target=cut_when_parts_arrive)
    cutter.start()
    ran = over_ssh(rehearsal, rig, "--hosts", "gamma", "--nmach", "1", str(PI), "-n", "1_000_000", cwd=tmp_path)
    cutter.join()
    assert ran.returncode == 0, ran.stderr
    assert len(cuts) == 1
    assert cuts[0] > 0, "there was a connection to cut"
    assert host.is_empty()


def received(home: Path) -> int:
    """Bytes that have arrived below a home folder."""
    total = 0
    for path in home.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total
