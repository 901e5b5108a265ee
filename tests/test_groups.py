from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

import bigm
from bigm.groups import agather, first, gather
from bigm.session import exit_status, is_plain
from cluster_services import Counter, SetUp
from waiting import eventually


class Shards(Counter):
    """Counts what runs here, so that a test sees a cancelled call end."""

    def __init__(self) -> None:
        super().__init__()
        self.running = 0

    def hold(self, seconds: float) -> bool:
        """Wait until cancelled."""
        self.running += 1
        try:
            return bigm.current_call().wait_cancelled(seconds)
        finally:
            self.running -= 1

    def holding(self) -> int:
        return self.running

    def fail_on(self, machine: str, answer: Any = None) -> Any:
        if bigm.current_call() and machine == threading.current_thread().name:
            return answer
        raise ValueError(f"not {machine}")


class Gathering(SetUp):
    """A service that calls other machines in a group."""

    def sum_of(self, addrs: list[str]) -> int:
        return sum(self.cluster.gather(self.cluster.dial(addr).submit("C.add", 2) for addr in addrs))

    def failures_of(self, addrs: list[str]) -> None:
        self.cluster.gather([self.cluster.dial(addr).submit("C.fail", "gathered") for addr in addrs])


SERVICES = {"C": Shards(), "S": Gathering()}


@pytest.fixture(scope="module", params=["inprocess", "local"])
def cluster(request: pytest.FixtureRequest) -> Iterator[bigm.Cluster]:
    with bigm.start(request.param, name="groups") as cluster:
        cluster.wait(cluster.start(3, services=SERVICES), timeout=60.0)
        yield cluster


@pytest.fixture(scope="module")
def pairs() -> Iterator[bigm.Cluster]:
    """Machines with two workers each."""
    with bigm.start("local", name="pairs") as cluster:
        cluster.wait(cluster.start(2, services=SERVICES, procs=2), timeout=60.0)
        yield cluster


def test_gathered_results_are_in_the_order_of_the_calls_whichever_ends_first(cluster: bigm.Cluster) -> None:
    slow, quick, _ = cluster.machines
    calls = [slow.submit("C.sleep", 0.2), quick.submit("C.sleep", 0.0), slow.submit("C.echo", 1)]
    assert cluster.gather(calls) == [0.2, 0.0, (1, {})]
    assert cluster.gather([]) == []


def test_failures_are_told_together_with_their_machines_once_all_calls_have_ended(cluster: bigm.Cluster) -> None:
    m0, m1, m2 = cluster.machines
    calls = [m0.submit("C.fail", "a"), m1.submit("C.sleep", 0.2), m2.submit("C.nothing")]
    with pytest.raises(bigm.GroupError) as caught:
        cluster.gather(calls)
    assert all(call.done() for call in calls)
    said = str(caught.value)
    assert said.startswith(f"2 of 3 calls failed: {m0.id}: ValueError: a; {m2.id}: NoSuchMethod: ")
    assert [type(error) for error in caught.value.exceptions] == [ValueError, bigm.NoSuchMethod]
    assert caught.value.exceptions[0].__cause__.machine == m0.id  # type: ignore[union-attr]


def test_one_failure_is_a_group_too_and_many_are_counted(cluster: bigm.Cluster) -> None:
    [machine, *_] = cluster.machines
    with pytest.raises(bigm.GroupError, match=r"^1 of 1 calls failed: m0: ValueError: x$"):
        cluster.gather([machine.submit("C.fail", "x")])
    with pytest.raises(bigm.GroupError, match=r"^9 of 9 calls failed: (m0: ValueError: x; ){5}and 4 more$"):
        cluster.gather(machine.submit("C.fail", "x") for _ in range(9))


def test_failures_stand_among_the_results_where_that_is_wanted(cluster: bigm.Cluster) -> None:
    [machine, *_] = cluster.machines
    calls = [machine.submit("C.echo"), machine.submit("C.fail", "x")]
    result, error = cluster.gather(calls, return_exceptions=True)
    assert result == ({},)
    assert isinstance(error, ValueError)


