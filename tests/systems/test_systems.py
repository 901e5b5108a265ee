"""The systems, each held to the one contract, and what is special about each."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bigm import manualclock
from bigm.authority import Authority
from bigm.bootstrap.enrol import open_agent
from bigm.bootstrap.records import Launch
from bigm.config import system_keys
from bigm.errors import BootError, ConfigError, WireError
from bigm.rpc.client import Client
from bigm.systems.base import ENDED, RUNNING, Instance, Spec, System, find_system, system_names
from bigm.systems.inprocess import InProcess, ManualClock
from bigm.systems.local import Local
from bigm.testing import check_system
from waiting import eventually


@pytest.mark.parametrize("make", [Local, InProcess])
def test_a_system_keeps_its_contract(make: Callable[[], System]) -> None:
    check_system(make)


class Forgetful(InProcess):
    """Launches anew each time it is asked, whatever the launch id."""

    def launch(self, n, spec, boot, launch_id):  # type: ignore[no-untyped-def]
        return super().launch(n, spec, boot, f"{launch_id}{secrets.token_hex(2)}")


def test_a_system_that_launches_twice_breaks_the_contract() -> None:
    with pytest.raises(AssertionError, match=r"launching again by the same launch id launches nothing"):
        check_system(Forgetful)


def test_a_system_is_found_by_name_and_the_known_ones_are_named() -> None:
    assert Local is find_system("local")
    assert InProcess is find_system("inprocess")
    with pytest.raises(ConfigError, match=r"no system called 'lokal'.*inprocess, local, ssh"):
        find_system("lokal")


def test_metadata_that_is_older_than_bigm_hides_none_of_its_own_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an update of a checkout that is installed in place."""
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [])
    assert ["ec2", "inprocess", "local", "ssh"] == system_names()
    assert {"ec2", "local", "ssh"} <= {key.name.partition(".")[0] for key in system_keys()}


class Rig:
    """One system, opened, with the certificates of a cluster."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.authority = Authority()
        self.launch = self.authority.bootstrap("launch0")
        system.open(self.authority.cluster)

    def start(self, n: int = 1, spec: Spec | None = None) -> list[Instance]:
        boot = Launch(
            cluster=self.authority.cluster,
            launch="launch0",
            ca=self.launch.ca.decode(),
            cert=self.launch.cert.decode(),
            key=self.launch.key.decode(),
            lifetime=1000.0,
        )
        launched = self.system.launch(n, spec or Spec(), boot, "launch0")
        if launched.failures:
            raise launched.failures[0]
        return list(launched.instances)

    def enrol(self, instance: Instance, machine: str = "m0") -> Client:
        client, _ = open_agent(
            lambda timeout: self.system.connect(instance, timeout),
            self.authority.driver(),
            self.authority.machine(machine),
            self.launch,
            name=machine,
        )
        return client

    def state(self, instance: Instance) -> str:
        return self.system.describe([instance.id])[0].state


@contextlib.contextmanager
def rig(system: System) -> Iterator[Rig]:
    try:
        yield Rig(system)
    finally:
        system.close()


def test_a_local_agent_that_is_killed_is_described_with_the_signal() -> None:
    with rig(Local()) as local:
        (instance,) = local.start()
        client = local.enrol(instance)
        os.kill(client.call("Agent.info").pid, signal.SIGKILL)
        client.close()
        eventually(lambda: local.state(instance) == ENDED, 5.0)
        assert local.system.describe([instance.id])[0].reason == "the agent was killed by signal 9"


def test_a_local_agent_keeps_its_files_in_one_folder_that_ends_with_it_even_when_it_is_killed() -> None:
    with rig(Local()) as local:
        (instance,) = local.start()
        client = local.enrol(instance)
        info = client.call("Agent.info")
        client.close()
        assert Path(info.folder).is_dir()
        os.kill(info.pid, signal.SIGKILL)
        local.system.terminate([instance.id])
        assert not Path(info.folder).exists()


def test_a_local_agent_whose_driver_dies_while_it_starts_leaves_no_folder(tmp_path: Path) -> None:
    """The driver is this script: it dies as soon as the agent has its launch, before it can say its port."""
    script = """
import os, subprocess, sys
from test_systems import Local, Rig
real = subprocess.Popen
def stopped(command, **options):
    command = ["sh", "-c", 'sleep 0.3; exec "$0" "$@"', *command]
    return real(command, **options)
subprocess.Popen = stopped
import bigm.systems.local as local
local._await_ports = lambda *_: os._exit(0)
Rig(Local()).start()
"""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path])
    environ = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", script], env=environ, timeout=30.0, check=True, stderr=subprocess.DEVNULL)
    eventually(lambda: not list(tmp_path.iterdir()), 10.0, lambda: f"left: {list(tmp_path.iterdir())}")


def test_an_agent_that_cannot_be_started_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with rig(Local()) as local, pytest.raises(BootError, match="cannot start an agent on this computer"):
        local.start(spec=Spec(python=str(tmp_path / "no-python")))
    assert list(tmp_path.iterdir()) == []


def test_a_python_that_cannot_run_an_agent_fails_the_launch_with_what_it_said(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no room on this box' >&2\nexit 3\n")
    broken.chmod(0o755)
    with rig(Local()) as local, pytest.raises(Exception, match="did not start; no room on this box"):
        local.start(spec=Spec(python=str(broken)))


def test_a_lease_in_process_is_lost_when_the_clock_is_turned_past_it_and_not_before() -> None:
    clock = ManualClock()
    with rig(InProcess(clock=clock)) as inprocess:
        (instance,) = inprocess.start()
        client = inprocess.enrol(instance)
        client.call("Agent.keepalive", (60.0,))
        clock.turn(59.0)
        client.call("Agent.keepalive", (60.0,))
        clock.turn(59.0)
        assert client.call("Agent.ping") == 118.0
        assert inprocess.state(instance) == RUNNING
        clock.turn(2.0)
        eventually(lambda: inprocess.state(instance) == ENDED, 5.0)
        client.close()


def test_the_lifetime_ends_a_machine_in_process_however_well_it_is_leased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manualclock, "_SETTLE", 0.2)  # there is no driver that hears of its end
    clock = ManualClock()
    with rig(InProcess(clock=clock)) as inprocess:
        (instance,) = inprocess.start()
        client = inprocess.enrol(instance)
        for _ in range(20):
            client.call("Agent.keepalive", (60.0,))
            clock.turn(49.0)
        assert inprocess.state(instance) == RUNNING
        client.call("Agent.keepalive", (600.0,))
        clock.turn(21.0)  # 1,001 s of 1,000
        report = client.call("Agent.watch", (0, 0, 5.0))
        assert report.cause == "lifetime"
        client.close()


def test_a_machine_in_process_that_is_killed_cuts_its_calls_off() -> None:
    system = InProcess()
    with rig(system) as inprocess:
        first, second = inprocess.start(2)
        victim, bystander = inprocess.enrol(first, "m0"), inprocess.enrol(second, "m1")
        future = victim.submit("Agent.watch", (1 << 40, 1 << 40, 60.0), timeout=30.0)
        victim.call("Agent.ping")
        system.kill(first.id)
        with pytest.raises(WireError):
            future.result(10.0)
        assert inprocess.state(first) == ENDED
        assert bystander.call("Agent.ping") >= 0
        victim.close()
        bystander.close()
