"""The agent as a service, without a process: a clock that is turned, workers that are records."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigm.authority import Authority
from bigm.bootstrap.agent import MAX_LEASE, Agent, Workers
from bigm.bootstrap.records import ENDING, EXITED, SERVING, STARTING, Launch, WorkerSpec, WorkerStatus
from bigm.errors import ConfigError, NotAllowed
from bigm.lifecycle import Cause
from bigm.rpc.identity import Identity
from waiting import eventually

AUTHORITY = Authority()
BOOTSTRAP = AUTHORITY.bootstrap("L1")
MACHINE = AUTHORITY.machine("m0")
LAUNCH = Launch(
    cluster=AUTHORITY.cluster,
    launch="L1",
    ca=AUTHORITY.ca.decode(),
    cert=BOOTSTRAP.cert.decode(),
    key=BOOTSTRAP.key.decode(),
    first_lease=100.0,
    lifetime=1000.0,
    drain=5.0,
    linger=30.0,
)


class Threads(Workers):
    """Workers that exist as records; ended ones exit when told."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def attach(self, agent: Agent) -> None:
        self.agent = agent

    def start(self, specs: Sequence[WorkerSpec]) -> list[WorkerStatus]:
        if any(spec.cwd == "/missing" for spec in specs):
            raise ConfigError("/missing: No such file or directory")
        statuses = [WorkerStatus(spec.proc, 1000 + spec.proc, STARTING) for spec in specs]
        for status in statuses:
            self.agent.worker_changed(status)
        return statuses

    def hand_over(self, proc, connection) -> bool:
        return False

    def end(self, grace: float) -> None:
        self.ended.append(grace)

    def sample(self):
        return ()

    def exit(self, proc: int = 0) -> None:
        self.agent.worker_changed(WorkerStatus(proc, 1000 + proc, EXITED, exit_code=0, cause="exit"))
        self.agent.worker_drained(proc)


class Rig:
    """An agent, its workers, and a clock."""

    def __init__(self, folder: str = "") -> None:
        self.now = 5000.0
        self.finished = 0
        self.workers = Threads()
        self.agent = Agent(LAUNCH, self.workers, self.finish, folder=folder, clock=lambda: self.now)

    def finish(self) -> None:
        self.finished += 1

    def turn(self, seconds: float) -> None:
        self.now += seconds
        self.agent.tick()

    def enrol(self) -> None:
        self.agent.enrol(MACHINE.identity.uri, MACHINE.cert, MACHINE.key)

    def start(self, count: int = 1, **fields) -> None:
        self.agent.start_workers([self.spec(proc, **fields) for proc in range(count)])

    def spec(self, proc: int, machine: str = "m0", **fields) -> WorkerSpec:
        identity = Identity(AUTHORITY.cluster, "worker", machine, proc)
        return WorkerSpec(proc, "python", identity.uri, b"", b"", b"", **fields)

    @property
    def cause(self) -> str:
        return self.agent.watch(0, 0, 0.0).cause


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.agent.server.close()
    rig.agent.close()


def test_a_machine_that_nobody_leases_ends_after_its_first_lease(rig):
    rig.enrol()
    rig.turn(99.9)
    assert rig.cause == ""
    rig.turn(0.2)
    assert (rig.cause, rig.finished) == ("lease", 1)


def test_a_keepalive_replaces_the_first_lease_and_never_shortens_a_later_one(rig):
    rig.enrol()
    assert rig.agent.keepalive(10.0).granted == 10.0
    rig.agent.keepalive(1.0)
    rig.turn(9.9)
    assert rig.cause == ""
    rig.turn(0.2)
    assert (rig.cause, rig.finished) == ("lease", 1)


def test_no_lease_is_longer_than_an_hour(rig):
    assert rig.agent.keepalive(1e9).granted == MAX_LEASE


def test_the_lifetime_ends_a_machine_however_well_it_is_leased(rig):
    rig.enrol()
    for _ in range(11):
        rig.agent.keepalive(200.0)
        rig.turn(99.0)
    assert rig.cause == "lifetime"
    assert rig.finished == 0, "the driver may still fetch the last output"
    rig.turn(31.0)
    assert rig.finished == 1


def test_a_wall_clock_that_jumps_changes_no_lease(rig, monkeypatch):
    rig.enrol()
    rig.agent.keepalive(10.0)
    for jump in (1e9, -1e9):
        monkeypatch.setattr("time.time", lambda jump=jump: 1.8e9 + jump)
        rig.turn(1.0)
    assert rig.cause == ""