def test_an_exception_that_a_method_returns_is_a_result(cluster: bigm.Cluster) -> None:
    [machine, *_] = cluster.machines
    [[error, _]] = cluster.gather([machine.submit("C.echo", ValueError("fine"))])
    assert str(error) == "fine"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_a_group_error_is_an_exception_group_that_can_be_split(cluster: bigm.Cluster) -> None:
    [machine, *_] = cluster.machines
    with pytest.raises(builtins.ExceptionGroup) as caught:  # type: ignore[attr-defined]
        cluster.gather([machine.submit("C.fail", "x"), machine.submit("C.nothing")])
    ours, theirs = caught.value.split(bigm.CallError)
    assert isinstance(ours, bigm.GroupError)
    assert [type(error) for error in theirs.exceptions] == [ValueError]


def test_a_group_error_survives_pickling_with_its_failures() -> None:
    error = pickle.loads(pickle.dumps(bigm.GroupError("1 of 2 calls failed", [ValueError("x")])))
    assert isinstance(error, bigm.GroupError)
    assert (str(error), str(error.exceptions[0])) == ("1 of 2 calls failed", "x")


def test_a_group_of_bigms_own_errors_ends_a_program_with_one_message_and_their_exit_code() -> None:
    lost = bigm.GroupError("2 of 2", [bigm.Unreachable("a"), bigm.MayHaveRun("b")])
    assert (is_plain(lost), exit_status(lost)) == (True, 78)
    mixed = bigm.GroupError("2 of 2", [bigm.Unreachable("a"), ValueError("b")])
    assert (is_plain(mixed), exit_status(mixed)) == (False, 1)


def test_a_timeout_cancels_what_was_not_answered_and_names_where(cluster: bigm.Cluster) -> None:
    quick, slow, _ = cluster.machines
    calls = [quick.submit("C.echo"), slow.submit("C.hold", 60.0)]
    with pytest.raises(bigm.DeadlineExceeded, match=rf"1 of 2 calls .* within 0\.3 s \(on {slow.id}\)"):
        cluster.gather(calls, timeout=0.3)
    assert calls[1].cancelled()
    eventually(lambda: slow.call("C.holding") == 0)


def test_a_cancelled_call_is_a_failure_of_the_group_and_holds_up_nobody(cluster: bigm.Cluster) -> None:
    [machine, *_] = cluster.machines
    call = machine.submit("C.hold", 60.0)
    call.cancel()
    with pytest.raises(bigm.GroupError, match="m0: CancelledError"):
        cluster.gather([call])
    assert concurrent.futures.wait([call], timeout=10.0).not_done == set()
    with pytest.raises(bigm.GroupError, match="1 of 1"):
        cluster.first([call], timeout=10.0)


@pytest.mark.parametrize("wrong", [3, None, "m0"])
def test_what_is_no_call_is_refused_and_the_calls_before_it_are_cancelled(cluster: bigm.Cluster, wrong: object) -> None:
    [machine, *_] = cluster.machines
    call = machine.submit("C.hold", 60.0)
    with pytest.raises(bigm.ConfigError, match=r"machine\.submit"):
        cluster.gather([call, wrong])  # type: ignore[list-item]
    assert call.cancelled()


@pytest.mark.parametrize("wrong", ["several", "one", "a name", "nothing"])
def test_a_group_that_is_no_list_is_told_the_form(cluster: bigm.Cluster, wrong: str) -> None:
    [machine, *_] = cluster.machines
    call = machine.submit("C.echo")
    calls: Any = {"several": (call, call), "one": (call,), "a name": ("C.echo",), "nothing": (None,)}[wrong]
    with pytest.raises(bigm.ConfigError, match=r"gather takes one list of calls.*gather\(\[machine.submit\("):
        cluster.gather(*calls)
    with pytest.raises(bigm.ConfigError, match="first takes one list of calls"):
        cluster.first(*calls)
    assert call.done() or call not in calls


