"""Objects shared with machines: once to each, whole, from wherever they can be had, and freed."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

import bigm
from waiting import eventually

SYSTEMS = pytest.mark.parametrize("system", ["local", "inprocess"])
MIB = 1 << 20


class Array:
    """Memory that pickles out of band, as numpy's arrays do."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: int) -> Any:
        return Array, (pickle.PickleBuffer(self.memory),)


class Reader:
    """Looks at what it is given."""

    def __init__(self, table: Any = None) -> None:
        self.table = table
        self.kept: Any = None

    def look(self, table: Any) -> tuple[str, int, int]:
        return type(table).__name__, id(table), os.getpid()

    def first(self, holder: dict[str, list[Array]]) -> int:
        return holder["tables"][0].memory[0]

    def total(self, array: Array) -> int:
        return sum(array.memory[::4096])

    def is_read_only(self, array: Array) -> bool:
        return memoryview(array.memory).readonly

    def own(self) -> Any:
        return self.table

    def keep(self, array: Array) -> None:
        self.kept = array

    def total_kept(self) -> int:
        return self.total(self.kept)

    def hold(self, array: Array, file: str) -> int:
        Path(file).touch()
        bigm.current_call().wait_cancelled(30.0)
        return 0

    def pid(self) -> int:
        return os.getpid()


