"""The keeper, with real agents that believe they are elsewhere: only a lease ends them."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bigm.bootstrap.keep import Renewal
from bigm.bootstrap.piped import PREFIX
from bigm.keeper import Keeper
from bigm.timeouts import Timeouts
from proxies import proxy_command
from waiting import eventually

sys.path.append(str(Path(__file__).parent / "bootstrap"))
from machines import Machine, Place, alive, all_gone

LEASE = 1.5  # seconds


@pytest.fixture
def place():
    with Place() as place:
        yield place


def elsewhere(place: Place, name: str = "m0") -> Machine:
    """A machine that nothing ends but its lease, which is LEASE long as soon as the keeper has renewed it."""
    machine = place.machine(name, parent_pipe=False, local=False, enrol=False, drain=0.5)
    machine.enrol()
    return machine


@pytest.mark.slow
def test_a_keeper_renews_every_lease_and_says_so(place):
    heard: queue.Queue[Renewal] = queue.Queue()
    machines = [elsewhere(place, f"m{number}") for number in range(2)]
    keeper = Keeper(place.authority.keeper(), Timeouts(), heard.put)
    try:
        for machine in machines:
            keeper.add(machine.name, f"127.0.0.1:{machine.port}", LEASE)
        renewals = [heard.get(timeout=10.0) for _ in range(36)]  # at LEASE / 12 each: more than a lease
        assert {renewal.machine for renewal in renewals} == {"m0", "m1"}
        assert {renewal.granted for renewal in renewals} == {LEASE}
        assert max(renewal.took for renewal in renewals) < LEASE
    finally:
        keeper.close()
    all_gone(*(machine.pid for machine in machines))


def test_a_machine_that_is_removed_is_not_released_when_the_keeper_ends(place):
    heard: queue.Queue[Renewal] = queue.Queue()
    machine = elsewhere(place)
    keeper = Keeper(place.authority.keeper(), Timeouts(), heard.put)
    keeper.add(machine.name, f"127.0.0.1:{machine.port}", 60.0)
    assert heard.get(timeout=10.0).granted == 60.0
    keeper.remove(machine.name)
    keeper.close()
    machine.client.call("Agent.ping")
    machine.client.call("Agent.release")
    machine.ended()


def test_a_keeper_that_is_killed_is_started_again_and_goes_on(place):
    heard: queue.Queue[Renewal] = queue.Queue()
    machine = elsewhere(place)
    keeper = Keeper(place.authority.keeper(), Timeouts(), heard.put)
    try:
        keeper.add(machine.name, f"127.0.0.1:{machine.port}", 5.0)
        assert heard.get(timeout=10.0).granted == 5.0
        first = keeper.pid
        os.kill(first, signal.SIGKILL)
        eventually(lambda: keeper.pid != first)
        while not heard.empty():
            heard.get()
        assert heard.get(timeout=10.0).granted == 5.0
    finally:
        keeper.close()
    machine.ended()


def test_a_machine_behind_a_command_is_renewed_and_released_through_it(place):
    """By a process of the keeper's own: the driver's death does not close this way."""
    heard: queue.Queue[Renewal] = queue.Queue()
    machine = elsewhere(place)
    keeper = Keeper(place.authority.keeper(), Timeouts(), heard.put)
    keeper.add(machine.name, PREFIX + proxy_command("127.0.0.1", machine.port), 60.0)
    assert heard.get(timeout=10.0).granted == 60.0
    keeper.close()
    machine.ended()


def test_what_a_proxy_command_says_is_told(place):
    heard: queue.Queue[Renewal] = queue.Queue()
    keeper = Keeper(place.authority.keeper(), Timeouts(), heard.put)
    try:
        keeper.add("m0", f"{PREFIX}sh -c 'echo No route to host >&2; exit 255'", LEASE)
        eventually(lambda: "ended with code 255: No route to host" in heard.get(timeout=10.0).text)
    finally:
        keeper.close()


def test_a_machine_that_cannot_be_reached_is_told_and_tried_again(place):
    heard: queue.Queue[Renewal] = queue.Queue()
    keeper = Keeper(place.authority.keeper(), Timeouts(), heard.put)
    try:
        keeper.add("m9", "127.0.0.1:1", 60.0)
        first, second = heard.get(timeout=10.0), heard.get(timeout=10.0)
        assert first.granted == second.granted == 0.0
        assert "refused" in second.text
    finally:
        keeper.close()


DRIVER = """
import os, re, signal, sys, threading, time
sys.path[:0] = {paths!r}
from machines import Place
from test_keeper import LEASE, elsewhere
from bigm.keeper import Keeper
from bigm.timeouts import Timeouts
place = Place()
machines = [elsewhere(place, name) for name in ("m0", "m1")]
renewed = threading.Semaphore(0)
keeper = Keeper(place.authority.keeper(), Timeouts(), lambda renewal: renewed.release())
for machine in machines:
    keeper.add(machine.name, "127.0.0.1:%d" % machine.port, LEASE)
for _ in range(8):
    assert renewed.acquire(timeout=10)
print(keeper.pid, *(machine.pid for machine in machines), flush=True)
{then}
"""

HOLD_THE_GIL = """
size = 22
while True:  # a regular expression that backtracks for more than two leases without letting anybody else run
    started = time.monotonic()
    re.match(r"(a|a)*$", "a" * size + "b")
    took = time.monotonic() - started
    if took > 2 * LEASE:
        break
    size += 3 if took < LEASE / 5 else 2 if took < LEASE / 2 else 1
for machine in machines:
    machine.client.call("Agent.ping", timeout=5.0)
print("kept", took, flush=True)
if os.fork() == 0:
    time.sleep(60)  # a child of the driver's, which is not the driver
time.sleep(60)
"""


def driver(then: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A driver in a process of its own; returns it and the ids of its keeper and its agents."""
    here = Path(__file__).parent
    code = DRIVER.format(paths=[str(here), str(here / "bootstrap")], then=then)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    return process, [int(word) for word in process.stdout.readline().split()]


def end(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.slow
def test_a_driver_that_holds_its_gil_for_two_leases_keeps_its_machines_and_killed_it_releases_them_at_once():
    process, pids = driver(HOLD_THE_GIL)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("kept")
        started = time.monotonic()
        os.kill(process.pid, signal.SIGKILL)  # but not its forked child
        all_gone(*pids, timeout=10.0)
        assert time.monotonic() - started < LEASE, "the keeper released them, the lease did not end them"
    finally:
        end(process)


@pytest.mark.slow
def test_a_driver_and_a_keeper_that_are_killed_together_cost_one_lease():
    process, (keeper, *agents) = driver("time.sleep(60)")
    try:
        os.kill(keeper, signal.SIGKILL)
        os.kill(process.pid, signal.SIGKILL)
        started = time.monotonic()
        assert all(alive(pid) for pid in agents)
        all_gone(*agents, timeout=10.0)
        assert time.monotonic() - started < 2 * LEASE
    finally:
        end(process)
