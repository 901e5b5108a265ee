from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import bigm
from bigm import Cause, MachineStopped, State
from bigm.errors import BigmError, ConfigError, NotSupported, Unreachable, WireError
from bigm.testing import Faults, InProcess, ManualClock
from cluster_services import Counter, SetUp
from waiting import eventually

SERVICES = {"C": Counter(), "S": SetUp()}


@pytest.fixture
def faults() -> Faults:
    return Faults(7)


@pytest.fixture
def cluster(faults: Faults) -> Iterator[bigm.Cluster]:
    with bigm.start(InProcess(network=faults), name="faults") as cluster:
        yield cluster
        faults.heal()


def start(cluster: bigm.Cluster, n: int, services: dict[str, Any] = SERVICES) -> list[bigm.Machine]:
    machines = cluster.start(n, services=services)
    cluster.wait(machines, timeout=30.0)
    return machines


def stopped(machine: bigm.Machine) -> MachineStopped:
    with pytest.raises(MachineStopped) as caught:
        machine.wait(State.STOPPED, timeout=10.0)
    return caught.value


# --- machines


def test_a_killed_machine_stops_its_calls_at_once_and_leaves_the_others_alone(
    cluster: bigm.Cluster, faults: Faults
) -> None:
    first, second = start(cluster, 2)
    call = first.submit("C.until_cancelled", 30.0)
    eventually(lambda: first.in_flight == 1)
    began = time.monotonic()
    assert faults.kill(first) == "m0"
    with pytest.raises(MachineStopped, match="its agent is gone: killed"):
        call.result(10.0)
    assert time.monotonic() - began < 10.0
    assert first.cause is Cause.AGENT_LOST
    assert second.call("C.add") == 1


def test_a_machine_out_of_memory_stops_with_that_cause_and_the_sentence_of_a_real_one(
    cluster: bigm.Cluster, faults: Faults
) -> None:
    (machine,) = start(cluster, 1)
    call = machine.submit("C.until_cancelled", 30.0)
    eventually(lambda: machine.in_flight == 1)
    faults.run_out_of_memory(machine)
    with pytest.raises(MachineStopped) as caught:
        call.result(10.0)
    assert caught.value.cause == "memory"
    assert "the kernel killed a worker for want of memory: worker 0" in str(caught.value)
    assert machine.cause is Cause.MEMORY


def test_a_machine_that_vanishes_while_it_starts_fails_its_start_with_the_reason(
    cluster: bigm.Cluster, faults: Faults
) -> None:
    faults.partition()  # so that it cannot have started
    (machine,) = cluster.start(1, services=SERVICES)
    faults.kill("m0")
    with pytest.raises(BigmError, match="killed"):
        machine.wait(timeout=30.0)


# --- a machine that is taken away


class Warned:
    """Notes what it is told."""

    told: list[float] = []  # of the class: machines in process share it

    def preempted(self, seconds: float) -> None:
        self.told.append(seconds)

    def ping(self) -> None:
        pass


def test_an_announced_end_is_heard_by_driver_and_services_and_then_comes(cluster: bigm.Cluster, faults: Faults) -> None:
    Warned.told.clear()
    (machine,) = start(cluster, 1, {"W": Warned()})
    heard: list[tuple[bigm.Machine, float]] = []
    machine.on_preempt(lambda *args: heard.append(args))
    faults.preempt(machine, notice=1.0)
    eventually(lambda: heard and Warned.told)
    assert heard[0][0] is machine
    assert 0.0 < heard[0][1] <= 1.0
    assert 0.0 < Warned.told[0] <= 1.0
    error = stopped(machine)
    assert error.cause == "gone"
    assert "the system took it back, as it had announced" in str(error)


