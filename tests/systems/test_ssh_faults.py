"""What dies and what is cut: machines on hosts end with their driver, and outlive a connection."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bigm
import sshd
from bigm.errors import MayHaveRun
from bigm.systems.ssh.system import Ssh
from launching import Launching
from waiting import eventually

pytestmark = pytest.mark.skipif(bool(sshd.MISSING), reason=sshd.MISSING)

DRIVER = """
import sys
sys.path[:0] = {path!r}
import bigm
from bigm.systems.ssh.system import Ssh
cluster = bigm.start(Ssh(hosts="alpha*2,beta", config={config!r}, in_place=True), timeouts={timeouts!r})
machines = cluster.start(3)
cluster.wait(machines)
print("keeper", cluster._common.keeper.pid, flush=True)
machines[0].run(__import__("time").sleep, 600)
"""


@pytest.fixture
def rig() -> Iterator[sshd.Rig]:
    with sshd.Rig() as rig:
        rig.add("alpha")
        rig.add("beta")
        yield rig


def start_driver(rig: sshd.Rig, **timeouts: float) -> tuple[subprocess.Popen[str], int]:
    """A driver with three machines, one of which is in a call, and the process id of its keeper."""
    text = DRIVER.format(path=sys.path, config=rig.config, timeouts=timeouts)
    driver = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    line = driver.stdout.readline()
    assert line.startswith("keeper"), "the driver did not start its machines"
    assert len(rig["alpha"].agents()) >= 4
    return driver, int(line.split()[1])


def clean_up(rig: sshd.Rig) -> None:
    """Remove what a killed driver leaves on its own computer, as the next one does."""
    system = Ssh(hosts="alpha", config=rig.config)
    left = Path(os.environ["TMPDIR"])
    # Each look at a connection that nobody uses any more makes it stay a while longer.
    eventually(lambda: not list(left.glob("bigm-ssh-*/h*")), 60.0, "connections without a driver end by themselves")

    def nothing_left() -> bool:
        system.open("c0")
        system.close()
        return not list(left.glob("bigm-*"))

    eventually(nothing_left, 60.0, lambda: str(list(left.glob("bigm-*/*"))), poll=0.5)


def empty(rig: sshd.Rig) -> bool:
    return all(host.is_empty() for host in rig.hosts.values())


def what_is_left(rig: sshd.Rig) -> str:
    return str([(host.name, host.agents(), host.files()) for host in rig.hosts.values()])


@pytest.mark.slow
def test_the_machines_of_a_killed_driver_end_in_seconds(rig: sshd.Rig) -> None:
    driver, _ = start_driver(rig)
    driver.kill()
    driver.wait()
    eventually(lambda: empty(rig), 15.0, lambda: what_is_left(rig))
    assert driver.stdout is not None
    driver.stdout.close()
    clean_up(rig)


@pytest.mark.slow
def test_the_machines_of_a_driver_killed_with_its_keeper_end_with_their_lease(rig: sshd.Rig) -> None:
    driver, keeper = start_driver(rig, lease=4.0)
    os.kill(keeper, signal.SIGKILL)
    driver.kill()
    driver.wait()
    assert not empty(rig)
    eventually(lambda: empty(rig), 20.0, lambda: what_is_left(rig))
    assert driver.stdout is not None
    driver.stdout.close()
    clean_up(rig)


class Slow:
    """Counts what was begun, and takes its time."""

    def __init__(self) -> None:
        self.begun = 0
        self.go_on = False

    def work(self) -> int:
        self.begun += 1
        eventually(lambda: self.go_on, 60.0)
        return self.begun

    def count(self) -> int:
        return self.begun

    def release(self) -> None:
        self.go_on = True


@pytest.mark.slow
def test_a_connection_that_is_cut_is_made_again_and_calls_tell_whether_they_may_have_run(rig: sshd.Rig) -> None:
    with bigm.start(Ssh(hosts="alpha,beta", config=rig.config, in_place=True)) as cluster:
        machines = cluster.start(2, services={"S": Slow()})
        cluster.wait(machines)
        [machine] = [machine for machine in machines if "alpha" in machine.addr]
        started: Any = machine.submit("S.work")
        eventually(lambda: machine.call("S.count") == 1)
        assert rig["alpha"].cut() > 0
        again = machine.options(timeout=60.0, idempotent=True).submit("S.count")
        with pytest.raises(MayHaveRun):
            started.result(60.0)
        assert 1 == again.result(60.0)
        assert 1 == machine.options(timeout=60.0).call("S.count")
        machine.options(timeout=60.0).call("S.release")
        assert 2 == machine.options(timeout=60.0).call("S.work")
        assert [bigm.State.RUNNING] * 2 == [each.state for each in machines]
    assert empty(rig)


def test_sockets_of_a_driver_that_was_killed_with_its_connection_are_removed_by_the_next() -> None:
    place = Path(os.environ["TMPDIR"])
    left = [place / f"bigm-ssh-{name}" for name in ("living", "dead")]
    with contextlib.ExitStack() as held:
        for folder in left:
            folder.mkdir()
            (folder / "lock").touch()
            master = held.enter_context(socket.socket(socket.AF_UNIX))
            master.bind(str(folder / "h0"))
            master.listen() if folder.name.endswith("living") else master.close()
        system = Ssh(hosts="nobody")
        system.open("c0")
        system.close()
        assert [True, False] == [folder.exists() for folder in left]
    shutil.rmtree(left[0])


def test_the_folder_of_a_driver_that_was_killed_while_it_made_it_is_removed_by_the_next() -> None:
    place = Path(os.environ["TMPDIR"])
    names = ["young", "empty", "locked"]
    left = [place / f"bigm-new-{name}" for name in names]
    for folder in left:
        folder.mkdir()
    (left[2] / "lock").touch()
    for folder in left[1:]:
        os.utime(folder, (1e9, 1e9))
    system = Ssh(hosts="nobody")
    system.open("c0")
    system.close()
    assert ["young"] == [name for name, folder in zip(names, left) if folder.exists()]
    left[0].rmdir()


def test_an_agent_that_is_killed_is_told_of_and_leaves_nothing(rig: sshd.Rig) -> None:
    system = Ssh(hosts="alpha", config=rig.config)
    try:
        launching = Launching(system)
        [instance] = launching.launch(1).instances
        client, info = launching.enrol(instance)
        os.kill(info.pid, signal.SIGKILL)
        client.close()
        eventually(lambda: system.describe([instance.id])[0].state == "ended", 10.0)
        assert "its agent has ended" in system.describe([instance.id])[0].reason
        assert {instance.id: None} == system.terminate([instance.id])
        eventually(lambda: rig["alpha"].is_empty(), 10.0, lambda: what_is_left(rig))
    finally:
        system.close()


@pytest.mark.slow
def test_fifty_agents_start_on_one_host_at_once(rig: sshd.Rig) -> None:
    system = Ssh(hosts="alpha*50", config=rig.config)
    try:
        launching = Launching(system)
        instances = launching.launch(50).instances
        assert 50 == len({instance.locator for instance in instances})
        infos: list[int] = []

        def enrol(number: int) -> None:
            client, info = launching.enrol(instances[number], f"m{number}")
            infos.append(info.pid)
            client.close()

        threads = [threading.Thread(target=enrol, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 50 == len(set(infos))
        assert {None} == set(system.terminate([instance.id for instance in instances]).values())
    finally:
        system.close()
    assert rig["alpha"].is_empty()
