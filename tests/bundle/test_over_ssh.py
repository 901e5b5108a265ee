"""Programs run as a user runs them, on hosts that have only a sshd and a Python."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rehearsal import ROOT, Rehearsal

import sshd

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(sshd.MISSING), reason=sshd.MISSING)]


@pytest.fixture(scope="module")
def rig() -> Iterator[sshd.Rig]:
    with sshd.Rig() as rig:
        rig.add("alpha")
        rig.add("beta")
        yield rig


def over_ssh(rehearsal: Rehearsal, rig: sshd.Rig, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    variables = {"BIGM_SSH_CONFIG": rig.config, "BIGM_SYSTEM": "ssh", "BIGM_BUNDLE_STORE": ""}
    return rehearsal.run("--hosts", "alpha*2,beta*2", *words, cwd=cwd, bundle=False, **variables)


def test_bigpi_runs_on_hosts_and_a_second_run_sends_them_nothing(rig: sshd.Rig, tmp_path: Path) -> None:
    rehearsal = Rehearsal(tmp_path, "numpy")
    words = ("--nmach", "4", str(ROOT / "examples" / "bigpi.py"), "-n", "10_000_000")
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