def test_an_announced_end_comes_when_the_clock_is_turned_to_it_and_not_before() -> None:
    clock, faults = ManualClock(), Faults(7)
    with bigm.start(InProcess(clock=clock, network=faults)) as cluster:
        (machine,) = start(cluster, 1)
        heard = threading.Event()
        machine.on_preempt(lambda *_: heard.set())
        faults.preempt(machine, notice=120.0)
        assert heard.wait(10.0)
        late: list[float] = []
        machine.on_preempt(lambda _, seconds: late.append(seconds))
        assert 100.0 < late[0] <= 120.0, "who comes late is told at once"
        clock.turn(119.0)
        assert machine.call("C.add") == 1
        clock.turn(1.0)
        assert stopped(machine).cause == "gone"


def test_a_method_called_preempted_is_not_for_callers(cluster: bigm.Cluster) -> None:
    (machine,) = start(cluster, 1, {"W": Warned()})
    with pytest.raises(bigm.NoSuchMethod):
        machine.call("W.preempted", 1.0)


def test_a_callback_that_raises_is_shown_and_holds_up_nothing(
    cluster: bigm.Cluster, faults: Faults, capsys: pytest.CaptureFixture[str]
) -> None:
    (machine,) = start(cluster, 1)
    heard = threading.Event()
    machine.on_preempt(lambda *_: int("x"))
    machine.on_preempt(lambda *_: heard.set())
    faults.preempt(machine, notice=100.0)
    assert heard.wait(10.0)
    shown = ""

    def said() -> bool:
        nonlocal shown
        shown += capsys.readouterr().err
        return "on_preempt failed: ValueError" in shown

    eventually(said)
    assert machine.call("C.add") == 1


# --- connections


def test_a_dropped_connection_is_made_anew_and_its_machine_lives_on(cluster: bigm.Cluster, faults: Faults) -> None:
    (machine,) = start(cluster, 1)
    assert machine.call("C.add") == 1
    faults.drop(machine)
    assert machine.options(idempotent=True).call("C.echo", 1) == (1, {})
    assert machine.call("C.add") == 2
    assert machine.state is State.RUNNING


def test_a_call_on_a_dropped_connection_may_have_run_and_says_so(cluster: bigm.Cluster, faults: Faults) -> None:
    (machine,) = start(cluster, 1)
    call = machine.submit("C.until_cancelled", 30.0)
    eventually(lambda: machine.in_flight == 1)
    machine.call("C.add")  # the first one is there, then
    faults.drop(machine)
    with pytest.raises(bigm.MayHaveRun):
        call.result(10.0)


def test_a_partition_refuses_calls_until_it_is_healed(cluster: bigm.Cluster, faults: Faults) -> None:
    first, second = start(cluster, 2)
    faults.partition(first)
    with pytest.raises(Unreachable, match="partition between driver and m0"):
        first.options(idempotent=True).call("C.add")  # else one that finds the connection dead may have run
    assert second.call("C.add") == 1
    faults.heal()
    assert first.call("C.add") == 1


def test_a_partition_between_machines_leaves_the_driver_alone(cluster: bigm.Cluster, faults: Faults) -> None:
    first, second = start(cluster, 2)
    assert first.call("S.ask", second.addr, "C.add") == 1
    faults.partition(first, second)
    with pytest.raises(bigm.ServiceError, match="partition between m0 and m1"):
        first.call("S.ask_idempotent", second.addr, "C.add")
    assert second.call("C.add") == 2
    faults.heal(first, second)
    assert first.call("S.ask", second.addr, "C.add") == 3


def test_a_silent_partition_lets_calls_hang_and_what_it_held_back_arrives_when_it_is_healed(
    cluster: bigm.Cluster, faults: Faults
) -> None:
    (machine,) = start(cluster, 1)
    machine.call("C.add")
    faults.partition(machine, silent=True)
    held = machine.submit("C.add")
    with pytest.raises(bigm.DeadlineExceeded):
        machine.options(timeout=0.2).call("C.add")
    assert not held.done()
    faults.heal(machine)
    assert held.result(10.0) == 2