def test_an_awaited_group_that_is_no_list_is_told_the_form(cluster: bigm.Cluster) -> None:
    [machine, *_] = cluster.machines

    async def group(way: Any, count: int) -> None:
        await way(*(machine.acall("C.echo") for _ in range(count)))

    for count in (1, 2):
        with pytest.raises(bigm.ConfigError, match=r"agather takes one list.*agather\(\[machine.acall\("):
            asyncio.run(group(cluster.agather, count))
        with pytest.raises(bigm.ConfigError, match="afirst takes one list"):
            asyncio.run(group(cluster.afirst, count))


def test_the_first_success_is_returned_and_the_other_calls_end_on_their_machines(cluster: bigm.Cluster) -> None:
    bad, slow, quick = cluster.machines
    calls = [bad.submit("C.fail", "x"), slow.submit("C.hold", 60.0), quick.submit("C.sleep", 0.1)]
    assert cluster.first(calls, timeout=30.0) == 0.1
    assert calls[1].cancelled()
    eventually(lambda: slow.call("C.holding") == 0)


def test_the_first_of_calls_that_all_fail_is_their_group(cluster: bigm.Cluster) -> None:
    with pytest.raises(bigm.GroupError, match="3 of 3 calls failed"):
        cluster.first(machine.submit("C.fail", "x") for machine in cluster.machines)


def test_the_first_of_no_calls_is_refused(cluster: bigm.Cluster) -> None:
    with pytest.raises(bigm.ConfigError, match="first of no calls"):
        cluster.first([])
    with pytest.raises(bigm.ConfigError, match="first of no calls"):
        asyncio.run(cluster.afirst([]))


def test_a_call_to_a_machine_that_is_still_starting_can_be_cancelled(cluster: bigm.Cluster) -> None:
    [running, *_] = cluster.machines
    [starting] = cluster.start(1, services=SERVICES)
    calls = [starting.submit("C.hold", 60.0), running.submit("C.echo")]
    assert cluster.first(calls, timeout=30.0) == ({},)
    starting.wait(timeout=60.0)
    assert eventually(lambda: starting.call("C.holding") == 0)
    assert concurrent.futures.wait(calls, timeout=10.0).not_done == set()
    starting.shutdown()


def test_awaited_groups_take_coroutines_and_futures_and_fail_alike(cluster: bigm.Cluster) -> None:
    m0, m1, m2 = cluster.machines

    async def main() -> None:
        calls = [m0.acall("C.sleep", 0.1), m1.submit("C.echo", 1)]
        assert await cluster.agather(calls) == [0.1, (1, {})]
        with pytest.raises(bigm.GroupError, match="2 of 3 calls failed: m0: ValueError: x; m2: NoSuchMethod"):
            await cluster.agather([m0.acall("C.fail", "x"), m1.acall("C.echo"), m2.submit("C.nothing")])
        found = await cluster.agather([m0.acall("C.fail", "x")], return_exceptions=True)
        assert isinstance(found[0], ValueError)
        assert await cluster.afirst([m0.acall("C.fail", "x"), m1.acall("C.hold", 60.0), m2.acall("C.echo")]) == ({},)
        with pytest.raises(bigm.GroupError, match="3 of 3"):
            await cluster.afirst(machine.acall("C.fail", "x") for machine in cluster.machines)
        with pytest.raises(bigm.ConfigError, match=r"machine\.acall"):
            await cluster.agather([3])  # type: ignore[list-item]

    asyncio.run(main())
    eventually(lambda: m1.call("C.holding") == 0)


