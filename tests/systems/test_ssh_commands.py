"""`bigm doctor ssh` and `bigm gc --system ssh`: what they find on hosts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import sshd
from bigm.systems.base import FAILED, OK, RUNNING
from bigm.systems.ssh.system import Ssh
from launching import Launching
from waiting import eventually

pytestmark = pytest.mark.skipif(bool(sshd.MISSING), reason=sshd.MISSING)


@pytest.fixture(scope="module")
def rig() -> Iterator[sshd.Rig]:
    with sshd.Rig() as rig:
        rig.add("alpha")
        rig.add("beta", python="3.9")
        rig.add("refusing").stop()
        yield rig


def bigm(rig: sshd.Rig, *words: str, hosts: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "BIGM_SSH_HOSTS": hosts, "BIGM_SSH_CONFIG": rig.config, "BIGM_SYSTEM": "ssh"}
    command = [sys.executable, "-m", "bigm", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)


def test_doctor_tells_of_each_host_what_it_has_and_of_one_that_is_not_there_why(rig: sshd.Rig) -> None:
    ran = bigm(rig, "doctor", "ssh", "--json", hosts="alpha,beta,refusing")
    found: dict[tuple[str, str], Any] = {(one["subject"], one["check"]): one for one in json.loads(ran.stdout)}
    assert 75 == ran.returncode
    assert FAILED == found["refusing", "connection"]["state"]
    assert "Connection refused" in found["refusing", "connection"]["text"]
    for host, version in ("alpha", "3.11."), ("beta", "3.9."):
        assert OK == found[host, "connection"]["state"]
        assert found[host, "Python"]["text"].startswith(version)
        assert (OK, "right") == (found[host, "clock"]["state"], found[host, "clock"]["text"])
        assert int(found[host, "CPUs"]["text"]) > 0
        assert "MiB are free" in found[host, "memory"]["text"]
        assert str(rig[host].home / ".cache/bigm") in found[host, "cache"]["text"]
        assert str(rig[host].tmp) in found[host, "temporary files"]["text"]
    assert rig["alpha"].is_empty()
    assert not (rig["alpha"].home / ".cache").exists(), "to look changes nothing"


@pytest.mark.slow
def test_gc_finds_and_ends_agents_and_what_killed_ones_have_left(rig: sshd.Rig) -> None:
    system = Ssh(hosts="alpha*2", config=rig.config)
    try:
        launching = Launching(system)
        instances = launching.launch(2).instances
        found = Ssh(hosts="alpha,beta", config=rig.config).discover()
        assert [one.id for one in instances] == [one.id for one in found]
        assert {(RUNNING, "alpha", launching.authority.cluster)} == {(i.state, i.host, i.cluster) for i in found}
        client, info = launching.enrol(instances[0])
        client.close()
        os.kill(info.pid, signal.SIGKILL)
        eventually(lambda: info.pid not in rig["alpha"].agents())
        ran = bigm(rig, "gc", "--unknown", "--yes", "--json", hosts="alpha,refusing")
        assert "cannot reach refusing" in ran.stderr
        assert "bigm: looked at alpha; not at refusing\n" in ran.stderr
        assert 75 == ran.returncode
        told = {one["instance"]: one for one in json.loads(ran.stdout)}
        assert {one.id for one in instances} == set(told)
        assert [True, True] == [one["ended"] for one in told.values()]
        assert "has ended and left files" in told[instances[0].id]["reason"]
        eventually(lambda: rig["alpha"].is_empty(), 10.0, lambda: str((rig["alpha"].agents(), rig["alpha"].files())))
    finally:
        system.close()
