"""The plugin of pytest, in real sessions of it on small files of tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SERVICE = """
import threading, time
import bigm, pytest

class Counter:
    def __init__(self):
        self.total = 0
    def add(self, n=1):
        self.total += n
        return self.total

def start(cluster, n=1):
    machines = cluster.start(n, services={"C": Counter()})
    cluster.wait(machines)
    return machines
"""


def session(
    tmp_path: Path, tests: str, *options: str, passed: int = 0, failed: int = 0, skipped: int = 0, errors: int = 0
) -> str:
    """Run pytest on *tests*, which must end as counted; what it printed."""
    (tmp_path / "test_mine.py").write_text(SERVICE + tests)
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'base'}", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", shown.stdout[-300:])}
    wanted = {"passed": passed, "failed": failed, "skipped": skipped, "error": errors}
    assert {word: n for word, n in wanted.items() if n} == counts, f"{shown.stdout}\n{shown.stderr}"
    return shown.stdout


def test_a_cluster_ends_with_its_test_and_takes_its_clock_faults_and_settings(tmp_path: Path) -> None:
    session(
        tmp_path,
        """
from bigm.testing import ManualClock

seen = []

def test_first(cluster):
    (machine,) = start(cluster)
    assert machine.call("C.add") == 1
    seen.append(machine)

def test_each_has_its_own(cluster):
    assert seen[0].state is bigm.State.STOPPED
    (machine,) = start(cluster)
    assert machine.call("C.add") == 1
    assert cluster.machines == [machine]

def test_a_lease(cluster, clock, faults):
    first, second = start(cluster, 2)
    faults.partition(first)
    clock.turn(60)
    assert first.cause == "lease"
    assert second.call("C.add") == 1
    clock.turn(600)
    assert second.call("C.add") == 2

def test_two_clusters(start_cluster):
    clock = ManualClock()
    turned = start_cluster(clock=clock, timeouts={"lifetime": 100.0}, name="turned")
    real = start_cluster()
    (machine,), (other,) = start(turned), start(real)
    clock.turn(101.0)
    with pytest.raises(bigm.MachineStopped):
        machine.wait(bigm.State.STOPPED)
    assert machine.cause == "lifetime"
    assert other.call("C.add") == 1

def test_nothing_is_left():
    assert [t.name for t in threading.enumerate() if t.name.startswith(("bigm-relay", "bigm-inprocess"))] == []
""",
        passed=5,
    )


FAILING = """
def test_fails(cluster, faults):
    machines = start(cluster, 3)
    faults.kill()
    faults.drop("m1")
    faults.kill()
    assert False, "as it happens"

def test_has_nothing_to_do_with_bigm():
    assert False
"""


def told(shown: str) -> str:
    """What a failure says of bigm, of all of them together."""
    return "\n".join(re.findall(r"-+ bigm -+\n(.*?)(?=\n[-_=]{4})", shown, re.DOTALL))


def test_a_failure_tells_the_seed_and_the_history_which_the_seed_repeats(tmp_path: Path) -> None:
    first = session(tmp_path, FAILING, failed=2)
    (seed,) = set(re.findall(r"--bigm-seed (\d+)", first))
    assert f"bigm: system inprocess, seed {seed}" in first, "in the header too"
    lines = told(first).splitlines()
    assert lines[1] == "what was done to its machines:"
    assert re.fullmatch(r"  kill m[012]", lines[2])
    assert lines[3] == "  drop m1 and everyone"
    assert told(first).count("to repeat it") == 1, "not with a test that has no machines"
    again = session(tmp_path, FAILING, "--bigm-seed", seed, failed=2)
    assert told(again) == told(first)


def test_seeds_differ_from_session_to_session_and_from_test_to_test(tmp_path: Path) -> None:
    tests = """
def test_one(faults):
    print("SEED", faults.seed)

def test_two(faults):
    print("SEED", faults.seed)
"""
    seeds = [re.findall("SEED (.*)", session(tmp_path, tests, "-s", passed=2)) for _ in range(2)]
    assert len({*seeds[0], *seeds[1]}) == 4


def test_the_same_tests_run_on_local_and_what_cannot_is_skipped_with_its_reason(tmp_path: Path) -> None:
    shown = session(
        tmp_path,
        """
import os

class Where(Counter):
    def pid(self):
        return os.getpid()

def test_processes(cluster):
    (machine,) = cluster.start(1, services={"W": Where()})
    assert machine.call("W.pid") != os.getpid()

def test_kill(cluster, faults):
    (machine,) = start(cluster)
    assert faults.kill() == machine.id
    with pytest.raises(bigm.MachineStopped, match="killed by signal 9"):
        machine.wait(bigm.State.STOPPED)

def test_partition(cluster, faults):
    start(cluster)
    faults.partition("m0")

def test_clock(cluster, clock):
    pass
""",
        "--bigm-system=local",
        passed=2,
        skipped=2,
    )
    assert "partition needs machines in process: --bigm-system is local" in shown
    assert "a clock that is turned needs machines in process" in shown


def test_a_system_that_there_is_not_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("def test_it(): pass\n")
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "--bigm-system", "lokal"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--bigm-system: there is no system called 'lokal'; known systems: ec2, inprocess, local, ssh" in shown.stderr


def test_runs_of_tests_are_not_kept_among_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("BIGM_HOME", str(home))
    session(tmp_path, "def test_it(cluster): start(cluster)\n", passed=1)
    assert not home.exists()


def test_the_plugin_imports_nothing_of_the_drivers_before_a_fixture_is_used() -> None:
    code = """
import sys, bigm.testing.plugin
heavy = ["cryptography", "yaml", "bigm.cluster", "bigm.rpc.client", "bigm.systems.inprocess", "ssl"]
print([name for name in heavy if name in sys.modules])
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout == "[]\n"
