from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bigm
from bigm import Cause, State
from bigm.bootstrap.records import Launch
from bigm.errors import CapacityError
from bigm.runs import read_events, read_run
from bigm.systems.base import Capabilities, Launched, Spec
from bigm.systems.local import Local
from cluster_services import (
    BadSetup,
    Counter,
    Mortal,
    OnlyHere,
    SetUp,
    SlowSetup,
    Unpicklable,
)
from waiting import eventually


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def test_an_interrupt_before_there_is_a_cluster_closes_its_system(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Told(Local):
        def open(self, cluster: str) -> None:
            super().open(cluster)
            told.append("opened")

        def close(self) -> None:
            super().close()
            told.append("closed")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bigm.cluster.Pool", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bigm.start(Told())
    assert ["opened", "closed"] == told


@pytest.mark.parametrize("n", [0, -1, "3", 2.5, True])
def test_a_cluster_starts_a_whole_number_of_machines(n: object) -> None:
    with bigm.start() as cluster, pytest.raises(bigm.ConfigError, match="1 machine or more"):
        cluster.start(n, services={"C": Counter()})  # type: ignore[arg-type]


def test_how_many_is_asked_for_where_nobody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with bigm.start() as cluster, pytest.raises(bigm.ConfigError, match="how many"):
        cluster.start(services={"C": Counter()})
    monkeypatch.setenv("BIGM_NMACH", "3")
    with bigm.start() as cluster:
        assert cluster.nmach == 3


@pytest.mark.parametrize(
    ("services", "words"),
    [
        ({}, "at least one.*leave it out"),
        ({"Supervisor": Counter()}, "'Supervisor'"),
        ({"Functions": Counter()}, "'Functions'"),
        ({"_C": Counter()}, "'_C'"),
        ({"a b": Counter()}, "'a b'"),
        ({"C": Counter}, "is the class Counter"),
    ],
)
def test_services_that_cannot_be_served_are_refused_before_anything_is_launched(
    services: dict[str, object], words: str
) -> None:
    with bigm.start() as cluster, pytest.raises(bigm.ConfigError, match=words):
        cluster.start(1, services=services)


def test_a_service_that_cannot_be_pickled_fails_in_start_with_the_path() -> None:
    with bigm.start() as cluster, pytest.raises(bigm.NotPicklable, match=r"'C'.*config.*lock"):
        cluster.start(1, services={"C": Unpicklable()})


@pytest.mark.parametrize("procs", [0, -1, "some", True])
def test_procs_is_a_whole_number_or_all(procs: object) -> None:
    with bigm.start() as cluster, pytest.raises(bigm.ConfigError, match="procs"):
        cluster.start(1, services={"C": Counter()}, procs=procs)  # type: ignore[arg-type]


@pytest.mark.parametrize("wanted", [{"env": {"A": "b"}}, {"args": ["a"]}, {"procs": 2}])
def test_inprocess_refuses_what_needs_a_process(wanted: dict[str, object]) -> None:
    with bigm.start("inprocess") as cluster, pytest.raises(bigm.NotSupported, match="threads of this process"):
        cluster.start(1, services={"C": Counter()}, **wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["wait", "await_state", "executor", "map"])
@pytest.mark.parametrize("wrong", ["a machine", 3, "m0", ["m0"]])
def test_what_takes_a_list_of_machines_refuses_anything_else(way: str, wrong: Any) -> None:
    with bigm.start("inprocess") as cluster:
        [machine] = cluster.start(1)
        machines = machine if wrong == "a machine" else wrong
        call: dict[str, Callable[[], object]] = {
            "wait": lambda: cluster.wait(machines),
            "await_state": lambda: asyncio.run(cluster.await_state(machines)),
            "executor": lambda: cluster.executor(machines),
            "map": lambda: cluster.map(len, ["x"], machines=machines),
        }
        with pytest.raises(bigm.ConfigError, match=f"cluster.{way} takes a list of machines, not"):
            call[way]()


def test_a_state_is_waited_for_by_its_member_and_not_by_its_name() -> None:
    with bigm.start("inprocess") as cluster:
        [machine] = cluster.start(1)
        with pytest.raises(bigm.ConfigError, match=r"not 'stopped'; bigm\.State\.STOPPED"):
            cluster.wait(state="stopped")  # type: ignore[arg-type]
        with pytest.raises(bigm.ConfigError, match=r"not 'x'; bigm\.State\.RUNNING"):
            machine.wait("x")  # type: ignore[arg-type]


def test_an_unknown_setting_is_refused_by_name() -> None:
    with pytest.raises(bigm.ConfigError, match=r"timeouts\.setup"):
        bigm.start(timeouts={"setop": 1})


def test_failures_of_a_start_stop_their_machine_alone_and_at_once() -> None:
    """Several clusters' worth of failures in one start-up each, and a good machine beside them that goes on."""
    with bigm.start(name="failing", timeouts={"setup": 1.0}) as cluster:
        bad, slow, here, good = (
            cluster.start(1, services={"S": service})[0]
            for service in (BadSetup(), SlowSetup(60.0), OnlyHere(), Counter())
        )
        for machine, cause, words in (
            (bad, Cause.SETUP, "RuntimeError: no database here"),
            (here, Cause.SERVICE, "belongs to the driver"),
            (slow, Cause.SETUP, "setup.* did not end in time"),
        ):
            with pytest.raises(bigm.ServiceFailed, match=words):
                machine.wait(timeout=20.0)
            assert (machine.state, machine.cause) == (State.STOPPED, cause)
            with pytest.raises(bigm.MachineStopped) as caught:
                machine.call("S.anything")
            assert caught.value.cause == cause
        with pytest.raises(bigm.ServiceFailed):
            cluster.wait([good, bad])
        good.wait(timeout=20.0)
        assert good.call("S.add", 2) == 2
        assert cluster.machines == [good]


def test_env_args_and_working_folder_reach_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_DRIVER", "old")
    with bigm.start() as cluster:
        [machine] = cluster.start(1, services={"C": Counter()}, env={"FROM_USER": "new"}, args=["-x", "1"])
        assert machine.call("C.env", "FROM_USER") == "new"
        assert machine.call("C.env", "FROM_DRIVER") == "old"
        assert machine.call("C.argv")[1:] == ["-x", "1"]
        assert machine.call("C.cwd") == os.getcwd()


def test_two_clusters_live_side_by_side_and_share_nothing() -> None:
    with bigm.start("inprocess", name="one") as one, bigm.start("inprocess", name="two") as two:
        [a] = one.start(1, services={"C": Counter(1)})
        [b] = two.start(1, services={"C": Counter(2)})
        assert (a.id, b.id) == ("m0", "m0")
        assert (a.call("C.add"), b.call("C.add")) == (2, 3)
        one.shutdown()
        assert b.call("C.add") == 4
        assert a.state is State.STOPPED


@pytest.mark.parametrize("env", [{"A=B": "1"}, {"": "1"}, {"A\0": "1"}, {"A": "x\0y"}])
def test_what_no_environment_can_carry_is_refused_before_anything_is_launched(env: dict[str, str]) -> None:
    with bigm.start() as cluster:
        with pytest.raises(bigm.ConfigError, match="env cannot carry"):
            cluster.start(1, services={"C": Counter()}, env=env)
        assert cluster.machines == []


def test_a_cluster_that_is_shut_down_is_done_and_says_so() -> None:
    with bigm.start("inprocess") as cluster:
        cluster.start(1, services={"C": Counter()})
        assert cluster.shutdown() == []
        assert cluster.shutdown() == []
        assert cluster.machines == []
        with pytest.raises(bigm.ConfigError, match="shut down"):
            cluster.start(1, services={"C": Counter()})


def test_shutdown_runs_teardown_and_keeps_the_last_output(capfd: pytest.CaptureFixture[str]) -> None:
    with bigm.start() as cluster:
        machines = cluster.start(2, services={"S": SetUp(), "C": Counter()})
        cluster.wait(machines, timeout=30.0)
        machines[0].call("C.say", "x" * 100_000 + "end")
    shown = capfd.readouterr().err
    assert "m0 | torn down\n" in shown
    assert "m1 | torn down\n" in shown
    assert "x" * 100_000 + "end\n" in shown


def test_a_daemon_that_a_service_leaves_does_not_outlive_the_machine() -> None:
    with bigm.start() as cluster:
        [machine] = cluster.start(1, services={"M": Mortal()})
        machine.call("M.daemon")
        worker = machine.call("M.pid")
        mark = f"BIGM_MACHINE={machine._agent.call('Agent.info').mark}".encode()
        eventually(lambda: len(marked(mark)) >= 2)  # between fork and exec it has no environment to be seen
    eventually(lambda: not marked(mark), 5.0, lambda: f"left: {marked(mark)}")
    assert not alive(worker)


def marked(mark: bytes) -> list[int]:
    """Processes with *mark* in their environment."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and mark in open(f"/proc/{entry}/environ", "rb").read():
                found.append(int(entry))
        except OSError:
            continue
    return found


class Scarce(Local):
    """Has room for fewer than one wants."""

    room = 1

    def launch(self, n: int, spec: Spec, boot: Launch, launch_id: str) -> Launched:
        fitting = min(n, self.room)
        launched = super().launch(fitting, spec, boot, launch_id) if fitting else Launched(())
        return dataclasses.replace(launched, failures=(CapacityError("no room"),) * (n - fitting))


def test_fewer_machines_than_wanted_are_returned_and_said(capfd: pytest.CaptureFixture[str]) -> None:
    with bigm.start(Scarce()) as cluster:
        assert len(cluster.start(3, services={"C": Counter()})) == 1
    assert "only 1 of 3 machines could be launched: no room" in capfd.readouterr().err


def test_no_machine_at_all_is_an_error_of_the_system() -> None:
    system = Scarce()
    system.room = 0
    with bigm.start(system) as cluster, pytest.raises(CapacityError, match="no room"):
        cluster.start(3, services={"C": Counter()})


def test_a_run_tells_launches_states_and_causes_and_settles_its_journal() -> None:
    with bigm.start("inprocess", name="told") as cluster:
        [machine] = cluster.start(1, services={"C": Counter()})
        machine.wait(timeout=20.0)
        folder = cluster._session.run.folder
        label = cluster._stewards[0].label
        assert '"intent"' in (folder / "journal").read_text()
    events = [event for event in read_events(folder) if event.get("cluster") == "told"]
    assert [(e["event"], e.get("state"), e.get("cause")) for e in events if e.get("machine") == label] == [
        ("machine", "STARTING", ""),
        ("machine", "RUNNING", ""),
        ("machine", "STOPPED", "shutdown"),
        ("ended", "STOPPED", "shutdown"),
    ]
    [launch] = [event for event in events if event["event"] == "launch"]
    assert (launch["asked"], launch["launched"]) == (1, 1)
    assert f'"launch":"{launch["launch"]}","settled":true' in (folder / "journal").read_text()
    assert read_run(folder.parent, folder.name).machines()[-1].state == "STOPPED"


class Elsewhere(Local):
    """Machines that believe they are on another computer: their leases are kept by the keeper, and nothing else."""

    name = "elsewhere"
    capabilities = Capabilities(ends="agent", local=False, in_place=True)

    def __init__(self) -> None:
        super().__init__(parent_death=False)


def test_a_driver_that_holds_its_gil_keeps_its_machines_elsewhere_by_the_keeper() -> None:
    with bigm.start(Elsewhere(), timeouts={"lease": 1.0}) as cluster:
        [machine] = cluster.start(1, services={"M": Mortal()})
        pid = machine.call("M.pid")
        assert cluster._common.keeper is not None
        hold_gil(2.5)
        assert machine.call("M.pid") == pid
        assert machine.state is State.RUNNING
    assert not alive(pid)


@pytest.mark.slow
def test_a_driver_that_holds_its_gil_keeps_its_local_machines_for_most_of_a_lease() -> None:
    with bigm.start(timeouts={"lease_local": 2.0}) as cluster:
        [machine] = cluster.start(1, services={"M": Mortal()})
        pid = machine.call("M.pid")
        hold_gil(1.5)
        assert machine.call("M.pid") == pid


def test_a_service_that_holds_its_gil_for_several_leases_keeps_its_machine() -> None:
    with bigm.start(timeouts={"lease_local": 0.5, "heartbeat": 0.5}) as cluster:
        [machine] = cluster.start(1, services={"M": Mortal()})
        machine.call("M.hold_gil", 1.5)
        assert machine.state is State.RUNNING


@pytest.mark.slow
def test_a_service_that_holds_its_gil_for_a_minute_keeps_its_machine() -> None:
    with bigm.start() as cluster:
        [machine] = cluster.start(1, services={"M": Mortal()})
        machine.call("M.hold_gil", 62.0)
        assert machine.call("M.pid")


@pytest.mark.slow
def test_a_driver_that_holds_its_gil_for_50_seconds_keeps_its_machines() -> None:
    with bigm.start() as cluster, bigm.start(Elsewhere()) as other:
        [machine] = cluster.start(1, services={"M": Mortal()})
        [elsewhere] = other.start(1, services={"M": Mortal()})
        pids = machine.call("M.pid"), elsewhere.call("M.pid")
        hold_gil(50.0)
        assert (machine.call("M.pid"), elsewhere.call("M.pid")) == pids


def hold_gil(seconds: float) -> None:
    Mortal().hold_gil(seconds)


def test_a_machine_that_has_ended_is_leased_no_more() -> None:
    with bigm.start("inprocess") as cluster:
        [machine] = cluster.start(1, services={"C": Counter()})
        machine.call("C.pid")
        assert len(cluster._common.leases._held) == 1
        machine.shutdown()
        assert cluster._common.leases._held == set()


def test_an_end_that_was_interrupted_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = bigm.start("inprocess")
    monkeypatch.setattr(type(cluster._common.pool), "close", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cluster.shutdown()
    again = threading.Thread(target=cluster.shutdown, daemon=True)
    again.start()
    again.join(5.0)
    assert not again.is_alive()
    assert cluster not in cluster._session._clusters


def test_a_working_folder_that_was_removed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with bigm.start("local") as cluster:
        monkeypatch.chdir(folder)
        folder.rmdir()
        try:
            with pytest.raises(bigm.ConfigError, match="working folder was removed"):
                cluster.start(1, services={"C": Counter()})
        finally:
            os.chdir(tmp_path)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt
