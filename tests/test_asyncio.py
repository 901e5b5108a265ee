"""Clusters in coroutines: nothing blocks the loop, and whatever ends the task ends the machines."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import bigm
from bigm import State
from bigm.board import Board, in_thread
from cluster_services import Counter, SlowSetup
from waiting import eventually

SYSTEMS = pytest.mark.parametrize("system", ["inprocess", "local"])
MOST = 0.5  # seconds for which a loop may stand still on a computer that does much else meanwhile


class Slow(Counter):
    """Takes its time to be set up and torn down."""

    def setup(self, cluster: Any) -> None:
        threading.Event().wait(1.5)

    def teardown(self) -> None:
        threading.Event().wait(1.5)


class Reluctant(Counter):
    """Takes a minute to be torn down."""

    def teardown(self) -> None:
        threading.Event().wait(60.0)


@asynccontextmanager
async def beating() -> AsyncIterator[list[float]]:
    """A loop that ticks; the pauses between two ticks, in seconds."""
    pauses: list[float] = []

    async def beat() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            pauses.append(now - last)
            last = now

    task = asyncio.ensure_future(beat())
    try:
        yield pauses
    finally:
        task.cancel()


@SYSTEMS
def test_the_loop_goes_on_while_machines_start_are_waited_for_and_end(system: str) -> None:
    async def main() -> list[bigm.Machine]:
        cluster = bigm.start(system, name="beating")  # opening takes its moment; what follows takes seconds
        async with beating() as pauses:
            async with cluster:
                machines = await cluster.astart(2, services={"C": Slow()})
                assert {machine.state for machine in machines} == {State.STARTING}
                await cluster.await_state(machines, timeout=60.0)
                assert await cluster.agather(machine.acall("C.add") for machine in machines) == [1, 1]
                await machines[0].ashutdown()
                assert await cluster.ashutdown(machines[:1]) == []
                assert cluster.machines == machines[1:]
            assert len(pauses) > 20
            assert max(pauses) < MOST
        return machines

    assert [machine.state for machine in asyncio.run(main())] == [State.STOPPED] * 2


@SYSTEMS
def test_waiting_for_a_state_ends_as_it_does_in_a_thread(system: str) -> None:
    async def main() -> None:
        async with bigm.start(system, name="awaited", timeouts={"setup": 20.0}) as cluster:
            [machine] = await cluster.astart(1, services={"S": SlowSetup(0.5)})
            with pytest.raises(bigm.DeadlineExceeded, match=r"still STARTING, not RUNNING, after 0\.05 s"):
                await machine.await_state(timeout=0.05)
            with pytest.raises(bigm.DeadlineExceeded, match="m0 is STARTING"):
                await cluster.await_state(timeout=0.0)
            await machine.await_state()
            assert machine.state is State.RUNNING
            await machine.await_state(State.STARTING)
            waiting = [asyncio.ensure_future(machine.await_state(State.STOPPED)) for _ in range(100)]
            await asyncio.sleep(0)
            machine.cancel()
            for failed in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(failed, bigm.MachineStopped)
            with pytest.raises(bigm.MachineStopped):
                await cluster.await_state([machine])
            assert not cluster._board._listeners

    asyncio.run(main())


def test_a_start_that_fails_says_why_to_whoever_awaits_it() -> None:
    async def main() -> None:
        async with bigm.start("inprocess", name="failing") as cluster:
            with pytest.raises(bigm.ConfigError, match="1 machine or more"):
                await cluster.astart(0, services={"C": Counter()})

    asyncio.run(main())


def test_a_start_whose_task_was_cancelled_leaves_its_machines_to_the_cluster() -> None:
    async def main() -> list[bigm.Machine]:
        async with bigm.start("local", name="cancelled") as cluster:
            task = asyncio.ensure_future(cluster.astart(1, services={"C": Counter()}))
            await asyncio.sleep(0)  # the thread is made
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await in_thread("test", eventually, lambda: cluster.machines)
            return cluster.machines

    [machine] = asyncio.run(main())
    assert machine.state is State.STOPPED


@SYSTEMS
def test_two_thousand_calls_at_once_to_one_machine(system: str) -> None:
    async def main() -> None:
        async with bigm.start(system, name="thousands") as cluster:
            [machine] = await cluster.astart(1, services={"C": Counter()})
            assert await asyncio.gather(*(machine.acall("C.echo", n) for n in range(2000))) == [
                (n, {}) for n in range(2000)
            ]
            sleeping = [machine.acall("C.sleep", 0.05) for _ in range(300)]
            assert await asyncio.gather(*sleeping) == [0.05] * 300

    asyncio.run(main())


def test_an_exception_ends_the_machines_and_goes_on() -> None:
    started: list[bigm.Machine] = []

    async def main() -> None:
        async with bigm.start("inprocess", name="raising") as cluster:
            started.extend(await cluster.astart(1, services={"C": Counter()}))
            await started[0].acall("C.fail", "inside")

    with pytest.raises(ValueError, match="inside"):
        asyncio.run(main())
    assert started[0].state is State.STOPPED


@SYSTEMS
def test_a_task_that_is_cancelled_ends_its_machines_first(system: str) -> None:
    started: list[bigm.Machine] = []

    async def inner() -> None:
        async with bigm.start(system, name="cancelled") as cluster:
            started.extend(await cluster.astart(1, services={"C": Counter()}))
            await started[0].acall("C.until_cancelled", 60.0)

    async def main() -> None:
        task = asyncio.ensure_future(inner())
        while not (started and started[0].in_flight):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert started[0].state is State.STOPPED

    asyncio.run(main())


def test_a_task_that_is_cancelled_twice_ends_its_machines_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    started: list[bigm.Machine] = []

    async def inner() -> None:
        async with bigm.start("local", name="twice", timeouts={"teardown": 50.0}) as cluster:
            started.extend(await cluster.astart(1, services={"C": Reluctant()}))
            await started[0].acall("C.until_cancelled", 60.0)

    async def main() -> None:
        task = asyncio.ensure_future(inner())
        await in_thread("test", eventually, lambda: started and started[0].in_flight)
        task.cancel()
        await in_thread("test", eventually, lambda: started[0].state is State.STOPPED)
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begun < 30.0, "its teardown takes a minute"

    asyncio.run(main())
    assert "cancelled: ending 1 machine; once more ends them at once" in capfd.readouterr().err


def test_a_cluster_can_be_opened_before_its_loop_and_used_by_several() -> None:
    with bigm.start("inprocess", name="around") as cluster:
        [machine] = cluster.start(1, services={"C": Counter()})

        async def main() -> Any:
            return await machine.acall("C.add")

        assert [asyncio.run(main()) for _ in range(3)] == [1, 2, 3]


def test_signals_are_as_before_once_the_last_cluster_has_ended() -> None:
    async def main() -> tuple[Any, Any]:
        before = signal.getsignal(signal.SIGTERM)
        async with bigm.start("inprocess", name="signals"):
            assert signal.getsignal(signal.SIGTERM) is not before
        return before, signal.getsignal(signal.SIGTERM)

    before, after = asyncio.run(main())
    assert before is after


def test_a_board_wakes_each_waiting_coroutine_once_for_many_changes() -> None:
    board, looked = Board(), 0

    def ready() -> bool:
        nonlocal looked
        looked += 1
        return done

    done = False

    async def main() -> bool:
        nonlocal done
        waiting = asyncio.ensure_future(board.until(ready, 20.0))
        await asyncio.sleep(0)
        for _ in range(1000):
            with board:
                board.notify_all()
        done = True
        with board:
            board.notify_all()
        return await waiting

    assert asyncio.run(main())
    assert looked <= 3
    with board:
        board.notify_all()  # its loop is closed