def array(size: int = MIB) -> Array:
    return Array(bytearray(b"\x01\x02\x03\x04" * (size // 4)))


def put_bytes(machines: list[bigm.Machine]) -> int:
    """Bytes that the driver has sent to the machines' folders."""
    stats = [machine._agent.stats.snapshot().get("Agent.put") for machine in machines]
    return sum(each.bytes_out for each in stats if each is not None)


def part_files(cluster: bigm.Cluster) -> list[Path]:
    """What lies in the machines' folders."""
    folders = [Path(steward._info.folder) for steward in cluster._stewards if steward._info is not None]
    return [path for folder in folders if folder.is_absolute() for path in (folder / "parts").glob("*")]


@SYSTEMS
def test_a_method_gets_the_object_itself_wherever_in_its_arguments_the_handle_is(system: str):
    with bigm.start(system) as cluster:
        (machine,) = cluster.start(1, services={"R": Reader()})
        handle = cluster.share(array())
        assert "Array" == machine.call("R.look", handle)[0]
        assert 1 == machine.call("R.first", {"tables": [handle]})
        assert MIB // 4096 == machine.run(lambda shared: sum(shared.memory[::4096]), handle)
        assert "dict" == machine.call("R.look", cluster.share({"a": 1}))[0]
        assert "function" == machine.call("R.look", cluster.share(lambda: 1))[0]


@SYSTEMS
def test_all_calls_of_a_worker_get_the_same_object_and_cannot_write_to_its_arrays(system: str):
    with bigm.start(system) as cluster:
        machines = cluster.start(2, services={"R": Reader()})
        handle = cluster.share(array())
        looks = [machine.call("R.look", handle) for machine in machines for _ in range(3)]
        assert 2 == len(set(looks))
        assert machines[0].call("R.is_read_only", handle)


@SYSTEMS
def test_what_was_shared_is_what_the_object_was_then(system: str):
    shared = array()
    with bigm.start(system) as cluster:
        (machine,) = cluster.start(1, services={"R": Reader()})
        handle = cluster.share(shared)
        shared.memory[0] = 99
        assert 1 == machine.call("R.first", {"tables": [handle]})


def test_the_driver_sends_it_less_than_twice_however_many_machines_and_calls_there_are():
    size = 16 * MIB
    with bigm.start("local") as cluster:
        machines = cluster.start(4, services={"R": Reader()}, procs=2)
        handle = cluster.share(array(size))
        calls = [machine.submit("R.total", handle) for machine in machines for _ in range(6)]
        assert {size // 4096} == {call.result(60) for call in calls}
        eventually(lambda: size <= put_bytes(machines), 20)
        assert put_bytes(machines) < 2 * size
        files = part_files(cluster)
        assert 4 == len(files), "one file for each machine, whatever workers it has"


@SYSTEMS
def test_a_machine_that_starts_later_gets_it_too(system: str):
    with bigm.start(system) as cluster:
        (first,) = cluster.start(1, services={"R": Reader()})
        handle = cluster.share(array())
        assert 256 == first.call("R.total", handle)
        (second,) = cluster.start(1, services={"R": Reader()})
        assert 256 == second.call("R.total", handle)
        if system == "local":
            assert 0 == put_bytes([second]), "it came from the first"


@SYSTEMS
def test_it_can_be_part_of_a_service_and_outlives_its_handle_there(system: str):
    with bigm.start(system) as cluster:
        machines = cluster.start(2, services={"R": Reader(cluster.share({"a": 1}))})
        assert [{"a": 1}] * 2 == [machine.call("R.own") for machine in machines]


def test_a_machine_that_dies_while_it_is_being_sent_leaves_the_others_with_theirs():
    size = 64 * MIB
    with bigm.start("local") as cluster:
        machines = cluster.start(3, services={"R": Reader()})
        cluster.wait(machines)
        agents = {machine.id: _parent(machine.call("R.pid")) for machine in machines}
        handle = cluster.share(array(size))
        calls = {machine.id: machine.submit("R.total", handle) for machine in machines}
        (dying,) = eventually(lambda: [place.machine.id for place in handle._part.coming], 20, poll=0.0)
        os.kill(agents[dying], signal.SIGKILL)
        with pytest.raises(bigm.MachineStopped):
            calls.pop(dying).result(60)
        assert [size // 4096] * 2 == [call.result(60) for call in calls.values()]


def test_a_source_that_gives_something_else_is_replaced_by_the_driver():
    with bigm.start("local") as cluster:
        (first,) = cluster.start(1, services={"R": Reader()})
        handle = cluster.share(array())
        first.call("R.total", handle)
        (part,) = part_files(cluster)
        with part.open("r+b") as file:
            file.seek(MIB // 2)
            file.write(b"something else")
        (second,) = cluster.start(1, services={"R": Reader()})
        assert 256 == second.call("R.total", handle)
        eventually(lambda: MIB <= put_bytes([second]), 20, "the driver has sent it")


def test_a_source_that_has_ended_is_replaced_by_the_driver():
    with bigm.start("local") as cluster:
        (first,) = cluster.start(1, services={"R": Reader()})
        handle = cluster.share(array())
        first.call("R.total", handle)
        first.shutdown()
        (second,) = cluster.start(1, services={"R": Reader()})
        assert 256 == second.call("R.total", handle)


def test_a_machine_that_cannot_keep_it_fails_its_calls_and_says_why():
    with bigm.start("local") as cluster:
        machines = cluster.start(2, services={"R": Reader()})
        cluster.wait(machines)
        folder = Path(cluster._stewards[0]._info.folder)  # type: ignore[union-attr]  # it is RUNNING
        (folder / "parts").write_text("in the way")
        handle = cluster.share(array())
        calls = [machine.submit("R.total", handle) for machine in machines]
        with pytest.raises(bigm.NotPicklable, match="could not be brought to m0: cannot keep part"):
            calls[0].result(60)
        assert 256 == calls[1].result(60)


@SYSTEMS
def test_it_is_freed_everywhere_when_its_handle_is_dropped(system: str):
    with bigm.start(system) as cluster:
        machines = cluster.start(2, services={"R": Reader()})
        handle = cluster.share(array())
        assert [256, 256] == [machine.call("R.total", handle) for machine in machines]
        machines[0].call("R.keep", handle)
        part = handle._part
        del handle
        gc.collect()
        eventually(lambda: part.file.closed and not part_files(cluster), 20)
        assert 256 == machines[0].call("R.total_kept"), "what a service has kept stays valid"


def test_what_is_dropped_while_it_is_on_its_way_leaves_nothing():
    with bigm.start("local") as cluster:
        machines = cluster.start(3, services={"R": Reader()})
        cluster.wait(machines)
        handle = cluster.share(array(32 * MIB))
        part = handle._part
        calls = [machine.submit("R.total", handle) for machine in machines]
        eventually(lambda: part.coming, 20, poll=0.0)
        handle.close()
        for call in calls:
            with pytest.raises(bigm.NotPicklable, match="not shared any more"):
                call.result(60)
        eventually(lambda: part.file.closed and not part_files(cluster), 30, lambda: f"{part_files(cluster)}")


@SYSTEMS
def test_a_call_in_flight_keeps_what_it_was_made_with(system: str, tmp_path: Path):
    with bigm.start(system) as cluster:
        (machine,) = cluster.start(1, services={"R": Reader()})
        file = tmp_path / "called"
        call = machine.submit("R.hold", cluster.share(array()), str(file))
        gc.collect()
        eventually(file.exists, 20)
        assert 1 == len(cluster._sharing._parts)
        call.cancel()
        del call
        gc.collect()
        eventually(lambda: not cluster._sharing._parts, 20)


def test_a_worker_that_is_started_anew_has_what_was_shared_before():
    with bigm.start("local") as cluster:
        (machine,) = cluster.start(1, services={"R": Reader()}, on_worker_death="restart")
        handle = cluster.share(array())
        assert 256 == machine.call("R.total", handle)
        pid = machine.call("R.pid")
        os.kill(pid, signal.SIGKILL)
        assert 256 == eventually(lambda: _total_of_another(machine, handle, pid), 30)


def _total_of_another(machine: bigm.Machine, handle: bigm.Shared, pid: int) -> int:
    """The total as another process than *pid* has it, 0 as long as that one is there."""
    try:
        return machine.call("R.total", handle) if machine.call("R.pid") != pid else 0
    except bigm.WireError:
        return 0  # the call was lost with the worker


def total(shared: Array, n: int) -> int:
    return sum(shared.memory[::4096]) + n


@SYSTEMS
def test_tasks_of_an_executor_get_the_object_too_and_keep_it_until_they_have_run(system: str):
    with bigm.start(system) as cluster:
        cluster.start(2)
        with cluster.executor() as executor:
            tasks = [executor.submit(total, cluster.share(array()), n) for n in range(4)]
            gc.collect()
            assert [256, 257, 258, 259] == [task.result(60) for task in tasks]
            del tasks
        gc.collect()
        eventually(lambda: not cluster._sharing._parts, 20, lambda: f"{cluster._sharing}")


def begin(shared: Array) -> None:
    sum(shared.memory[::4096])


@SYSTEMS
def test_an_executor_keeps_what_its_initializer_was_given(system: str):
    """A worker whose first task comes late gets it too, and the end of the executor frees it."""
    with bigm.start(system) as cluster:
        (machine,) = cluster.start(1, services={"R": Reader()})
        with cluster.executor(initializer=begin, initargs=(cluster.share(array()),)) as executor:
            machine.call("R.pid")
            gc.collect()
            assert 3 == executor.submit(abs, -3).result(60)
        del executor
        eventually(lambda: not cluster._sharing._parts, 20, lambda: f"{cluster._sharing}")


@SYSTEMS
def test_a_shared_object_keeps_those_in_it(system: str):
    with bigm.start(system) as cluster:
        (machine,) = cluster.start(1, services={"R": Reader()})
        outer = cluster.share({"tables": [cluster.share(array())]})
        machine.call("R.pid")
        gc.collect()
        assert 1 == machine.call("R.first", outer)
        del outer
        gc.collect()
        eventually(lambda: not cluster._sharing._parts, 20, lambda: f"{cluster._sharing}")


@SYSTEMS
def test_many_short_lived_shares_leave_nothing(system: str):
    with bigm.start(system) as cluster:
        machines = cluster.start(2, services={"R": Reader()})
        for _ in range(10):
            assert [4] * 2 == [machine.call("R.total", cluster.share(array(4 * 4096))) for machine in machines]
        gc.collect()
        eventually(lambda: not cluster._sharing._parts and not part_files(cluster), 20)


@SYSTEMS
def test_a_closed_handle_is_refused_where_the_call_is_made(system: str):
    with bigm.start(system) as cluster:
        (machine,) = cluster.start(1, services={"R": Reader()})
        handle = cluster.share([1])
        machine.call("R.look", handle)
        handle.close()
        with pytest.raises(bigm.NotPicklable, match=r"argument 1: <Shared list.*closed> was closed; share"):
            machine.call("R.look", handle)


@SYSTEMS
def test_a_handle_whose_cluster_has_ended_is_refused(system: str):
    with bigm.start(system, name=f"old-{system}") as cluster:
        handle = cluster.share([1])
    with bigm.start(system) as cluster:
        (machine,) = cluster.start(1, services={"R": Reader()})
        with pytest.raises(bigm.NotPicklable, match=r"the cluster old-.* that shares this object is shut down"):
            machine.call("R.look", handle)


@SYSTEMS
def test_a_handle_of_another_cluster_is_refused(system: str):
    with bigm.start(system) as one, bigm.start(system) as other:
        (machine,) = other.start(1, services={"R": Reader()})
        with pytest.raises(bigm.NotPicklable, match=f"cluster {one.id} shares is unknown .* of cluster {other.id}"):
            machine.call("R.look", one.share([1]))


def test_what_cannot_be_pickled_cannot_be_shared():
    with bigm.start("inprocess") as cluster:
        with pytest.raises(bigm.NotPicklable, match=r"the shared dict\['a'\]: .*lock"):
            cluster.share({"a": threading.Lock()})


def test_in_the_driver_a_handle_stays_a_handle():
    with bigm.start("inprocess") as cluster:
        handle = cluster.share([1])
        assert handle is copy.deepcopy(handle)
        assert handle is pickle.loads(pickle.dumps(handle))


def _parent(pid: int) -> int:
    done = subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True, timeout=10)
    return int(done.stdout)


def test_who_is_not_the_driver_may_not_touch_what_is_shared():
    from bigm.rpc.identity import Identity
    from bigm.worker.worker import authorize

    with pytest.raises(bigm.NotAllowed):
        authorize(Identity.parse("bigm://0123456789ab/machine/m0/worker/1"), "Shares", "forget")
