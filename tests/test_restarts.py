"""Workers that die and are started anew, with their services set up again."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bigm
from bigm import Cause, State
from bigm.bootstrap.records import EXITED, SERVING, STARTING, WorkerStatus
from bigm.restarts import EARLY_DEATHS, Restarts
from bigm.runs import read_events
from cluster_services import Mortal
from waiting import eventually


class Phoenix(Mortal):
    """Counts its lives in a folder, and can be held in its next setup."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.set_up = 0
        self.holding = 0

    def setup(self, cluster: Any) -> None:
        self.cluster = cluster
        with open(self.folder / f"{cluster.machine}.{cluster.proc}", "a") as lives:
            lives.write("x")
        deadline = time.monotonic() + 60.0
        holds = [self.folder / "hold", self.folder / f"hold.{cluster.proc}"]
        while any(hold.exists() for hold in holds) and time.monotonic() < deadline:
            time.sleep(0.01)  # the test, in another process, removes a file
        if (self.folder / "fail").exists():
            raise RuntimeError("no second life")
        if (self.folder / "die").exists():
            os._exit(9)
        self.set_up += 1

    def was_set_up(self) -> tuple[int, str]:
        return self.set_up, self.cluster.machine

    def hold(self) -> None:
        self.holding += 1
        bigm.current_call().wait_cancelled(120.0)
        self.holding -= 1

    def held(self) -> int:
        return self.holding

    def ask(self, machine: Any, proc: int) -> str:
        """What a call that is lost with its worker looks like from another machine."""
        try:
            machine.options(proc=proc).call("P.hold")
        except bigm.BigmError as error:
            return type(error).__name__
        return "nothing"

    def retry(self, machine: Any, proc: int) -> int:
        return machine.options(proc=proc, timeout=60.0).retry_call("P.pid")  # type: ignore[no-any-return]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[bigm.Cluster]:
    with bigm.start("local", name="phoenix", timeouts={"renewal": 0.5}) as cluster:
        yield cluster


Start = Callable[..., bigm.Machine]


@pytest.fixture
def start(cluster: bigm.Cluster, folder: Path) -> Start:
    def start(procs: int = 2) -> bigm.Machine:
        services = {"P": Phoenix(str(folder))}
        [machine] = cluster.start(1, services=services, procs=procs, on_worker_death="restart")
        machine.wait(timeout=60.0)
        return machine

    return start


def pids(machine: bigm.Machine) -> list[int]:
    return machine.broadcast("P.pid")


def test_a_worker_that_dies_is_back_with_its_services_set_up_and_the_other_lives_on(start: Start) -> None:
    machine = start()
    before = pids(machine)
    doomed = machine.options(proc=0).submit("P.hold")
    spared = machine.options(proc=1).submit("P.hold")
    eventually(lambda: machine.broadcast("P.held") == [1, 1])
    os.kill(before[0], signal.SIGKILL)
    with pytest.raises(
        bigm.WorkerDied, match=r"worker 0 .* was killed by signal 9 .*it is being started anew"
    ) as caught:
        doomed.result(20.0)
    assert caught.value.cause == Cause.SIGNAL
    assert machine.state is State.RUNNING
    assert machine.options(proc=0).call("P.was_set_up") == (1, machine.id)
    after = pids(machine)
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert not spared.done()
    spared.cancel()


def test_calls_go_to_the_others_meanwhile_and_those_that_cannot_wait(start: Start, folder: Path) -> None:
    machine = start()
    before = pids(machine)
    (folder / "hold").touch()
    with pytest.raises(bigm.WorkerDied):
        machine.options(proc=0).call("P.exit", 3)
    assert {machine.call("P.pid") for _ in range(8)} == {before[1]}
    pinned = machine.options(proc=0)
    waiting = pinned.submit("P.pid")

    async def awaited() -> object:
        return await asyncio.wait_for(pinned.acall("P.pid"), 0.3)

    with pytest.raises((TimeoutError, asyncio.TimeoutError)):
        asyncio.run(awaited())
    with pytest.raises(bigm.DeadlineExceeded, match="no worker was started anew"):
        machine.options(proc=0, timeout=0.2).call("P.pid")
    assert not waiting.done()
    (folder / "hold").unlink()
    new = waiting.result(30.0)
    assert new not in before
    assert pinned.call("P.pid") == new
    assert asyncio.run(pinned.acall("P.pid")) == new


