"""What becomes of tasks when the network fails, machines are lost, or workers die: most of it in process, by faults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bigm
import executor_tasks as tasks
from bigm.executor import results
from bigm.scheduler import Scheduler
from bigm.tasks import Sweep, Task
from bigm.testing import Faults, InProcess
from waiting import eventually

ROOT = Path(__file__).parent.parent


@pytest.fixture
def faults() -> Faults:
    return Faults(11)


@pytest.fixture
def cluster(faults: Faults) -> Iterator[bigm.Cluster]:
    with bigm.start(InProcess(network=faults), name="scheduler", timeouts={"verdict": 0.1}) as cluster:
        cluster.wait(cluster.start(2), timeout=30.0)
        yield cluster
        faults.heal()


class _NoMachines:
    """A supply that has none, and gives its scheduler something to do, and closes it, in the middle of a turn."""

    home = None

    def __init__(self) -> None:
        self.sweep = Sweep(tasks.same, rows=False, retries=0)
        self.user: Scheduler | None = None

    def watch(self, user: Scheduler) -> None:
        self.user = user

    def unwatch(self) -> None:
        pass

    def machines(self) -> list[bigm.Machine]:
        return []

    def expects_more(self) -> bool:
        assert self.user is not None
        if not self.sweep:
            self.sweep.add([1], last=True)
            self.user.put(self.sweep)
            self.user.close("shutdown")
        return False

    def error(self) -> bigm.MachineStopped:
        return bigm.MachineStopped("there is none")


def test_what_is_put_just_before_the_end_is_not_lost() -> None:
    supply = _NoMachines()
    scheduler = Scheduler(supply, "unlucky", threads=1, initializer=None)  # type: ignore[arg-type]  # a part of one
    scheduler.put(Task(tasks.same, (1,), {}, 0))
    assert scheduler.wait(20.0)
    with pytest.raises(bigm.MachineStopped, match="there is none"):
        list(results(scheduler, supply.sweep, time.monotonic() + 1.0))


def test_its_repr_can_be_asked_for_while_machines_come() -> None:
    supply = _NoMachines()
    scheduler = Scheduler(supply, "changing", threads=1, initializer=None)  # type: ignore[arg-type]  # a part of one
    scheduler.close("shutdown")
    assert scheduler.wait(20.0)

    class Place:
        @property
        def workers(self) -> list[object]:
            scheduler._places[object()] = Place()  # type: ignore[index, assignment]  # one that comes just then
            return []

    scheduler._places = {object(): Place()}  # type: ignore[dict-item]  # as above
    assert repr(scheduler) == "<changing ended: 2 machines, 0 waiting, 0 given out>"


def test_a_machine_that_cannot_be_reached_is_set_aside_and_used_again(cluster: bigm.Cluster, faults: Faults) -> None:
    """What was never sent is run by the other, without anybody's leave."""
    first, second = cluster.machines
    with cluster.executor() as pool:
        faults.partition(first)
        eventually(lambda: "not connected" in repr(first._clients[0]))  # until then a call may leave, and be lost
        assert [pool.submit(tasks.here).result(20.0) for _ in range(10)] == [second.id] * 10
        assert [place.machine for place in pool._scheduler._places.values() if place.aside] == [first]
        faults.heal(first)
        eventually(lambda: first.id in list(pool.map(tasks.here, range(20), chunksize=2)), 20.0, "it is not used again")
    assert first.state is bigm.State.RUNNING


def test_a_task_whose_connection_is_cut_may_have_run_and_says_so(
    cluster: bigm.Cluster, faults: Faults, tmp_path: Path
) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    with cluster.executor() as pool:
        futures = [pool.submit(tasks.mark_and_wait, log, gate) for _ in range(2)]
        eventually(lambda: len(tasks.noted(log)) == 2)
        waiting = pool.submit(tasks.same, 5)
        faults.drop()
        for future in futures:
            with pytest.raises(bigm.MayHaveRun):
                future.result(20.0)
        gate.touch()
        assert waiting.result(20.0) == 5, "it had not been sent"


def test_a_task_whose_connection_is_cut_is_run_again_where_that_was_allowed(
    cluster: bigm.Cluster, faults: Faults, tmp_path: Path
) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    with cluster.executor(retries=1) as pool:
        futures = [pool.submit(tasks.mark_and_wait, log, gate) for _ in range(2)]
        eventually(lambda: len(tasks.noted(log)) == 2)
        faults.drop()
        gate.touch()
        assert [future.exception(20.0) for future in futures] == [None, None]
    assert len(tasks.noted(log)) == 4


def test_a_map_comes_to_its_end_over_a_network_that_fails_again_and_again(
    cluster: bigm.Cluster, faults: Faults
) -> None:
    cluster.wait(cluster.start(1), timeout=30.0)
    found = cluster.map(tasks.same, range(3000), retries=1000, ahead=300)
    for n, value in enumerate(found):
        assert value == n
        if n % 500 == 100:
            faults.drop()
        if n == 1700:
            faults.kill("m1")


