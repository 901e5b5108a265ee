from __future__ import annotations

import threading

import pytest

import bigm.clock
from bigm.clock import Clock
from waiting import eventually


@pytest.fixture
def clock():
    clock = Clock("bigm-test-clock")
    yield clock
    clock.close()


def test_a_clock_calls_in_the_order_of_time_and_not_after_close(clock: Clock) -> None:
    called: list[str] = []
    done = threading.Event()
    clock.after(60.0, lambda: called.append("late"))
    clock.after(0.02, lambda: called.append("second"))
    clock.after(0.0, lambda: called.append("first"))
    clock.after(0.05, done.set)
    assert done.wait(10.0)
    clock.close()
    assert called == ["first", "second"]


def test_a_function_that_raises_does_not_stop_the_clock(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    clock.after(0.0, lambda: int("x"))
    clock.after(0.01, done.set)
    assert done.wait(10.0)
    assert "invalid literal" in caplog.text


def test_a_sleep_of_this_computer_is_told_from_a_lost_network(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = 0.0
    monkeypatch.setattr(bigm.clock, "_boottime_gap", lambda: slept)
    clock = Clock("bigm-test-clock")
    try:
        passed = threading.Event()
        clock.after(0.0, passed.set)
        assert passed.wait(10.0)
        assert clock.slept(60.0) == 0.0
        slept = 360.0
        clock.after(0.0, lambda: None)
        eventually(lambda: clock.slept(60.0) == 360.0)
    finally:
        clock.close()
