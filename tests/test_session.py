"""How drivers end. Each is a process of its own; what counts is which processes are left, and the exit code."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigm.config import load
from bigm.errors import BootError, ConfigError, MachineStopped, NoSuchMethod, NotPicklable, ServiceError
from bigm.runs import list_runs
from bigm.session import exit_status, is_plain
from waiting import eventually

PROGRAM = Path(__file__).with_name("driver_program.py")


class Driver:
    """A driver program with its machines running."""

    def __init__(self, *args: str) -> None:
        self.mark = f"DRIVER_MARK={secrets.token_hex(8)}"
        name, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *args],
            env={**os.environ, name: value, "PYTHONPATH": str(PROGRAM.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.pids = [int(pid) for pid in self.process.stdout.readline().split()]
        if len(self.pids) != 2:
            self.process.kill()
            pytest.fail(f"the driver did not start: {self.process.communicate()}")

    def left(self) -> list[int]:
        """Processes, other than the driver, that it started, however indirectly."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (entry / "environ").read_bytes() and int(entry.name) != self.process.pid:
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def children(self) -> int:
        """How many processes are the driver's own children."""
        return len(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split())

    def ends(self, within: float = 20.0) -> tuple[int, str, str]:
        """Exit code and output, once it has ended by itself with nothing left."""
        out, err = self.process.communicate(timeout=within)
        eventually(lambda: not self.left(), 5.0, lambda: f"left behind: {self.left()}\n{err}")
        return self.process.returncode, out, err


@pytest.fixture
def drive() -> Iterator[object]:
    drivers: list[Driver] = []

    def make(*args: str) -> Driver:
        drivers.append(Driver(*args))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.process.kill()
        driver.process.communicate()
        with contextlib.suppress(AssertionError):  # machines that end by themselves leave no file behind
            eventually(lambda driver=driver: not driver.left(), 5.0)
        for pid in driver.left():
            os.kill(pid, signal.SIGKILL)


slow = pytest.mark.slow  # the same once more, from another side


@pytest.mark.parametrize(
    ("how", "number", "code"),
    [
        ("call", signal.SIGINT, 130),
        ("sleep", signal.SIGTERM, 143),
        ("await-call", signal.SIGINT, 130),
        ("await", signal.SIGTERM, 143),
        pytest.param("sleep", signal.SIGINT, 130, marks=slow),
        pytest.param("call", signal.SIGTERM, 143, marks=slow),
        pytest.param("sleep", signal.SIGHUP, 129, marks=slow),
    ],
)
def test_a_signal_ends_the_machines_and_gives_its_exit_code(drive, how: str, number: int, code: int) -> None:
    driver = drive(how)
    assert len(driver.left()) >= 4
    driver.process.send_signal(number)
    status, _, err = driver.ends()
    assert (status, "Traceback" in err) == (code, False), err


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("sleep", signal.SIGINT),
        ("await", signal.SIGINT),
        ("await", signal.SIGTERM),
        pytest.param("sleep", signal.SIGTERM, marks=slow),
    ],
)
def test_a_second_signal_ends_the_machines_at_once(drive, how: str, number: int) -> None:
    driver = drive(how, "60", "slowly")
    driver.process.send_signal(number)
    assert_says(driver, "once more ends them at once")
    started = time.monotonic()
    driver.process.send_signal(number)
    status, _, err = driver.ends()
    assert time.monotonic() - started < 8.0
    assert (status, "Traceback" in err) == (128 + number, False), err


def test_a_second_ctrl_c_just_before_the_loop_waits_is_noticed_all_the_same(drive) -> None:
    driver = drive("await-aside", "60", "slowly")
    driver.process.send_signal(signal.SIGINT)
    assert_says(driver, "once more ends them at once")
    started = time.monotonic()
    status, _, err = driver.ends()
    assert time.monotonic() - started < 8.0
    assert (status, "Traceback" in err) == (130, False), err


def assert_says(driver: Driver, word: str) -> None:
    assert driver.process.stderr is not None
    for line in driver.process.stderr:
        if word in line:
            return
    pytest.fail(f"it never said {word!r}")


@pytest.mark.parametrize("how", ["call", pytest.param("sleep", marks=slow), pytest.param("gil", marks=slow)])
def test_nothing_survives_a_driver_that_is_killed(drive, how: str) -> None:
    driver = drive(how)
    driver.process.kill()
    started = time.monotonic()
    driver.ends()
    assert time.monotonic() - started < 5.0


def test_a_forked_child_of_the_driver_does_not_hide_its_death(drive) -> None:
    driver = drive("forked")
    eventually(lambda: driver.children() == 3)
    driver.process.kill()
    eventually(lambda: len(driver.left()) == 1, 4.0, lambda: f"left behind: {driver.left()}")
    os.kill(driver.left()[0], signal.SIGKILL)  # the child itself
    driver.ends()


def test_nothing_survives_one_lease_where_the_drivers_death_is_not_noticed(drive) -> None:
    driver = drive("orphaned", "2")
    driver.process.kill()
    driver.process.wait()
    assert driver.left(), "they noticed, and were not to"
    eventually(lambda: not driver.left(), 10.0, lambda: f"left behind: {driver.left()}")


def test_a_driver_that_reaches_its_end_with_a_cluster_open_ends_it_after_its_own_threads(drive) -> None:
    status, out, err = drive("atexit").ends()
    assert (status, out, "Traceback" in err) == (0, "0.5\n", False), err


@pytest.mark.parametrize(
    ("how", "code", "words", "traceback"),
    [
        ("lost", 78, r"stopped: .*SIGKILL|stopped: .*signal 9", False),
        pytest.param("config", 2, r"1 machine or more, not 0", False, marks=slow),
        ("raise", 1, r"LookupError: the user's own", True),
        pytest.param("exit", 7, "", False, marks=slow),
    ],
)
def test_what_ends_a_program_decides_its_exit_code(drive, how: str, code: int, words: str, traceback: bool) -> None:
    status, _, err = drive(how).ends()
    assert status == code, err
    assert len(re.findall(words, err)) == 1 or not words
    assert ("Traceback" in err) == traceback


def test_the_status_of_a_program_that_exits_after_its_clusters_is_kept(drive) -> None:
    assert drive("after").ends()[0] == 7
    runs = [run for run in list_runs(load().runs_folder) if run.argv[:1] == ("after",)]
    assert [run.status for run in runs] == [7]


def test_forked_children_of_the_driver_leave_its_cluster_alone(drive) -> None:
    status, out, err = drive("fork").ends()
    assert out.splitlines() == ["call 0", "leave 0", "exit 0", f"signal {signal.SIGTERM:d}", "parent RUNNING ({},)"], (
        err
    )
    assert status == 0


def test_errors_of_bigms_own_are_told_plainly_and_the_users_are_not() -> None:
    assert [exit_status(error) for error in (ConfigError(), MachineStopped(), BootError(), LookupError())] == [
        2,
        78,
        75,
        1,
    ]
    assert [1, 1] == [exit_status(error) for error in (NoSuchMethod(), NotPicklable())]
    assert [exit_status(error) for error in (KeyboardInterrupt(), SystemExit(3), SystemExit("x"), SystemExit())] == [
        130,
        3,
        1,
        0,
    ]
    assert is_plain(MachineStopped())
    assert not is_plain(ServiceError("x.Y"))
    assert not is_plain(NoSuchMethod("x.Y"))
    assert not is_plain(LookupError())