@pytest.mark.parametrize("how", ["agather", "afirst"])
def test_cancelling_an_awaited_group_cancels_its_calls_on_the_machines(cluster: bigm.Cluster, how: str) -> None:
    m0, m1, _ = cluster.machines

    async def main() -> None:
        group = asyncio.ensure_future(getattr(cluster, how)([m0.acall("C.hold", 60.0), m1.submit("C.hold", 60.0)]))
        while (await m0.acall("C.holding"), await m1.acall("C.holding")) != (1, 1):
            await asyncio.sleep(0.01)
        group.cancel()
        with pytest.raises(asyncio.CancelledError):
            await group

    asyncio.run(main())
    eventually(lambda: (m0.call("C.holding"), m1.call("C.holding")) == (0, 0))


def test_a_broadcast_reaches_every_worker_of_a_machine_in_their_order(pairs: bigm.Cluster) -> None:
    machine = pairs.machines[0]
    places = machine.broadcast("S.place")
    assert [place[2] for place in places] == [0, 1]
    assert machine.options(proc=1).broadcast("S.place") == [places[1]]


def test_a_clusters_broadcast_reaches_all_workers_and_tells_by_machine(pairs: bigm.Cluster) -> None:
    answers = pairs.broadcast("S.place")
    assert list(answers) == pairs.machines
    for machine, places in answers.items():
        assert [(place[0], place[2]) for place in places] == [(machine.id, 0), (machine.id, 1)]
    assert asyncio.run(pairs.abroadcast("S.place")) == answers


def test_a_broadcast_that_fails_somewhere_says_on_which_workers(pairs: bigm.Cluster) -> None:
    with pytest.raises(bigm.GroupError, match="2 of 2 calls failed: m0 worker 0: ValueError: x; m0 worker 1: "):
        pairs.machines[0].broadcast("C.fail", "x")


def test_a_broadcast_waits_for_machines_that_start_and_counts_those_that_end(cluster: bigm.Cluster) -> None:
    before = cluster.machines
    [late] = cluster.start(1, services=SERVICES)
    assert list(cluster.broadcast("C.echo")) == [*before, late]
    holding = threading.Thread(target=lambda: eventually(lambda: late.call("C.holding")) and late.cancel())
    holding.start()
    with pytest.raises(bigm.GroupError, match=rf"1 of 4 calls failed: {late.id}: MachineStopped") as caught:
        gather([*(machine.submit("C.echo") for machine in before), late.submit("C.hold", 60.0)])
    holding.join(10.0)
    assert isinstance(caught.value.exceptions[0], bigm.MachineStopped)


def test_a_broadcast_to_no_machine_is_refused() -> None:
    with bigm.start("inprocess") as cluster, pytest.raises(bigm.ConfigError, match="no machines to call"):
        cluster.broadcast("C.echo")


def test_a_service_gathers_calls_to_other_machines(cluster: bigm.Cluster) -> None:
    asking, *others = cluster.machines
    before = sum(machine.call("C.add", 0) for machine in others)
    addrs = [machine.addr for machine in others]
    assert asking.call("S.sum_of", addrs) == before + 2 * len(addrs)
    with pytest.raises(bigm.GroupError, match="2 of 2 calls failed: m1: ValueError: gathered; m2"):
        asking.call("S.failures_of", addrs)


def test_an_interrupted_gather_cancels_its_calls(cluster: bigm.Cluster) -> None:
    machine = cluster.machines[0]
    call = machine.submit("C.hold", 60.0)
    eventually(lambda: machine.call("C.holding") == 1)
    timer = threading.Timer(0.1, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        cluster.gather([call])
    timer.join()
    eventually(lambda: machine.call("C.holding") == 0)


def test_futures_of_others_can_stand_in_a_group() -> None:
    done: Future[int] = Future()
    done.set_result(3)
    failed: Future[int] = Future()
    failed.set_exception(KeyError("k"))
    assert gather([done, done]) == [3, 3]
    assert first([failed, done]) == 3
    with pytest.raises(bigm.GroupError, match=r"^1 of 2 calls failed: KeyError: 'k'$"):
        asyncio.run(agather([done, failed]))
