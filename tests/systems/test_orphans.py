"""Machines on this computer whose driver has died are found and ended, whatever keeps them from ending themselves."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigm.bootstrap.descendants import MARK
from bigm.systems import orphans
from bigm.systems.base import ENDED, RUNNING, Instance
from bigm.systems.local import Local
from waiting import eventually

if sys.platform != "linux":
    pytestmark = pytest.mark.skip(reason="reads /proc")

DRIVER = """
import sys
from bigm.authority import Authority
from bigm.bootstrap.records import Launch
from bigm.systems.base import Spec
from bigm.systems.local import Local
system, authority = Local(parent_death=sys.argv[1] == "tied"), Authority()
launch = f"{authority.cluster}-0"
bootstrap = authority.bootstrap(launch)
boot = Launch(authority.cluster, launch, bootstrap.ca.decode(), bootstrap.cert.decode(), bootstrap.key.decode())
system.open(authority.cluster)
(instance,) = system.launch(1, Spec(), boot, launch).instances
print(instance.id, system._children[instance.id].process.pid, flush=True)
sys.stdin.read()
system.close()
"""


class Driver:
    """A driver with one agent, as a process of its own."""

    def __init__(self, how: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, "-c", DRIVER, how], stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout is not None
        self.instance, pid = self.process.stdout.readline().split()
        self.agent = int(pid)

    def kill(self) -> None:
        """Its death, of which it can tell nobody."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@contextlib.contextmanager
def driver(how: str) -> Iterator[Driver]:
    started = Driver(how)
    try:
        yield started
    finally:
        started.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(started.agent, signal.SIGKILL)


def found(instance: str) -> list[Instance]:
    return [one for one in Local().discover() if one.id == instance]


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}/environ").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()


def folders(instance: str) -> list[str]:
    temp = os.environ["TMPDIR"]
    return [name for name in os.listdir(temp) if name.startswith(f"bigm-{instance}-")]


@pytest.mark.parametrize("how", ["tied", "loose"])
def test_what_a_living_driver_holds_is_told_to_be_held(how: str) -> None:
    with driver(how) as living:
        (one,) = found(living.instance)
        assert (True, RUNNING, f"of process {living.process.pid}") == (one.held, one.state, one.reason)
        living.process.communicate(timeout=20)  # the end of its input is its own end
        assert 0 == living.process.returncode
    assert [] == folders(living.instance)


def test_an_agent_that_waits_for_its_lease_is_found_and_ended_with_its_folder() -> None:
    with driver("loose") as dead:
        dead.kill()
        (one,) = found(dead.instance)
        assert (RUNNING, False, dead.instance.partition("-")[0]) == (one.state, one.held, one.cluster)
        assert f"its driver, process {dead.process.pid}, has ended" == one.reason
        assert one.host
        assert one.since > 0
        assert one.kept is not None
        assert 1 == len(folders(dead.instance))
        assert {dead.instance: None} == Local().remove([one])
        assert not lives(dead.agent)
        assert ([], []) == (found(dead.instance), folders(dead.instance))
        assert {dead.instance: None} == Local().remove([one]), "removing twice is removing once"


def test_an_agent_that_is_stopped_is_found_and_ended() -> None:
    with driver("tied") as dead:
        os.kill(dead.agent, signal.SIGSTOP)
        dead.kill()
        (one,) = found(dead.instance)
        assert {dead.instance: None} == Local().remove([one])
        assert not lives(dead.agent)
        assert [] == folders(dead.instance)


def test_the_folder_of_an_agent_that_is_gone_is_found_with_its_size_and_removed(tmp_path: Path) -> None:
    instance = f"{secrets.token_hex(6)}-0-0"
    folder = Path(orphans.make_folder(instance))
    (folder / "log").write_bytes(bytes(100_000))
    (one,) = found(instance)
    assert (ENDED, instance.partition("-")[0]) == (one.state, one.cluster)
    assert str(folder) in one.reason
    assert one.kept is not None
    assert 100_000 <= one.kept < 200_000
    assert {instance: None} == Local().remove([one])
    assert not folder.exists()


def test_a_folder_of_something_else_is_not_found() -> None:
    folder = Path(os.environ["TMPDIR"]) / "bigm-mine"
    folder.mkdir()
    try:
        assert not [one for one in Local().discover() if "bigm-mine" in one.reason]
    finally:
        folder.rmdir()


def marked(word: str, *command: str) -> subprocess.Popen[str]:
    program = "print(flush=True); import time; time.sleep(600)"
    process = subprocess.Popen(
        [*command, sys.executable, "-c", program],
        env={**os.environ, MARK: f"outer,{word}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_processes_whose_agent_and_guard_are_gone_are_found_by_their_mark_and_ended() -> None:
    word = f"{secrets.token_hex(6)}-{secrets.token_hex(8)}"
    processes = [marked(word) for _ in range(2)]
    try:
        (one,) = found(word)
        assert word.partition("-")[0] == one.cluster
        assert all(str(process.pid) in one.reason for process in processes)
        assert {word: None} == Local().remove([one])
        assert not any(lives(process.pid) for process in processes)
        assert [] == found(word)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_processes_below_a_living_agent_are_not_found() -> None:
    """Before it has workers, an agent has no guard; what it has start then bears the mark all the same."""
    word = f"{secrets.token_hex(6)}-{secrets.token_hex(8)}"
    program = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    process = marked(word, sys.executable, "-I", "-S", "-c", program)
    try:
        assert [] == found(word)
    finally:
        for child in eventually(lambda: Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()):
            os.kill(int(child), signal.SIGKILL)
        process.communicate(timeout=20)


def test_a_command_line_that_only_looks_like_an_agents_is_not_taken_for_one() -> None:
    instance = f"{secrets.token_hex(6)}-0-0"
    program = "print(flush=True); import time; time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", program, "bigm-agent", instance, "x"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert [] == found(instance)
    finally:
        process.kill()
        process.communicate()


def test_ending_what_nobody_knows_is_a_success() -> None:
    assert {"no-such-instance": None} == Local().remove([Instance("no-such-instance")])
