"""`bigm gc` lists what no living run owns, and ends it when it is told to, and only then."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest
from commanding import Said, bigm_line, run_bigm

from bigm.bootstrap.store import Store
from bigm.config import load
from bigm.errors import TransientError
from bigm.runs import Run
from bigm.systems import orphans
from bigm.systems.ssh.system import Ssh
from screens import Screen
from waiting import eventually

if sys.platform != "linux":
    pytestmark = pytest.mark.skip(reason="reads /proc")

PROGRAM = """
import time, bigm

if __name__ == "__main__":
    with bigm.start("local", local={"parent_death": False}, timeouts={"lease_local": 600.0}) as cluster:
        machines = cluster.start(2)
        cluster.wait(machines)
        print(cluster.id, *(machine.run(__import__("os").getppid) for machine in machines), flush=True)
        time.sleep(600)
"""


class Cluster:
    """A program with two machines that would outlive it for ten minutes."""

    def __init__(self, path: Path) -> None:
        path.write_text(PROGRAM)
        command = [sys.executable, str(path)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.id, *agents = self.process.stdout.readline().split()
        self.agents = [int(pid) for pid in agents]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def left(self) -> list[int]:
        return [pid for pid in self.agents if Path(f"/proc/{pid}").exists()]


@pytest.fixture
def cluster(work: Path) -> Iterator[Cluster]:
    started = Cluster(work / "loose.py")
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.kill()
        for pid in started.left:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not started.left)


def of(cluster: str, said: Said) -> list[dict[str, object]]:
    """What was said of *cluster*: others of this user may be there."""
    return [each for each in json.loads(said.out) if each["cluster"] == cluster]


def test_machines_of_a_driver_that_was_killed_are_listed_and_ended_only_when_told_to(cluster: Cluster) -> None:
    assert [] == of(cluster.id, run_bigm("gc", "--json")), "their driver lives"
    cluster.kill()

    listed = run_bigm("gc")
    assert 0 == listed.status
    rows = [line for line in listed.out.splitlines() if f"{cluster.id}-1-" in line]
    assert [True, True] == ["-loose-" in row and "(died)" in row and "has ended" in row for row in rows], listed
    assert "bigm: would end 2 machines; --yes does\n" in listed.err
    facts = of(cluster.id, run_bigm("gc", "--json"))
    assert [("died", False, None)] * 2 == [(each["run_state"], each["ended"], each["error"]) for each in facts]
    assert 2 == len(cluster.left), "nothing was ended yet"

    ended = run_bigm("gc", "--yes")
    assert (0, True) == (ended.status, ended.out.endswith("ended 2 machines\n")), ended
    eventually(lambda: not cluster.left)
    assert [] == of(cluster.id, run_bigm("gc", "--json"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folder of a machine that is gone; its cluster is in its name."""
    made = Path(orphans.make_folder(f"{secrets.token_hex(6)}-0-0"))
    yield made
    if made.exists():
        made.rmdir()


def test_what_is_of_no_run_of_this_home_is_listed_and_left_but_for_unknown(
    command: Callable[..., Said], folder: Path
) -> None:
    cluster = folder.name.split("-")[1]
    (facts,) = of(cluster, command("gc", "--yes", "--json"))
    assert (None, False) == (facts["run"], facts["ended"])
    said = command("gc", "--yes")
    assert cluster in said.out
    assert "not known here" in said.out
    assert "of runs that are not known here; --unknown takes them too" in said.err
    assert folder.exists()


def journal(folder: Path) -> Run:
    """A run that has launched what left *folder*."""
    run = Run.create(load(), "x.py")
    run.intent("launch", system="local", cluster=folder.name.split("-")[1])
    return run


