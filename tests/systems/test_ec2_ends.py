"""However a driver ends, and whatever is taken from it, no instance outlives one lease."""

from __future__ import annotations

import contextlib
import math
import random
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ec2rig.driving import Driver, run_bigm
from ec2rig.rig import Rig
from ec2rig.wire import Request
from waiting import eventually

LEASE = 8.0  # seconds, also the first
SLOWLY = 40.0  # seconds, for a computer with other things to do


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with Rig() as rig:
        rig.use(monkeypatch)
        yield rig


PHASES = ["open", "CreateSecurityGroup", "CreateLaunchTemplate", "CreateFleet", "booting", "running"]


def slow_but(*quick: str) -> list[Any]:
    """All phases, of which the default run needs only some."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in PHASES]


class Phase:
    """Where a driver is stopped: at a word of its own, in a request whose reply is held back, or while machines boot.

    Args:
        rig: where.
        name: one of `PHASES`.
    """

    def __init__(self, rig: Rig, name: str) -> None:
        self._name = name
        self._reached, self._gate = threading.Event(), threading.Event()
        if name == "booting":
            rig.boots = lambda number: 2.0
            rig.after("CreateFleet", lambda request: self._reached.set())
        elif name[0].isupper():
            rig.after(name, self._hold)

    def await_it(self, driver: Driver) -> None:
        """Wait until the driver is there."""
        if self._name in ("open", "running"):
            driver.reaches(self._name)
            return
        eventually(lambda: self._reached.is_set() or driver.process.poll() is not None, 60.0, driver.said)
        assert self._reached.is_set(), driver.said()

    def leave(self) -> None:
        """Let the reply go."""
        self._gate.set()

    def _hold(self, request: Request) -> None:
        self._reached.set()
        self._gate.wait(60.0)


@pytest.mark.parametrize("name", slow_but("running"))
def test_no_instance_outlives_a_driver_that_is_killed(rig: Rig, name: str) -> None:
    phase = Phase(rig, name)
    with Driver(rig, 2, LEASE) as driver:
        phase.await_it(driver)
        driver.kill()
        phase.leave()
        eventually(rig.is_empty, LEASE + SLOWLY, lambda: f"{driver.said()}\n{rig.describe()}")


@pytest.mark.parametrize("name", slow_but("CreateLaunchTemplate"))
def test_nothing_at_all_is_left_by_a_driver_that_is_interrupted(rig: Rig, name: str) -> None:
    phase = Phase(rig, name)
    with Driver(rig, 2, LEASE) as driver:
        phase.await_it(driver)
        driver.interrupt()
        phase.leave()
        assert driver.process.wait(60.0) in (130, -2), driver.said()
        eventually(rig.is_empty, SLOWLY, lambda: f"{driver.said()}\n{rig.describe()}")
        assert [] == list(rig.cloud.ec2.launch_templates), driver.said()
        assert [] == rig.cloud.let_in(), driver.said()


@pytest.mark.slow
def test_thirty_drivers_killed_at_random_leave_no_instance(rig: Rig) -> None:
    seed = random.randrange(1 << 30)
    moments = random.Random(seed)
    rig.boots = lambda number: moments.random()
    for _ in range(30):
        with Driver(rig, 2, LEASE) as driver:
            driver.reaches("open")
            with contextlib.suppress(subprocess.TimeoutExpired):  # any moment is a good one
                driver.process.wait(moments.uniform(0.0, 6.0))
            driver.kill()
    eventually(rig.is_empty, LEASE + SLOWLY, lambda: f"seed {seed}\n{rig.describe()}")


@pytest.mark.slow
def test_machines_end_though_the_credentials_have_expired(rig: Rig) -> None:
    with Driver(rig, 2, LEASE) as driver:
        driver.reaches("running")
        rig.fail("*", "ExpiredToken", times=1000)
        driver.interrupt()
        assert driver.process.wait(60.0) != 0
        assert "the credentials have expired" in driver.said()
        eventually(rig.is_empty, LEASE + SLOWLY, rig.describe)


def test_what_a_driver_made_that_was_killed_before_the_answer_is_found_by_gc(rig: Rig) -> None:
    phase = Phase(rig, "CreateFleet")
    rig.boots = lambda number: math.inf  # none that would end by itself
    with Driver(rig, 2, LEASE) as driver:
        phase.await_it(driver)
        driver.kill()
        phase.leave()
    assert 2 == len(rig.running())
    for words, left in (["--json"], 2), (["--yes"], 0):
        ran = run_bigm("gc", "--system", "ec2", *words)
        assert left == len(rig.running()), ran
    eventually(rig.is_empty, SLOWLY, rig.describe)
