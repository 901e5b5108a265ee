from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from bigm.bootstrap.records import Lease as Granted
from bigm.clock import Clock
from bigm.errors import Unreachable
from bigm.leases import Lease, Leases
from bigm.timeouts import Timeouts
from waiting import eventually


class Agent:
    """Answers renewals as it is told to, in the caller's thread."""

    def __init__(self) -> None:
        self.answer: Granted | Exception = Granted(1.0)
        self.asked: list[float] = []

    def submit_internal(self, method: str, args: tuple[float], *, timeout: float, done: Callable[[Any], None]) -> None:
        self.asked.append(time.monotonic())
        done(self)

    def result(self) -> Granted:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def clock():
    clock = Clock("bigm-test-clock")
    yield clock
    clock.close()


def lease_of(agent: Agent, seconds: float, **hooks: Callable[..., None]) -> Lease:
    return Lease(agent, seconds, **{"lost": lambda: None, "unhealthy": lambda text: None, **hooks})  # type: ignore[arg-type]


def test_a_lease_is_renewed_several_times_before_it_ends(clock: Clock) -> None:
    agent = Agent()
    lease = lease_of(agent, 0.6)
    Leases(clock, Timeouts()).hold(lease)
    eventually(lambda: len(agent.asked) > 5)
    gaps = [after - before for before, after in zip(agent.asked, agent.asked[1:], strict=False)]
    assert min(gaps) > 0.04
    assert len(lease.times) >= 5


def test_a_lease_that_is_dropped_is_renewed_no_more(clock: Clock) -> None:
    agent = Agent()
    held = Leases(clock, Timeouts())
    lease = lease_of(agent, 0.1)
    held.hold(lease)
    held.drop(lease)
    count, passed = len(agent.asked), threading.Event()
    clock.after(0.2, passed.set)
    assert passed.wait(10.0)
    assert len(agent.asked) == count


def test_a_lease_is_lost_when_all_renewals_failed_for_its_length_and_only_then(clock: Clock) -> None:
    agent, lost = Agent(), []
    lease = lease_of(agent, 0.3, lost=lambda: lost.append(time.monotonic()))
    Leases(clock, Timeouts()).hold(lease)
    agent.answer = Unreachable("gone")
    eventually(lambda: lost)
    assert lost[0] - lease.renewed > 0.3
    count, passed = len(agent.asked), threading.Event()
    clock.after(0.2, passed.set)
    assert passed.wait(10.0)
    assert (len(lost), len(agent.asked)) == (1, count)


def test_an_answer_that_comes_late_does_not_undo_a_later_one(clock: Clock) -> None:
    agent = Agent()
    lease = lease_of(agent, 1.0)
    now = time.monotonic() + 10.0
    lease.answered(now, agent)  # type: ignore[arg-type]
    lease.answered(now - 5.0, agent)  # type: ignore[arg-type]
    assert lease.renewed == now


def test_a_driver_that_comes_late_has_not_lost_a_lease_that_still_answers(clock: Clock) -> None:
    agent, lost = Agent(), threading.Event()
    lease = lease_of(agent, 0.2, lost=lost.set)
    held = Leases(clock, Timeouts())
    held.hold(lease)
    lease.renewed -= 100.0  # the driver held its GIL, the keeper renewed
    eventually(lambda: time.monotonic() - lease.renewed < 1.0)
    assert not lost.is_set()


def test_short_memory_is_said_once_each_time_it_begins(clock: Clock) -> None:
    agent, said = Agent(), []
    lease = lease_of(agent, 1.0, unhealthy=said.append)
    for healthy in (False, False, True, False):
        agent.answer = Granted(1.0, healthy, "" if healthy else "memory is short")
        lease.answered(time.monotonic(), agent)  # type: ignore[arg-type]
    assert said == ["memory is short"] * 2