def test_a_lease_is_lost_behind_a_partition_when_the_clock_is_turned_past_it() -> None:
    clock, faults = ManualClock(), Faults(7)
    with bigm.start(InProcess(clock=clock, network=faults)) as cluster:
        first, second = start(cluster, 2)
        faults.partition(first)
        clock.turn(59.0)
        assert first.state is State.RUNNING
        clock.turn(1.0)
        assert (first.state, first.cause) == (State.STOPPED, Cause.LEASE)
        with pytest.raises(MachineStopped, match="the driver did not renew its lease in time"):
            first.call("C.add")
        assert second.call("C.add") == 1
        clock.turn(3600.0)
        assert second.state is State.RUNNING


def test_a_partition_that_is_healed_in_time_costs_no_machine() -> None:
    clock, faults = ManualClock(), Faults(7)
    with bigm.start(InProcess(clock=clock, network=faults)) as cluster:
        (machine,) = start(cluster, 1)
        faults.partition(machine)
        clock.turn(50.0)
        faults.heal(machine)
        clock.turn(600.0)
        assert machine.call("C.add") == 1


def test_bytes_that_are_delayed_arrive_later_and_whole(cluster: bigm.Cluster, faults: Faults) -> None:
    (machine,) = start(cluster, 1)
    machine.call("C.add")
    payload = bytes(range(256)) * 4096
    faults.slow(machine, 0.2)
    began = time.monotonic()
    assert machine.call("C.echo", payload)[0] == payload
    assert time.monotonic() - began >= 0.2
    faults.slow(machine, 0.0)
    assert machine.call("C.echo", payload)[0] == payload


def test_machines_start_and_answer_although_each_attempt_to_connect_arrives_twice(
    cluster: bigm.Cluster, faults: Faults
) -> None:
    faults.duplicate()
    first, second = start(cluster, 2)
    assert [first.call("C.add"), second.call("C.add")] == [1, 1]
    assert first.call("S.ask", second.addr, "C.add") == 2


def test_flaky_connections_are_cut_by_the_seed_and_machines_start_all_the_same(
    cluster: bigm.Cluster, faults: Faults
) -> None:
    faults.flaky(0.5)
    (machine,) = cluster.start(1, services=SERVICES)
    cluster.wait(timeout=60.0)
    faults.flaky(0.0)
    assert machine.retry_call("C.echo", 1) == (1, {})


# --- the seed


def history_of(seed: int) -> list[str]:
    """Of one program: strikes between calls that may fail."""
    faults = Faults(seed)
    with bigm.start(InProcess(network=faults), timeouts={"verdict": 0.1}) as cluster:
        machines = start(cluster, 3)
        for _ in range(6):
            faults.strike(["drop", "partition", "heal", "kill"])
            for machine in machines:
                try:
                    machine.options(timeout=5.0).call("C.echo", 1)
                except WireError:
                    pass
        faults.heal()
        faults.kill()
        return faults.history


def test_the_same_seed_gives_the_same_history_and_another_one_another() -> None:
    assert history_of(1) == history_of(1)
    assert history_of(1) != history_of(2)


def test_the_fate_of_a_connection_depends_on_its_number_alone() -> None:
    def fates(seed: int) -> list[str]:
        faults = Faults(seed)
        with bigm.start(InProcess(network=faults)) as cluster:
            start(cluster, 2)
            faults.flaky(1.0, "m1")
            for machine in reversed(cluster.machines):
                faults.drop(machine)
            for machine in cluster.machines:
                machine.options(idempotent=True, timeout=20.0).call("C.echo", 1)
            return faults.history

    first = fates(3)
    assert any(line.startswith("driver to m1, connection ") for line in first)
    assert not any(line.startswith("driver to m0, connection ") for line in first)
    numbered = {line.partition(":")[0]: line for line in first}
    again = {line.partition(":")[0]: line for line in fates(3)}
    assert [line for key, line in numbered.items() if again.get(key, line) != line] == []


def test_a_storm_strikes_as_the_clock_is_turned_and_repeats() -> None:
    def storm() -> list[str]:
        clock, faults = ManualClock(), Faults(11)
        with bigm.start(InProcess(clock=clock, network=faults)) as cluster:
            start(cluster, 2)
            faults.storm(1 / 60, ["drop", "heal"])
            clock.turn(600.0)
            return faults.history

    assert len(storm()) > 3
    assert storm() == storm()


