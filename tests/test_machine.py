from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bigm
from bigm import Cause, State
from cluster_services import Counter, Mortal, SetUp, SlowSetup
from waiting import eventually


@pytest.fixture(scope="module")
def cluster() -> Iterator[bigm.Cluster]:
    with bigm.start(name="machines") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def machine(cluster: bigm.Cluster) -> bigm.Machine:
    [machine] = cluster.start(1, services={"C": Counter(), "S": SetUp()})
    machine.wait(timeout=30.0)
    return machine


@pytest.fixture(scope="module")
def mortals(cluster: bigm.Cluster) -> list[bigm.Machine]:
    """As many as the tests below use up; started together, which is quicker."""
    return cluster.start(6, services={"M": Mortal()})


@pytest.fixture
def mortal(mortals: list[bigm.Machine]) -> bigm.Machine:
    machine = mortals.pop()
    machine.wait(timeout=30.0)
    return machine


def test_a_running_machine_says_what_it_is(machine: bigm.Machine) -> None:
    assert machine.state is State.RUNNING
    assert machine.error is None
    assert machine.addr.endswith(f"/{machine.id}")
    assert machine.hostname == socket.gethostname()
    assert (machine.owned, machine.procs, machine.maxprocs) == (True, 1, 1)
    assert machine.addr in repr(machine)
    assert "RUNNING" in repr(machine)


def test_a_service_is_one_object_that_keeps_its_state(machine: bigm.Machine) -> None:
    before = machine.call("C.add", 0)
    assert machine.call("C.add") == before + 1
    assert machine.call("C.add", n=2) == before + 3


def test_a_call_takes_all_arguments_for_the_method_whatever_their_names(machine: bigm.Machine) -> None:
    assert machine.call("C.echo", 1, timeout=2, method=3) == (1, {"timeout": 2, "method": 3})


def test_the_exception_of_a_method_is_raised_as_itself_and_names_the_machine(machine: bigm.Machine) -> None:
    with pytest.raises(ValueError, match="thirteen") as caught:
        machine.call("C.fail", "thirteen")
    assert machine.id in str(caught.value.__cause__)


def test_the_options_of_a_view_hold_for_its_calls_alone(machine: bigm.Machine) -> None:
    hurried = machine.options(timeout=0.1)
    with pytest.raises(bigm.DeadlineExceeded):
        hurried.call("C.sleep", 0.5)
    assert machine.call("C.sleep", 0.15) == 0.15


def test_a_submitted_call_is_a_future_and_cancelling_it_reaches_the_method(machine: bigm.Machine) -> None:
    assert machine.submit("C.echo", 5).result(10.0) == (5, {})
    call = machine.submit("C.until_cancelled", 30.0)
    assert not call.done()
    assert call.cancel()
    started = time.monotonic()
    eventually(lambda: machine.in_flight == 0)
    assert time.monotonic() - started < 10.0


def test_an_awaited_call_returns_and_raises_as_a_synchronous_one(machine: bigm.Machine) -> None:
    async def main() -> list[object]:
        return await asyncio.gather(
            *(machine.acall("C.echo", n) for n in range(10)), machine.acall("C.fail", "x"), return_exceptions=True
        )

    *answers, error = asyncio.run(main())
    assert answers == [(n, {}) for n in range(10)]
    assert isinstance(error, ValueError)


def test_a_function_with_an_import_path_runs_there_with_its_arguments(machine: bigm.Machine) -> None:
    assert machine.run(os.getpid) == machine.call("C.pid")
    assert machine.run(divmod, 7, 2) == (3, 1)
    assert machine.run(dict, timeout=1, function=2) == {"timeout": 1, "function": 2}
    assert machine.options(timeout=10.0, proc=0).run(Counter(3).add, 4) == 7


def test_a_function_raises_its_own_exception_with_the_traceback_from_there(machine: bigm.Machine) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        machine.run(divmod, 1, 0)
    assert machine.id in str(caught.value.__cause__)


