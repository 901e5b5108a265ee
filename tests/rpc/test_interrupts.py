"""Ctrl-C at any moment leaves connections usable; so does a fork."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from places import Place

import bigm
from bigm.rpc import interrupts
from bigm.rpc.client import Client
from bigm.rpc.current import current_call
from waiting import eventually

Make = Callable[..., Place]


class Service:
    def __init__(self) -> None:
        self.held = self.cancelled = 0

    def echo(self, value: Any) -> Any:
        return value

    def hold(self) -> None:
        self.held += 1
        if current_call().wait_cancelled(60.0):
            self.cancelled += 1

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # the method is the work itself


def interrupt(times: int, client: Client) -> tuple[int, int]:
    """Call from the main thread, Ctrl-C coming at random moments: how many came through, how many calls succeeded.

    Python throws an exception away that a finalizer or callback raises; where nothing comes through, press again.
    """
    stop = threading.Event()
    main = threading.main_thread().ident
    assert main is not None
    ready = threading.Semaphore(0)

    def press() -> None:
        rng = random.Random(7)
        for _ in range(times):
            while not ready.acquire(timeout=5) and not stop.is_set():
                signal.pthread_kill(main, signal.SIGINT)
            if stop.wait(rng.random() * 0.0015):
                return
            signal.pthread_kill(main, signal.SIGINT)
        while not stop.wait(5):
            signal.pthread_kill(main, signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    caught = succeeded = 0
    sizes = [0, 100, 100, 300_000]
    while caught < times:
        try:
            ready.release()
            while True:
                value = bytes(sizes[succeeded % len(sizes)])
                assert value == client.call("S.echo", (value,), timeout=20)
                succeeded += 1
        except KeyboardInterrupt:
            caught += 1
    stop.set()
    presser.join(10)
    return caught, succeeded


def test_a_hundred_interrupts_at_random_moments_break_no_connection(place: Make) -> None:
    here = place(S=Service())
    client = here.client()
    client.call("S.echo", (bytes(300_000),))
    interrupt(100, client)
    assert 5 == client.call("S.echo", (5,), timeout=10)
    eventually(lambda: len(here.server._peers) == here.dialled, message="none was lost")
    assert 0 == client.in_flight


@pytest.mark.slow
def test_a_thousand_interrupts_at_random_moments_break_no_connection(place: Make) -> None:
    here = place(S=Service())
    client = here.client()
    client.call("S.echo", (bytes(300_000),))
    interrupt(1000, client)
    assert 5 == client.call("S.echo", (5,), timeout=10)
    eventually(lambda: len(here.server._peers) == here.dialled, message="none was lost")
    assert 0 == client.in_flight


def test_interrupts_break_no_connection_where_the_handler_is_not_ours(place: Make) -> None:
    """The main thread then leaves reading and writing to the I/O thread."""
    here = place(S=Service())
    client = here.client()
    client.call("S.echo", (bytes(300_000),))
    interrupts.uninstall()
    assert not interrupts.owned()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt(50, client)
    interrupts.install()
    assert 5 == client.call("S.echo", (5,), timeout=10)
    eventually(lambda: len(here.server._peers) == here.dialled, message="none was lost")


def test_ctrl_c_ends_a_wait_at_once(place: Make) -> None:
    client = place(S=Service()).client()
    client.call("S.echo", (1,))
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    begin = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        client.call("S.sleep", (1.5,))
    assert time.monotonic() - begin < 1.0
    assert 1 == client.call("S.echo", (1,))


class Late(float):
    """A timeout during whose reckoning, in the midst of `submit`, Ctrl-C comes."""

    def __radd__(self, now: float) -> float:
        signal.raise_signal(signal.SIGINT)
        return now + float(self)


def test_an_interrupted_submit_leaves_no_call_that_nobody_has(place: Make) -> None:
    client = place(S=Service()).client()
    client.call("S.echo", (1,))
    with pytest.raises(KeyboardInterrupt):
        client.submit("S.sleep", (1.5,), timeout=Late(60.0))
    assert 0 == client.in_flight


BIGM = os.path.dirname(bigm.__file__) + os.sep


class Presses:
    """Presses Ctrl-C when a future's `result` begins to wait, and a second time *after* so many lines."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.pressed = 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Presses:
        if self.pressed == 0 and frame.f_code.co_name == "wait_done":
            self.pressed = 1
            signal.raise_signal(signal.SIGINT)
        elif self.pressed == 1 and event == "exception" and arg[0] is KeyboardInterrupt:
            self.pressed = 2
        elif self.pressed == 2 and event == "line" and frame.f_code.co_filename.startswith(BIGM):
            self.left -= 1
            if self.left == 0:
                self.pressed = 3
                signal.raise_signal(signal.SIGINT)
        return self