# --- mistakes


def test_a_machine_that_there_is_not_is_named_with_those_there_are(cluster: bigm.Cluster, faults: Faults) -> None:
    start(cluster, 2)
    for act in (faults.kill, faults.run_out_of_memory, faults.preempt, faults.drop, faults.partition):
        with pytest.raises(ConfigError, match=r"no machine 'm7'; there are m0, m1"):
            act("m7")
    assert faults.history == []


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda faults: faults.partition("m0", "m0"), "two parties, not 'm0' twice"),
        (lambda faults: faults.delay(-1.0), "a delay of -1.0 s"),
        (lambda faults: faults.preempt("m0", notice=-1.0), "notice of -1.0 s"),
        (lambda faults: faults.flaky(1.5), "1.5 is no probability"),
        (lambda faults: faults.strike(["fire"]), "no fault 'fire'; there are drop"),
        (lambda faults: faults.strike([]), "no fault"),
        (lambda faults: faults.storm(1.0), "a storm needs a clock that is turned"),
        (lambda faults: faults.run_out_of_memory("m0", proc=3), "no worker 3"),
    ],
)
def test_what_cannot_be_is_refused(cluster: bigm.Cluster, faults: Faults, act: Any, said: str) -> None:
    start(cluster, 1)
    with pytest.raises(ConfigError, match=said):
        act(faults)


@pytest.mark.parametrize(("rate", "kinds", "said"), [(0.0, ["drop"], "none"), (1.0, ["fire"], "no fault 'fire'")])
def test_a_storm_that_cannot_be_is_refused_before_it_begins(rate: float, kinds: list[str], said: str) -> None:
    faults = Faults()
    with bigm.start(InProcess(clock=ManualClock(), network=faults)), pytest.raises(ConfigError, match=said):
        faults.storm(rate, kinds)
    assert faults.history == []


def test_a_silent_partition_and_a_turned_clock_do_not_go_together() -> None:
    faults = Faults()
    with bigm.start(InProcess(clock=ManualClock(), network=faults)) as cluster:
        start(cluster, 1)
        with pytest.raises(ConfigError, match="not with a turned clock"):
            faults.partition("m0", silent=True)


def test_faults_without_machines_in_process_say_what_they_need() -> None:
    with pytest.raises(NotSupported, match="partition needs a cluster that uses it"):
        Faults().partition("m0")
    with pytest.raises(ConfigError, match="no machine to kill"):
        Faults().kill()


def test_one_faults_serves_one_cluster() -> None:
    faults = Faults()
    with bigm.start(InProcess(network=faults)), pytest.raises(ConfigError, match="one Faults serves one cluster"):
        bigm.start(InProcess(network=faults))


def test_on_local_a_kill_is_a_real_one_and_other_faults_are_refused() -> None:
    faults = Faults(5)
    with bigm.start("local") as cluster:
        faults.watch(cluster)
        (machine,) = start(cluster, 1)
        with pytest.raises(NotSupported, match="partition needs machines in process"):
            faults.partition(machine)
        assert faults.kill() == machine.id
        assert stopped(machine).cause == "agent-lost"
        assert "killed by signal 9" in str(machine.error)


def test_on_local_a_machine_that_has_just_been_started_can_be_killed() -> None:
    faults = Faults(5)
    with bigm.start("local") as cluster:
        faults.watch(cluster)
        [machine] = cluster.start(1, services={"C": Counter()})
        assert faults.kill(machine) == machine.id
        assert stopped(machine).cause == "agent-lost"


def test_on_local_a_machine_that_ends_before_it_was_known_is_as_good_as_killed() -> None:
    faults = Faults(5)
    with bigm.start("local") as cluster:
        faults.watch(cluster)
        [machine] = cluster.start(1, services={"C": Counter()})
        ending = threading.Timer(0.05, machine.cancel)
        ending.start()
        assert faults.kill(machine) == machine.id
        assert machine.state is State.STOPPED
        ending.join()