def test_functions_are_also_submitted_and_awaited(machine: bigm.Machine) -> None:
    assert machine.submit("Functions.run", divmod, 7, 2).result(10.0) == (3, 1)
    assert asyncio.run(machine.acall("Functions.run", divmod, 7, 2)) == (3, 1)


def test_what_is_no_function_is_not_sent(machine: bigm.Machine) -> None:
    with pytest.raises(bigm.ConfigError, match=r"'C\.pid', which is no function"):
        machine.run("C.pid")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["1", -1, float("nan"), True, [1.0]])
def test_what_is_no_timeout_is_refused_wherever_one_is_given(
    cluster: bigm.Cluster, machine: bigm.Machine, wrong: Any
) -> None:
    ways: list[Callable[[], object]] = [
        lambda: machine.options(timeout=wrong),
        lambda: machine.wait(timeout=wrong),
        lambda: asyncio.run(machine.await_state(timeout=wrong)),
        lambda: cluster.wait(timeout=wrong),
        lambda: asyncio.run(cluster.await_state(timeout=wrong)),
        lambda: cluster.gather([], timeout=wrong),
        lambda: cluster.first([], timeout=wrong),
        lambda: cluster.shutdown([], timeout=wrong),
    ]
    for way in ways:
        with pytest.raises(bigm.ConfigError, match="a timeout is 0 seconds or more"):
            way()


def named(n: int) -> int:
    return n


def ways_to_call(machine: bigm.Machine) -> dict[str, Callable[[Any], Any]]:
    return {
        "call": lambda method: machine.call(method, 3),
        "submit": lambda method: machine.submit(method, 3),
        "acall": lambda method: asyncio.run(machine.acall(method, 3)),
        "stream": lambda method: machine.stream(method, 3),
        "astream": lambda method: machine.astream(method, 3),
        "read": lambda method: machine.read(method, 3),
        "write": lambda method: machine.write(method, io.BytesIO(b"x")),
        "broadcast": lambda method: machine.broadcast(method, 3),
    }


@pytest.mark.parametrize("way", ["call", "submit", "acall", "stream", "astream", "read", "write", "broadcast"])
def test_a_call_of_something_else_than_a_name_says_what_it_takes(machine: bigm.Machine, way: str) -> None:
    call = ways_to_call(machine)[way]
    run = "machine.run(named, ...)" if way == "call" else f'machine.{way}("Functions.run", named, ...)'
    with pytest.raises(bigm.CallError, match=f'{way} takes "Service.method", not the function named') as function:
        call(named)
    assert run in str(function.value)
    with pytest.raises(bigm.CallError, match=f'{way}\\("C.add", ...\\)'):
        call(machine.service("C", Counter).add)
    with pytest.raises(bigm.CallError, match=f'{way} takes "Service.method", not 7'):
        call(7)


def test_a_name_without_a_service_is_told_the_form_of_names(machine: bigm.Machine) -> None:
    with pytest.raises(bigm.NoSuchMethod, match=r'nothing on m0: .*calls take "Service.method"'):
        machine.call("nothing")
    with pytest.raises(bigm.NoSuchMethod, match=r"did you mean C\.add"):
        machine.call("add")


def test_a_function_that_cannot_be_pickled_is_named(machine: bigm.Machine) -> None:
    with pytest.raises(bigm.NotPicklable, match=r"argument 1\.__self__\.value: .*lock"):
        machine.run(Counter(threading.Lock()).add)  # type: ignore[arg-type]


def test_machines_may_run_functions_for_one_another(cluster: bigm.Cluster, machine: bigm.Machine) -> None:
    [other] = cluster.start(1, services={"C": Counter()})
    pid = other.call("C.pid")
    assert machine.call("S.ask", other.addr, "Functions.run", os.getpid) == pid
    other.cancel()


@pytest.mark.parametrize("system", ["local", "inprocess"])
def test_a_machine_without_services_runs_functions(system: str) -> None:
    with bigm.start(system, name="bare") as bare:
        [machine] = bare.start(1)
        assert machine.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(bigm.NoSuchMethod, match="there are Functions, Shares, Supervisor"):
            machine.call("C.pid")