def interrupt_twice(client: Client, service: Service, after: int) -> bool:
    """Interrupt the waiting for a call, and once more so many lines later; whether there were as many."""
    service.held = service.cancelled = 0
    future = client.submit("S.hold")
    eventually(lambda: service.held == 1)
    presses = Presses(after)
    sys.settrace(presses)
    try:
        with pytest.raises(KeyboardInterrupt):
            future.result(20)
    finally:
        sys.settrace(None)
    assert (True, 0) == (future.cancelled(), client.in_flight), f"a second Ctrl-C {after} lines later"
    eventually(lambda: service.cancelled == 1, message=f"a second Ctrl-C {after} lines later")
    return presses.pressed == 3


def test_a_second_ctrl_c_never_keeps_the_first_from_cancelling_what_was_waited_for(place: Make) -> None:
    service = Service()
    client = place(S=service).client()
    lines = next(after for after in itertools.count(1) if not interrupt_twice(client, service, after))
    assert lines > 20, "so often it was pressed, each time a line later"


def test_ctrl_c_in_a_callback_of_a_cancelled_future_comes_after_the_machine_was_told(place: Make) -> None:
    service = Service()
    client = place(S=service).client()
    future = client.submit("S.hold")
    eventually(lambda: service.held == 1)
    future.add_done_callback(lambda future: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        future.cancel()
    eventually(lambda: service.cancelled == 1)


# ruff: noqa: PT012  # the sections are what raises


def test_a_signal_in_a_deferred_section_is_handled_at_its_end() -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        with interrupts.deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("went on")
    assert ["went on"] == steps


def test_a_signal_in_a_waiting_window_is_handled_at_once_and_the_section_cleans_up_undisturbed() -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        with interrupts.deferred():
            try:
                with interrupts.waiting():
                    signal.raise_signal(signal.SIGINT)
                    steps.append("not reached")
            finally:
                signal.raise_signal(signal.SIGINT)
                steps.append("cleaned up")
    assert ["cleaned up"] == steps


def test_another_signals_handler_is_deferred_too() -> None:
    class Stop(Exception):
        pass

    def stop(signum: int, frame: Any) -> None:
        raise Stop

    interrupts.install(signal.SIGUSR1, stop)
    try:
        with pytest.raises(Stop):
            with interrupts.deferred():
                signal.raise_signal(signal.SIGUSR1)
                done = True
        assert done
    finally:
        interrupts.uninstall(signal.SIGUSR1)


def test_in_other_threads_nothing_is_deferred() -> None:
    seen: list[bool] = []

    def run() -> None:
        with interrupts.deferred():
            seen.append(interrupts._state.deferred)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(5)
    assert [False] == seen


# Forks.

FORK = """
import os, socket, signal
from bigm.rpc.client import Client
from bigm.rpc.server import Server
credentials, expected, address = given
client = Client(lambda timeout: socket.create_connection(address, timeout), credentials, expected, name="m0")
assert client.call("S.echo", (1,), timeout=20) == 1
future = client.submit("S.sleep", (0.5,))
big = client.call("S.echo", (bytes(1 << 20),), timeout=20)
fds = set(os.listdir("/proc/self/fd"))
child = os.fork()
if child == 0:
    sockets = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
               if os.path.exists(f"/proc/self/fd/{fd}")]
    kept = [each for each in sockets if each.startswith("socket:")]
    ok = not kept and client.call("S.echo", (2,), timeout=20) == 2
    ok = ok and client.submit("S.echo", (3,)).result(20) == 3
    os._exit(0 if ok else 1)
_, status = os.waitpid(child, 0)
assert status == 0, f"the child failed with {status}"
assert client.call("S.echo", (4,), timeout=20) == 4
assert future.result(20) is None
client.close()
print("fine")
"""


def test_a_forked_child_leaves_its_parents_connections_alone_and_may_call(
    place: Make, program: Callable[..., subprocess.Popen[str]]
) -> None:
    here = place(S=Service())
    client = here.client()
    process = program(FORK, here.certificates.driver(), client._expected, here.address)
    out, err = process.communicate(timeout=30)
    assert "fine\n" == out, err
    assert 3 == len(here.accepted), "two of the parent, one of the child, none lost"


FORKED_SERVER = """
import os, socket, threading, time
from bigm.rpc.client import Client
from bigm.rpc.server import Server
server_credentials, credentials, expected = given
class Service:
    def fork(self):
        child = os.fork()
        if child == 0:
            kept = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                    if os.path.exists(f"/proc/self/fd/{fd}")]
            os._exit(len([each for each in kept if each.startswith("socket:")]))
        return os.waitpid(child, 0)[1] >> 8
    def come_back(self):
        child = os.fork()
        if child == 0:
            return "twice"
        return os.waitpid(child, 0)[1]
server = Server(server_credentials, name="m0")
server.register("S", Service())
listener = socket.create_server(("127.0.0.1", 0))
def accept():
    while True:
        server.adopt(listener.accept()[0])
threading.Thread(target=accept, daemon=True).start()
address = listener.getsockname()
client = Client(lambda timeout: socket.create_connection(address, timeout), credentials, expected, name="m0")
print(client.call("S.fork", timeout=20), client.call("S.come_back", timeout=20), client.call("S.fork", timeout=20))
"""


def test_a_child_forked_by_a_method_keeps_no_connection_and_answers_nothing(
    place: Make, program: Callable[..., subprocess.Popen[str]]
) -> None:
    here = place(S=Service())
    process = program(FORKED_SERVER, here.certificates.machine(), here.certificates.driver(), here.client()._expected)
    out, err = process.communicate(timeout=30)
    assert ("1 0 1\n", "") == (out, err)  # the listening socket is the program's own


if sys.platform != "linux":
    pytestmark = pytest.mark.skip(reason="reads /proc")


def waits(timeout: float | None, enough: int = 1000) -> list[float | None]:
    """For how long `in_slices` waits each time, when what it waits for is there after *enough* times."""
    asked: list[float | None] = []

    def wait(seconds: float | None) -> bool:
        asked.append(seconds)
        time.sleep(min(seconds or 0.0, 0.01))  # stands for the wait itself
        return len(asked) == enough

    interrupts.in_slices(wait, timeout)
    return asked


def test_the_main_thread_waits_in_slices_so_that_it_notices_every_signal() -> None:
    assert [interrupts.WAKE] * 3 == waits(None, enough=3)
    asked = waits(0.05)
    assert 0.0 <= min(asked) <= max(asked) <= 0.05  # type: ignore[type-var]  # none is None
    assert [0.0] == waits(0.0)


def test_other_threads_which_handle_no_signals_wait_at_once() -> None:
    found: list[list[float | None]] = []
    thread = threading.Thread(target=lambda: found.extend([waits(None, enough=1), waits(7.0, enough=1)]), name="waits")
    thread.start()
    thread.join(20)
    assert [[None], [7.0]] == found