def test_what_a_living_run_owns_is_not_even_listed(command: Callable[..., Said], folder: Path) -> None:
    cluster = folder.name.split("-")[1]
    run = journal(folder)
    assert [] == of(cluster, command("gc", "--json"))
    run.finish(0)
    (facts,) = of(cluster, command("gc", "--json", "--yes"))
    assert (run.id, "ended", True) == (facts["run"], facts["run_state"], facts["ended"])
    assert not folder.exists()


@pytest.mark.parametrize(("answer", "remains"), [("n", True), ("y", False)])
def test_on_a_terminal_it_asks(home: Path, folder: Path, answer: str, remains: bool) -> None:
    journal(folder).finish(0)
    screen = Screen(bigm_line("gc"), NO_COLOR="1")
    try:
        screen.read_until("End 1 machine? [y/N]")
        screen.type(answer)
        assert 0 == screen.end()
        assert remains is folder.exists()
        assert remains is ("ended 1 machine" not in screen.seen)
    finally:
        screen.close()


def test_systems_that_leave_nothing_or_are_none_are_said_to_be(command: Callable[..., Said]) -> None:
    assert Said(0, "nothing is left on inprocess\n", "") == command("gc", "--system", "inprocess")
    said = command("gc", "--system", "lokal")
    assert (2, "bigm: there is no system called 'lokal'") == (said.status, said.err.splitlines()[0])


def test_hosts_that_could_not_be_looked_at_are_told_from_those_that_were(
    command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stub(NamedTuple):
        name: str
        recorded = None

        def request(self, request: object) -> list[dict[str, object]]:
            if self.name.startswith("bad"):
                raise TransientError("no route")
            return []

    monkeypatch.setattr(Ssh, "_visit", lambda self: nullcontext([Stub(name) for name in self._slots]))
    assert Said(0, "nothing is left on a, b\n", "") == command("gc", "--hosts", "a,b*2")
    said = command("gc", "--hosts", "a,bad,b")
    lines = ["bigm: bad was not looked at: no route", "bigm: looked at a, b; not at bad"]
    assert (75, "nothing is left on a, b\n", lines) == (said.status, said.out, said.err.splitlines())
    said = command("gc", "--hosts", "bad", "--json")
    assert (75, "[]\n", "bigm: looked at no host; not at bad") == (said.status, said.out, said.err.splitlines()[1])
    assert (75, "") == command("gc", "--hosts", "bad")[:2]


def test_what_bundles_have_left_on_this_computer_is_told(tmp_path: Path) -> None:
    folder = str(tmp_path / "store")
    store = Store(folder)

    def make(path: str, making: int) -> dict[str, object]:
        os.mkdir(path)
        return {"size": 3 << 20}

    try:
        store.keep("tree", make)
        store.take(hashlib.sha256(b"x").hexdigest(), b"x")
        said = run_bigm("gc", "--system", "local", BIGM_BUNDLE_STORE=folder)
    finally:
        store.close()
    assert f"bigm: {folder} keeps 3.0 MiB of bundles, 3.0 MiB of it in use; what nobody uses is removed" in said.err
    cache = tmp_path / "home" / "cache" / "pex"
    cache.mkdir(parents=True)
    (cache / "wheel").write_bytes(bytes(2 << 20))
    (cache.parent / "part").write_bytes(bytes(1 << 20))
    said = run_bigm("gc", "--system", "local", BIGM_HOME=str(tmp_path / "home"))
    assert f"bigm: {cache.parent} keeps 3.0 MiB to make bundles of, 2.0 MiB of it pex's; it may be removed" in said.err
    assert "of bundles" not in run_bigm("gc", "--json", "--system", "local", BIGM_BUNDLE_STORE=folder).err


def test_a_torn_journal_hides_no_machine(command: Callable[..., Said], folder: Path) -> None:
    run = journal(folder)
    with open(run.folder / "journal", "a") as file:
        file.write('{"launch": "torn", "int\n[1]\n')
    run.finish(0)
    (facts,) = of(folder.name.split("-")[1], command("gc", "--json"))
    assert run.id == facts["run"]
