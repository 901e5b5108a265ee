"""The agent's loop: descriptors, timers, and what other threads ask of it."""

from __future__ import annotations

import os
import threading
import time

import pytest

from bigm.bootstrap.loop import Loop
from bigm.errors import BigmError


@pytest.fixture
def loop():
    loop = Loop()
    thread = threading.Thread(target=loop.run, name="loop")
    thread.start()
    yield loop
    loop.stop()
    thread.join(5.0)
    loop.close()


def test_what_another_thread_asks_runs_on_the_loops_thread_and_its_result_or_error_comes_back(loop):
    assert loop.do(lambda: threading.current_thread().name, 5.0) == "loop"
    with pytest.raises(ZeroDivisionError):
        loop.do(lambda: 1 // 0, 5.0)
    assert loop.do(lambda: loop.do(lambda: 42, 5.0), 5.0) == 42


def test_timers_fire_in_the_order_of_their_times(loop):
    fired: list[int] = []
    done = threading.Event()
    for number in (3, 1, 2):
        loop.soon(lambda number=number: loop.after(number * 0.02, lambda: fired.append(number)))
    loop.soon(lambda: loop.after(0.1, done.set))
    assert done.wait(5.0)
    assert fired == [1, 2, 3]


def test_a_descriptor_is_told_until_it_is_forgotten(loop):
    read, write = os.pipe()
    heard: list[bytes] = []
    got = threading.Event()

    def callback() -> None:
        heard.append(os.read(read, 10))
        got.set()

    loop.do(lambda: loop.watch(read, callback), 5.0)
    os.write(write, b"x")
    assert got.wait(5.0)
    loop.do(lambda: loop.unwatch(read), 5.0)
    os.write(write, b"y")
    loop.do(lambda: None, 5.0)
    assert heard == [b"x"]
    os.close(read)
    os.close(write)


def test_a_loop_that_is_busy_is_not_waited_for_longer_than_asked(loop):
    release = threading.Event()
    loop.soon(lambda: release.wait(5.0) and None)
    started = time.monotonic()
    with pytest.raises(BigmError, match=r"within 0\.05 s"):
        loop.do(lambda: None, 0.05)
    assert time.monotonic() - started < 1.0
    release.set()