def test_a_machine_whose_only_worker_died_has_its_calls_wait(start: Start, folder: Path) -> None:
    machine = start(procs=1)
    (folder / "hold").touch()
    machine.submit("P.exit", 3)
    eventually(lambda: machine._down)
    submitted = machine.submit("P.was_set_up")
    cancelled = machine.submit("P.was_set_up")
    assert cancelled.cancel()
    assert not submitted.done()
    (folder / "hold").unlink()
    assert submitted.result(30.0) == (1, machine.id)
    assert machine.call("P.was_set_up") == (1, machine.id)
    assert (folder / f"{machine.id}.0").read_text() == "xx"


def test_calls_that_wait_for_any_worker_go_to_the_first_to_be_back(start: Start, folder: Path) -> None:
    machine, held = start(), 0
    (folder / "hold").touch()
    (folder / f"hold.{held}").touch()
    for proc in (held, 1 - held):
        with pytest.raises(bigm.WorkerDied):
            machine.options(proc=proc).call("P.exit", 3)
    submitted = machine.submit("P.pid")
    threading.Timer(0.2, (folder / "hold").unlink).start()
    found = asyncio.run(_awaited(machine))
    assert submitted.result(20.0) == found
    assert held in machine._down
    assert machine.options(proc=1 - held).call("P.pid") == found
    (folder / f"hold.{held}").unlink()
    assert found != machine.options(proc=held).call("P.pid")


async def _awaited(machine: bigm.Machine) -> object:
    return await asyncio.wait_for(machine.acall("P.pid"), 20.0)


def test_retry_call_tries_again_what_is_idempotent_and_died_with_its_worker(start: Start, folder: Path) -> None:
    machine = start(procs=1)
    once = folder / "once"
    with pytest.raises(bigm.WorkerDied):
        machine.retry_call("P.exit", 3)
    assert machine.options(idempotent=True).retry_call("Functions.run", die_once, str(once)) == "alive"
    assert once.exists()


def die_once(path: str) -> str:
    if not os.path.exists(path):
        open(path, "w").close()
        os._exit(1)
    return "alive"