def test_a_typed_handle_calls_submits_and_awaits(machine: bigm.Machine) -> None:
    counter = machine.service("C", Counter)
    assert counter.echo(1, b=2) == (1, {"b": 2})
    assert counter.echo.submit(1).result(10.0) == (1, {})  # type: ignore[attr-defined]
    assert asyncio.run(counter.echo.acall(1)) == (1, {})  # type: ignore[attr-defined]


def test_a_typed_handle_knows_its_methods_and_names_the_nearest(machine: bigm.Machine) -> None:
    handle = machine.service("C", Counter)
    with pytest.raises(AttributeError, match="'echo'"):
        handle.ecko  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(handle, "_secret")


def test_a_typed_handle_offers_no_properties(machine: bigm.Machine) -> None:
    class Sized:
        size = property(lambda self: 0)

        def grow(self) -> None: ...

    with pytest.raises(AttributeError, match=r"it has grow$"):
        machine.service("C", Sized).zzz  # type: ignore[attr-defined]  # noqa: B018


def test_a_dead_deadline_does_not_wait_for_retries(machine: bigm.Machine) -> None:
    assert machine.options(timeout=5.0).retry_call("C.echo", 1) == (1, {})  # type: ignore[attr-defined]
    with pytest.raises(bigm.NoSuchMethod):
        machine.retry_call("C.nothing")


def test_memory_disk_and_load_are_the_machines(machine: bigm.Machine) -> None:
    assert 0 < machine.memory().used <= machine.memory().limit
    assert 0 < machine.disk().free <= machine.disk().total
    assert len(machine.load()) == 3


def test_statistics_count_the_calls_made_from_here(machine: bigm.Machine) -> None:
    before = machine.statistics().get("C.pid")
    machine.call("C.pid")
    machine.submit("C.pid").result(10.0)
    assert machine.statistics()["C.pid"].count == (before.count if before else 0) + 2


def test_the_lease_is_renewed_and_shows_it(machine: bigm.Machine) -> None:
    eventually(lambda: machine.keepalive_times, 10.0, "no renewal was answered")
    assert all(0 < seconds < 10 for seconds in machine.keepalive_times)
    assert 0 <= machine.next_keepalive <= 5.0


def test_a_ping_is_answered_by_the_agent_while_the_worker_holds_its_gil(mortal: bigm.Machine) -> None:
    held = mortal.submit("M.hold_gil", 1.0)
    assert mortal.ping() < 1.0
    assert not held.done()
    held.result(10.0)


def test_setup_is_given_the_cluster_as_this_machine_sees_it(cluster: bigm.Cluster, machine: bigm.Machine) -> None:
    assert machine.call("S.place") == (machine.id, machine.addr, 0, 1, cluster.name)


def test_wait_returns_at_a_later_state_and_gives_up_at_its_timeout(machine: bigm.Machine) -> None:
    machine.wait(State.STARTING)
    with pytest.raises(bigm.DeadlineExceeded, match="still RUNNING"):
        machine.wait(State.STOPPED, timeout=0.05)


def test_calls_made_before_running_wait_for_it(cluster: bigm.Cluster) -> None:
    [machine] = cluster.start(1, services={"A": SlowSetup(0.5)})
    assert machine.state is State.STARTING
    submitted = machine.submit("A.answer")
    assert not submitted.done()

    async def awaited() -> object:
        return await machine.acall("A.answer")

    with pytest.raises(bigm.DeadlineExceeded):
        machine.options(timeout=0.01).call("A.answer")
    assert asyncio.run(awaited()) == 42
    assert machine.state is State.RUNNING
    assert machine.call("A.answer") == submitted.result(10.0) == 42
    machine.cancel()


