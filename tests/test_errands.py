"""Errands for real machines, whose agents answer over the real protocol; they are threads of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import bigm
from bigm.clock import Clock
from bigm.errands import Errands, Pause, Steps, Until, Work, call
from bigm.errors import BigmError, MachineStopped, NoSuchMethod
from bigm.machine import Machine
from bigm.pool import Pool


class Outcome:
    """What an errand came to."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def __call__(self, value: Any, error: BigmError | None) -> None:
        self.value, self.error = value, error
        self._over.set()

    def wait(self) -> Any:
        assert self._over.wait(20.0), "the errand does not end"
        if self.error is not None:
            raise self.error
        return self.value


@pytest.fixture
def machine() -> Iterator[Machine]:
    with bigm.start("inprocess") as cluster:
        [machine] = cluster.start(1)
        machine.wait(timeout=20.0)
        yield machine


@pytest.fixture
def errands(machine: Machine) -> Iterator[Errands]:
    clock = Clock("test-clock")
    pool = Pool("test-pool", 2)
    errands = Errands("test-errands", clock, pool.submit)
    yield errands
    errands.close()
    clock.close()
    pool.close()


def test_steps_are_taken_in_their_order_and_their_end_is_told(machine: Machine, errands: Errands) -> None:
    def steps() -> Steps[list[Any]]:
        first = yield from call("Agent.ping", stall=10.0)
        yield Pause(0.01)
        second = yield from call("Agent.ping", stall=10.0)
        return [first, second]

    outcome = Outcome()
    errands.begin(machine, steps(), outcome)
    first, second = outcome.wait()
    assert 0 <= first < second


def test_an_errand_waits_for_what_another_one_brings_about(machine: Machine, errands: Errands) -> None:
    seen: list[str] = []

    def waits() -> Steps[None]:
        yield Until(lambda: seen)
        seen.append("second")

    def brings() -> Steps[None]:
        yield from call("Agent.ping", stall=10.0)
        seen.append("first")

    later, earlier = Outcome(), Outcome()
    errands.begin(machine, waits(), later)
    errands.begin(machine, brings(), earlier)
    later.wait()
    assert seen == ["first", "second"]


def test_what_the_agent_refuses_is_raised_in_the_steps(machine: Machine, errands: Errands) -> None:
    def steps() -> Steps[str]:
        try:
            yield from call("Agent.fly", stall=10.0)
        except NoSuchMethod:
            return "refused"
        return "it flies"

    outcome = Outcome()
    errands.begin(machine, steps(), outcome)
    assert outcome.wait() == "refused"


def test_a_bug_in_the_steps_ends_the_errand_and_no_other(machine: Machine, errands: Errands) -> None:
    def broken() -> Steps[None]:
        yield from call("Agent.ping", stall=10.0)
        raise LookupError("a bug")

    def sound() -> Steps[str]:
        yield from call("Agent.ping", stall=10.0)
        return "done"

    first, second = Outcome(), Outcome()
    errands.begin(machine, broken(), first)
    errands.begin(machine, sound(), second)
    with pytest.raises(BigmError, match="LookupError: a bug"):
        first.wait()
    assert second.wait() == "done"


def test_what_blocks_is_done_elsewhere_and_what_it_raises_is_raised_in_the_steps(
    machine: Machine, errands: Errands
) -> None:
    def fails() -> None:
        raise LookupError("not here")

    def steps() -> Steps[str]:
        name: str = yield Work(lambda: threading.current_thread().name)
        with pytest.raises(LookupError):
            yield Work(fails)
        return name

    outcome = Outcome()
    errands.begin(machine, steps(), outcome)
    assert outcome.wait().startswith("test-pool")


def test_who_waits_for_a_machine_that_stops_is_told(machine: Machine, errands: Errands) -> None:
    def steps() -> Steps[None]:
        yield Until(lambda: False)

    outcome = Outcome()
    errands.begin(machine, steps(), outcome)
    machine.shutdown()
    errands.note(time.monotonic)
    with pytest.raises(MachineStopped):
        outcome.wait()