def test_a_machine_that_will_be_taken_away_is_given_nothing_more(
    cluster: bigm.Cluster, faults: Faults, tmp_path: Path
) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    first, second = cluster.machines
    with cluster.executor() as pool:
        futures = [pool.submit(tasks.mark_and_wait, log, gate) for _ in range(2)]
        eventually(lambda: len(tasks.noted(log)) == 2)
        faults.preempt(first, notice=600.0)
        eventually(lambda: pool._scheduler._places[first].draining)
        gate.touch()
        assert [future.exception(20.0) for future in futures] == [None, None], "what ran there has ended"
        assert {pool.submit(tasks.here).result(20.0) for _ in range(6)} == {second.id}


def test_a_worker_that_is_started_anew_is_given_tasks_again(tmp_path: Path) -> None:
    with bigm.start("local", name="anew") as cluster:
        [machine] = cluster.start(1, procs=2, on_worker_death="restart")
        machine.wait(timeout=30.0)
        with cluster.executor() as pool:
            with pytest.raises(bigm.WorkerDied):
                pool.submit(tasks.die).result(20.0)
            assert pool.options(retries=1).submit(tasks.die_once, tmp_path / "a").result(20.0)
            eventually(lambda: len(set(pool.map(tasks.pid, range(40), chunksize=4))) == 2, 20.0, "one is not used")
        assert machine.state is bigm.State.RUNNING


class _EndsIt:
    """An argument that ends the machine before it is pickled."""

    def __init__(self, machine: bigm.Machine) -> None:
        self.machine = machine

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        self.machine.cancel()
        eventually(lambda: self.machine.state is bigm.State.STOPPED, 20.0, lambda: repr(self.machine))
        return (int, ())


def test_tasks_go_on_elsewhere_when_a_machine_ends_while_they_are_packed_for_it(cluster: bigm.Cluster) -> None:
    first, second = cluster.machines
    second.cancel()
    eventually(lambda: second.state is bigm.State.STOPPED, 20.0, lambda: repr(second))
    with cluster.executor(replace=True) as pool:
        assert pool.submit(tasks.same, _EndsIt(first)).result(30.0) == 0


def test_shared_objects_travel_in_tasks(cluster: bigm.Cluster) -> None:
    shared = cluster.share(list(range(1000)))
    with cluster.executor() as pool:
        assert pool.submit(sum, shared).result(20.0) == 499500
        assert list(pool.map(sum, [shared] * 50)) == [499500] * 50
        future = pool.submit(sum, shared)
        del shared
        assert future.result(20.0) == 499500


def test_a_machine_may_be_an_argument_and_a_result(cluster: bigm.Cluster) -> None:
    machine = cluster.machines[0]
    with cluster.executor() as pool:
        assert pool.submit(tasks.same, machine).result(20.0) is machine
        assert list(pool.map(tasks.same, [machine] * 20)) == [machine] * 20


def test_a_task_that_comes_before_the_loss_is_noticed_waits_for_the_replacement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = InProcess()
    with bigm.start(system, name="unnoticed") as cluster:
        [machine] = cluster.start(1)
        with cluster.executor(replace=True) as pool:
            assert pool.submit(tasks.here).result(20.0) == machine.id
            with monkeypatch.context() as late:
                late.setattr(pool._scheduler, "refresh", lambda: None)
                system.kill(machine.id)
                eventually(lambda: machine.state is bigm.State.STOPPED, 20.0)
            assert pool.submit(tasks.here).result(20.0) != machine.id


def test_tasks_of_two_executors_do_not_wait_for_one_another(cluster: bigm.Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with cluster.executor() as one, cluster.executor() as other:
        slow = [one.submit(tasks.until, gate) for _ in range(4)]
        assert other.submit(tasks.same, 1).result(20.0) == 1
        gate.touch()
        assert [future.exception(20.0) for future in slow] == [None] * 4


PROGRAM = """
import bigm, executor_tasks as tasks, pathlib, sys
if __name__ == "__main__":
    with bigm.start() as cluster:
        cluster.start(2)
        with cluster.executor() as pool:
            futures = [pool.submit(tasks.until, pathlib.Path("never")) for _ in range(10)]
            while not futures[0].running():
                futures[-1].cancel()
            print("running", flush=True)
            futures[0].result()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_program_that_waits_for_its_executor(tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "prog.py").write_text(PROGRAM)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    with subprocess.Popen(
        [sys.executable, "prog.py"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "running\n"
        watch = threading.Timer(30.0, program.kill)
        watch.start()
        program.send_signal(number)
        _, said = program.communicate()
        watch.cancel()
    assert program.returncode == code, said
    assert "Traceback" not in said