def test_lost_lease_kills_workers_at_once_and_ends_when_they_are_gone(rig):
    rig.enrol()
    rig.start(2)
    rig.agent.keepalive(10.0)
    rig.turn(11.0)
    assert rig.workers.ended == [0.0]
    rig.workers.exit(0)
    rig.agent.tick()
    assert rig.finished == 0
    rig.workers.exit(1)
    rig.agent.tick()
    assert rig.finished == 1


def test_workers_that_will_not_end_do_not_keep_the_machine(rig):
    rig.enrol()
    rig.start()
    rig.agent.end(Cause.DRIVER, "the driver ended")
    rig.turn(4.9)
    assert rig.finished == 0
    rig.turn(0.2)
    assert rig.finished == 1
    assert b"worker 0 is still held open" in b"".join(r.data for r in rig.agent.watch(0, 0, 0.0).records)


def test_shutdown_waits_for_the_last_output_and_lingers_for_the_driver_to_fetch_it(rig):
    rig.enrol()
    rig.start()
    answers = []
    caller = threading.Thread(target=lambda: answers.append(rig.agent.shutdown(2.0)), name="caller")
    caller.start()
    report = rig.agent.watch(0, 0, 0.0)
    while report.state != ENDING:
        report = rig.agent.watch(1 << 62, report.version, 10.0)
    assert (report.state, report.cause, report.drained) == (ENDING, "shutdown", False)
    eventually(lambda: rig.workers.ended == [2.0])
    rig.agent.wrote("w0", "o", b"last words\n")
    rig.workers.exit()
    rig.agent.tick()
    caller.join(10.0)
    (final,) = answers
    assert final.drained
    report = rig.agent.watch(0, 0, 0.0)
    assert report.records[-1].data == b"last words\n"
    assert report.end_offset == report.next_offset == final.end_offset
    rig.turn(29.0)
    assert rig.finished == 0
    rig.agent.exit()
    rig.agent.tick()
    assert rig.finished == 1


def test_a_machine_that_is_shut_down_and_forgotten_ends_by_itself(rig):
    rig.enrol()
    rig.agent.end(Cause.SHUTDOWN, "it was shut down", grace=1.0, linger=30.0)
    rig.agent.tick()
    rig.turn(31.0)
    assert rig.finished == 1


def test_the_first_cause_stays(rig):
    rig.agent.end(Cause.LEASE, "first")
    rig.agent.end(Cause.SHUTDOWN, "second")
    assert rig.cause == "lease"


def test_enrolment_is_for_once_and_for_machines_of_this_cluster(rig):
    with pytest.raises(NotAllowed, match="not a machine"):
        rig.agent.enrol(f"bigm://{AUTHORITY.cluster}/driver", b"", b"")
    with pytest.raises(NotAllowed, match="not a machine"):
        rig.agent.enrol("bigm://ffffffffffff/machine/m0", b"", b"")
    rig.enrol()
    with pytest.raises(NotAllowed, match="enrolled already"):
        rig.enrol()


ROLES = {
    "driver": Identity(AUTHORITY.cluster, "driver"),
    "keeper": Identity(AUTHORITY.cluster, "keeper"),
    "bootstrap": Identity(AUTHORITY.cluster, "bootstrap", "L1"),
    "machine": Identity(AUTHORITY.cluster, "machine", "m1"),
    "worker": Identity(AUTHORITY.cluster, "worker", "m0", 0),
}
METHODS = (
    *("enrol", "info", "ping", "keepalive", "release"),
    *("have", "put", "get"),
    *("start_workers", "stop_workers", "watch", "sample", "shutdown", "exit"),
)
ALLOWED = {
    "driver": set(METHODS),
    "keeper": {"keepalive", "release", "ping"},
    "bootstrap": set(),
    "machine": {"ping", "info", "have", "get"},
    "worker": {"ping", "info", "have", "get"},
}


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_call_what_it_needs_and_nothing_else(rig, role):
    def allowed() -> set[str]:
        found = set()
        for method in METHODS:
            try:
                rig.agent._authorize(ROLES[role], "Agent", method)
                found.add(method)
            except NotAllowed:
                pass
        return found

    assert allowed() == ({"enrol", "info", "ping"} if role == "driver" else set()), "before enrolment"
    rig.enrol()
    assert allowed() == ALLOWED[role]


def test_workers_of_another_name_or_with_an_index_in_use_are_refused(rig):
    rig.enrol()
    with pytest.raises(ConfigError, match="not a worker of"):
        rig.agent.start_workers([rig.spec(0, machine="m1")])
    rig.start()
    with pytest.raises(ConfigError, match="runs already"):
        rig.start()
    rig.workers.exit()
    rig.start()