def test_shutdown_ends_one_machine_and_leaves_the_others(cluster: bigm.Cluster, machine: bigm.Machine) -> None:
    [other] = cluster.start(1, services={"C": Counter()})
    pid = other.call("C.pid")
    pending = other.submit("C.sleep", 60.0)
    other.shutdown()
    with pytest.raises(bigm.MachineStopped) as caught:
        pending.result(10.0)
    assert caught.value.cause == Cause.SHUTDOWN
    assert (other.state, other.cause, other.error) == (State.STOPPED, Cause.SHUTDOWN, None)
    other.wait(State.RUNNING)  # it was told to stop: that is no error
    assert not os.path.exists(f"/proc/{pid}")
    with pytest.raises(bigm.MachineStopped):
        other.call("C.pid")
    with pytest.raises(bigm.MachineStopped):
        other.memory()
    other.shutdown()
    assert machine.call("C.echo") == ({},)
    assert other not in cluster.machines
    assert machine in cluster.machines


@pytest.mark.parametrize(
    ("method", "arg", "cause", "words"),
    [
        ("M.exit", 3, Cause.EXIT, "3"),
        ("M.kill", int(signal.SIGKILL), Cause.SIGNAL, "SIGKILL|signal 9"),
        ("M.crash", None, Cause.SIGNAL, "SIGSEGV|signal 11"),
        ("M.kill_agent", None, Cause.AGENT_LOST, "agent"),
    ],
)
def test_a_death_fails_the_call_in_flight_at_once_with_its_cause(
    machine: bigm.Machine, mortal: bigm.Machine, method: str, arg: int | None, cause: Cause, words: str
) -> None:
    waiting = mortal.submit("M.sleep", 60.0)
    started = time.monotonic()
    with pytest.raises(bigm.MachineStopped, match=words) as caught:
        mortal.call(method, *(() if arg is None else (arg,)))
    assert time.monotonic() - started < 2.0
    assert caught.value.cause == cause
    with pytest.raises(bigm.MachineStopped):
        waiting.result(10.0)
    with pytest.raises(bigm.MachineStopped):
        mortal.call("M.pid")
    with pytest.raises(bigm.MachineStopped):
        mortal.wait()
    assert machine.call("C.echo") == ({},)


def test_cancel_does_not_wait_and_leaves_nothing(mortal: bigm.Machine) -> None:
    pid = mortal.call("M.pid")
    mortal.cancel()
    assert mortal.state is State.STOPPED
    assert mortal.cause is Cause.CANCELLED
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), 10.0, "the worker lives")


def test_a_machine_dialled_by_another_address_is_not_owned(cluster: bigm.Cluster, machine: bigm.Machine) -> None:
    assert cluster.dial(machine.addr) is machine
    other = cluster.dial(machine.addr.replace("127.0.0.1", "localhost"))
    assert other is cluster.dial(other.addr)
    other.wait(State.RUNNING, timeout=10.0)
    assert other.call("C.pid") == machine.call("C.pid")
    assert not other.owned
    with pytest.raises(bigm.ConfigError, match="not owned"):
        other.shutdown()


def test_a_dialled_machine_that_long_has_not_answered_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as nobody, bigm.start(timeouts={"lease": 0.3, "renewal": 0.05}) as cluster:
        nobody.bind(("127.0.0.1", 0))  # and nobody listens there
        machine = cluster.dial(f"127.0.0.1:{nobody.getsockname()[1]}/m9")
        with pytest.raises(bigm.MachineStopped, match="its agent is gone"):
            machine.wait(State.STOPPED, timeout=10.0)
        assert machine.cause is Cause.AGENT_LOST
        with pytest.raises(bigm.MachineStopped):
            machine.options(timeout=10.0).call("C.pid")
    assert caplog.text == ""


def test_a_function_by_value_names_the_module_that_its_machine_lacks(
    machine: bigm.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onlyhere.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)  # after the machine has started
    import onlyhere  # type: ignore[import-not-found]

    with pytest.raises(bigm.NotPicklable, match=r"cannot be rebuilt on m0: ModuleNotFoundError: .*'onlyhere'"):
        machine.run(lambda: onlyhere.answer)