def test_deaths_and_returns_are_told_and_kept_with_the_run(
    start: Start, cluster: bigm.Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    machine = start()
    with pytest.raises(bigm.WorkerDied):
        machine.options(proc=1).call("P.exit", 7)
    machine.options(proc=1).call("P.pid")
    told = [event for event in read_events(cluster._session.run.folder) if event["event"] == "worker"]
    mine = [event for event in told if event["machine"] == cluster._stewards[-1].label]
    assert [(event["proc"], event["state"], event["cause"]) for event in mine] == [
        (1, "STOPPED", "exit"),
        (1, "RUNNING", ""),
    ]
    assert "exited with code 7" in mine[0]["text"]
    assert "exited with code 7; it is started anew" in capfd.readouterr().err


def test_a_worker_that_dies_again_and_again_stops_its_machine_and_says_so(start: Start, folder: Path) -> None:
    machine = start()
    (folder / "die").touch()
    os.kill(pids(machine)[0], signal.SIGKILL)
    with pytest.raises(bigm.MachineStopped, match=rf"worker 0 died {EARLY_DEATHS} times in a row.*code 9"):
        machine.wait(State.STOPPED, timeout=60.0)
    assert machine.cause is Cause.EXIT
    assert (folder / f"{machine.id}.0").read_text() == "x" * EARLY_DEATHS
    with pytest.raises(bigm.MachineStopped, match="times in a row"):
        machine.call("P.pid")


def test_a_setup_that_fails_the_second_time_stops_the_machine_with_its_error(start: Start, folder: Path) -> None:
    machine = start()
    (folder / "fail").touch()
    waiting = machine.options(proc=0)
    with pytest.raises(bigm.WorkerDied):
        waiting.call("P.exit", 3)
    with pytest.raises(bigm.ServiceFailed, match="no second life"):
        machine.wait(State.STOPPED, timeout=60.0)
    with pytest.raises(bigm.MachineStopped):
        waiting.call("P.pid")


def test_a_machine_that_is_shut_down_while_a_worker_returns_ends_and_fails_who_waits(
    start: Start, folder: Path
) -> None:
    machine = start(procs=1)
    (folder / "hold").touch()
    machine.submit("P.exit", 3)
    eventually(lambda: machine._down)
    waiting = machine.submit("P.pid")
    machine.cancel()
    with pytest.raises(bigm.MachineStopped):
        waiting.result(20.0)
    with pytest.raises(bigm.MachineStopped):
        machine.call("P.pid")


def test_other_machines_lose_the_calls_alone_and_find_the_worker_back(start: Start) -> None:
    target, caller = start(), start(procs=1)
    lost = caller.submit("P.ask", target, 0)
    eventually(lambda: target.options(proc=0).call("P.held") == 1)
    before = pids(target)
    os.kill(before[0], signal.SIGKILL)
    assert lost.result(30.0) == "MayHaveRun"
    assert caller.call("P.retry", target, 0) == target.options(proc=0).call("P.pid") != before[0]


def test_the_default_is_that_a_workers_death_stops_its_machine(cluster: bigm.Cluster, folder: Path) -> None:
    [machine] = cluster.start(1, services={"P": Phoenix(str(folder))}, procs=2)
    with pytest.raises(bigm.MachineStopped):
        machine.call("P.exit", 3)


@pytest.mark.parametrize("wrong", ["", "ignore", None, True])
def test_what_a_workers_death_means_is_one_of_two_words(cluster: bigm.Cluster, folder: Path, wrong: Any) -> None:
    with pytest.raises(bigm.ConfigError, match='"stop" or "restart"'):
        cluster.start(1, services={"P": Phoenix(str(folder))}, on_worker_death=wrong)


def test_threads_of_this_process_cannot_be_started_anew(folder: Path) -> None:
    with bigm.start("inprocess") as cluster, pytest.raises(bigm.NotSupported, match="threads of this process"):
        cluster.start(1, services={"P": Phoenix(str(folder))}, on_worker_death="restart")


class FakeClient:
    def __init__(self) -> None:
        self.error: object = None

    def close(self, error: object = None) -> None:
        self.error = error


class FakeMachine:
    """A machine of one worker, as far as restarts know it."""

    addr, id, procs = "127.0.0.1:1/m0", "m0", 1

    def __init__(self) -> None:
        self._down: dict[int, object] = {}

    def _add_worker(self, proc: int) -> FakeClient:
        return FakeClient()

    def _worker_down(self, proc: int, error: object) -> None:
        self._down[proc] = error

    def _worker_up(self, proc: int, client: object) -> None:
        del self._down[proc]

    def _stopped(self) -> bigm.MachineStopped:
        return bigm.MachineStopped("stopped")


def restarts_of(machine: FakeMachine, early: float) -> tuple[Restarts, list[Any]]:
    done: list[Any] = []
    return Restarts(
        machine,  # type: ignore[arg-type]
        early=early,
        start=lambda proc: done.append("start"),
        prepare=lambda client, ready: done.append(ready),
        give_up=lambda status, text: done.append(text),
        told=lambda status, serves: None,
    ), done


def test_deaths_that_are_not_early_are_no_reason_to_give_up() -> None:
    restarts, done = restarts_of(FakeMachine(), early=0.0)
    for pid in range(1, 3 * EARLY_DEATHS):
        restarts.reported([WorkerStatus(0, pid, EXITED, text="died")])
    assert done == ["start"] * (3 * EARLY_DEATHS - 1)


def test_a_death_is_seen_once_however_often_it_is_reported() -> None:
    machine = FakeMachine()
    restarts, done = restarts_of(machine, early=60.0)
    dead = WorkerStatus(0, 1, EXITED, text="died")
    for status in (dead, dead, WorkerStatus(0, 2, STARTING), dead):
        restarts.reported([status])
    assert done == ["start"]
    for _ in range(2):
        restarts.reported([WorkerStatus(0, 2, SERVING)])
    _, ready = done
    ready()
    assert machine._down == {}
    restarts.reported([WorkerStatus(0, 2, SERVING)])
    assert len(done) == 2


def test_a_death_in_the_moment_of_the_return_brings_no_worker_back() -> None:
    class Unlucky(FakeMachine):
        def _worker_up(self, proc: int, client: object) -> None:
            restarts.reported([WorkerStatus(0, 2, EXITED, text="died again")])
            super()._worker_up(proc, client)

    machine = Unlucky()
    restarts, done = restarts_of(machine, early=60.0)
    restarts.reported([WorkerStatus(0, 1, EXITED, text="died")])
    restarts.reported([WorkerStatus(0, 2, SERVING)])
    done[1]()
    assert 0 in machine._down
    restarts.reported([WorkerStatus(0, 3, SERVING)])
    done[-1]()
    assert machine._down == {}


def test_an_answer_that_comes_after_the_next_death_brings_no_worker_back() -> None:
    machine = FakeMachine()
    restarts, done = restarts_of(machine, early=60.0)
    restarts.reported([WorkerStatus(0, 1, EXITED, text="died")])
    restarts.reported([WorkerStatus(0, 2, SERVING)])
    restarts.reported([WorkerStatus(0, 2, EXITED, text="died again")])
    done[1]()
    assert 0 in machine._down