def test_workers_that_cannot_start_do_not_hold_up_the_end(rig):
    rig.enrol()
    with pytest.raises(ConfigError, match="No such file"):
        rig.start(cwd="/missing")
    rig.agent.end(Cause.SHUTDOWN, "it was shut down")
    rig.agent.tick()
    assert rig.finished == 1


def test_an_ending_machine_starts_no_workers(rig):
    rig.enrol()
    rig.agent.end(Cause.SHUTDOWN, "it was shut down")
    with pytest.raises(NotAllowed, match="ending"):
        rig.start()


def test_watch_returns_at_once_with_news_and_otherwise_when_there_are_some(rig):
    rig.enrol()
    report = rig.agent.watch(0, 0, 60.0)
    threading.Timer(0.05, lambda: rig.agent.wrote("w0", "o", b"x")).start()
    report = rig.agent.watch(report.next_offset, report.version, 60.0)
    assert [record.data for record in report.records] == [b"x"]
    threading.Timer(0.05, rig.start).start()
    report = rig.agent.watch(report.next_offset, report.version, 60.0)
    assert [status.state for status in report.workers] == [STARTING]
    assert rig.agent.watch(report.next_offset, report.version, 0.01).version == report.version


def test_a_log_disk_that_fails_is_said_in_the_log(tmp_path):
    rig = Rig(str(tmp_path / "gone"))
    rig.agent.wrote("w0", "o", b"x")
    rig.agent.wrote("w0", "o", b"y")
    records = rig.agent.watch(0, 0, 0.0).records
    assert [record.source for record in records] == ["w0", "agent", "w0"]
    assert b"kept in memory only" in records[1].data
    rig.agent.server.close()


EVENTS = st.lists(
    st.sampled_from(["enrol", "keepalive", "start", "exit", "shutdown", "exit()", "release", "turn", "parent", "far"]),
    max_size=12,
)


@settings(max_examples=50)
@given(EVENTS)
def test_whatever_happens_a_machine_ends_once_and_within_its_lifetime(events):
    """No order of calls, deaths and silences leaves an agent behind."""
    rig = Rig()
    procs = itertools.count()
    started: list[int] = []
    for event in events:
        try:
            if event == "enrol":
                rig.enrol()
            elif event == "keepalive":
                rig.agent.keepalive(60.0)
            elif event == "start":
                proc = next(procs)
                rig.agent.start_workers([rig.spec(proc)])
                started.append(proc)
            elif event == "exit" and started:
                rig.workers.exit(started.pop())
            elif event == "shutdown":
                rig.agent.end(Cause.SHUTDOWN, "it was shut down", grace=1.0, linger=30.0)
            elif event == "exit()":
                rig.agent.exit()
            elif event == "release":
                rig.agent.release()
            elif event == "parent":
                rig.agent.end(Cause.DRIVER, "the driver ended")
            rig.turn({"turn": 30.0, "far": 2000.0}.get(event, 0.0))
        except (NotAllowed, ConfigError):
            pass
    assert rig.finished <= 1
    for _ in range(5):
        rig.turn(LAUNCH.lifetime)
    assert rig.finished == 1
    assert rig.agent.watch(0, 0, 0.0).state == ENDING
    rig.agent.server.close()


def test_statuses_tell_serving_workers_apart(rig):
    rig.enrol()
    rig.start(2)
    rig.agent.worker_changed(WorkerStatus(1, 1001, SERVING))
    assert [status.state for status in rig.agent.watch(0, 0, 0.0).workers] == [STARTING, SERVING]


def test_who_lost_a_call_is_told_of_a_workers_death_as_soon_as_the_agent_knows(rig):
    rig.enrol()
    rig.start(2)
    assert (rig.agent.info().cause, rig.agent.info(0.01).deaths) == ("", 0)
    later = threading.Timer(0.05, rig.workers.exit, (1,))
    later.start()
    info = rig.agent.info(20.0)
    assert (info.cause, info.deaths) == ("exit", 1)
    rig.agent.end(Cause.SHUTDOWN, "it was shut down")
    assert rig.agent.info(20.0).cause == "exit", "what began it"
    later.join()


def test_a_worker_that_is_started_anew_is_no_end_of_its_machine(rig):
    rig.enrol()
    rig.start(1, restart=True)
    rig.workers.exit(0)
    info = rig.agent.info(20.0)
    assert (info.cause, info.deaths) == ("", 1)
    rig.start(1, restart=True)
    assert [status.state for status in rig.agent.watch(0, 0, 0.0).workers] == [STARTING]
    rig.agent.end(Cause.LEASE, "the driver did not renew its lease in time")
    assert rig.agent.info(20.0, deaths=1).cause == "lease"
