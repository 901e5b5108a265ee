"""What a `concurrent.futures.Executor` promises, by the cases of Python's own tests, and what ours adds."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, BrokenExecutor, Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bigm
import executor_tasks as tasks
from bigm import Cause, State
from bigm.errors import CapacityError
from bigm.executor import Executor
from bigm.systems.base import Launched
from bigm.systems.local import Local
from waiting import eventually

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", params=["local", "inprocess"])
def cluster(request: pytest.FixtureRequest) -> Iterator[bigm.Cluster]:
    with bigm.start(request.param, name=f"pool-{request.param}") as cluster:
        cluster.wait(cluster.start(2), timeout=30.0)
        yield cluster


@pytest.fixture
def pool(cluster: bigm.Cluster) -> Iterator[Executor]:
    with cluster.executor() as pool:
        yield pool


@pytest.fixture
def local() -> Iterator[bigm.Cluster]:
    """A cluster of its own, for what ends machines."""
    with bigm.start("local", name="mortals") as cluster:
        yield cluster


# What concurrent.futures promises.


def test_a_task_is_run_and_its_result_is_the_futures(pool: Executor) -> None:
    future = pool.submit(pow, 2, 8)
    assert isinstance(future, Future)
    assert future.result(10.0) == 256
    assert future.exception(10.0) is None
    assert (future.done(), future.running(), future.cancelled()) == (True, False, False)


def test_all_keywords_are_the_functions_own(pool: Executor) -> None:
    assert pool.submit(tasks.capture, 1, self=2, fn=3).result(10.0) == (1, {"self": 2, "fn": 3})
    with pytest.raises(TypeError):
        pool.submit(fn=tasks.capture, arg=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        pool.submit(arg=1)  # type: ignore[call-arg]


def test_an_exception_is_the_futures_with_its_remote_traceback(pool: Executor) -> None:
    future = pool.submit(tasks.fail, "thirteen")
    with pytest.raises(ValueError, match="thirteen") as caught:
        future.result(10.0)
    assert "in fail" in str(caught.value.__cause__)
    assert isinstance(future.exception(10.0), ValueError)


def test_exceptions_whose_causes_go_round_in_a_circle_arrive(pool: Executor) -> None:
    with pytest.raises(ValueError, match="first"):
        pool.submit(tasks.fail_in_a_ring).result(10.0)


def test_a_task_that_calls_exit_fails_and_the_worker_lives_on(pool: Executor) -> None:
    with pytest.raises(bigm.ServiceError, match="SystemExit"):
        pool.submit(tasks.leave, 3).result(10.0)
    assert pool.submit(pow, 2, 2).result(10.0) == 4


def test_map_gives_results_in_order(pool: Executor) -> None:
    expected = list(map(pow, range(10), range(10)))
    assert list(pool.map(pow, range(10), range(10))) == expected
    assert list(pool.map(pow, range(10), range(10), chunksize=3)) == expected
    assert list(pool.map(pow, range(10), range(20))) == expected, "it ends with the shortest"
    assert list(pool.map(tasks.same, [])) == []
    assert list(pool.map(tasks.same, range(3000))) == list(range(3000))


@pytest.mark.parametrize("chunksize", [1, 2, 4])
def test_map_raises_an_exception_in_its_place(pool: Executor, chunksize: int) -> None:
    found = pool.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5], chunksize=chunksize)
    assert next(found) == (0, 1)
    assert next(found) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(found)
    with pytest.raises(StopIteration):
        next(found)


def test_map_gives_up_at_its_timeout(pool: Executor, tmp_path: Path) -> None:
    found = pool.map(tasks.until, [tmp_path, tmp_path, tmp_path / "go"], timeout=1.0)
    assert [next(found), next(found)] == [None, None]
    with pytest.raises(concurrent.futures.TimeoutError):
        next(found)
    (tmp_path / "go").touch()


@pytest.mark.parametrize("wrong", [{"chunksize": 0}, {"chunksize": -1}, {"buffersize": 0}])
def test_map_refuses_sizes_below_one(pool: Executor, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="size"):
        pool.map(pow, [1], [1], **wrong)  # type: ignore[arg-type]


def test_map_runs_its_tasks_though_nobody_reads_the_results(pool: Executor, tmp_path: Path) -> None:
    kept = pool.map(tasks.note, [tmp_path / "log"] * 10)
    pool.shutdown()
    assert len(tasks.noted(tmp_path / "log")) == 10
    assert len(list(kept)) == 10


def test_map_with_a_buffer_reads_no_further_ahead(pool: Executor) -> None:
    read = itertools.count()
    found = pool.map(tasks.same, read, buffersize=10)
    assert [next(found) for _ in range(25)] == list(range(25))
    assert next(read) <= 25 + 10
    found.close()  # type: ignore[attr-defined]


def test_map_keeps_no_reference_to_a_result_it_has_handed_on(pool: Executor) -> None:
    for made in pool.map(tasks.Made, range(10)):
        alive = weakref.ref(made)
        del made
        assert alive() is None


def test_nothing_of_a_task_that_is_done_is_kept(pool: Executor) -> None:
    made = tasks.Made()
    gone = threading.Event()
    alive = weakref.ref(made, lambda _: gone.set())
    pool.submit(made.method)
    del made
    assert gone.wait(10.0), "the task lives on"
    assert alive() is None


def test_wait_knows_its_three_modes(pool: Executor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow, quick = pool.submit(tasks.until, gate), pool.submit(tasks.mul, 21, 2)
    assert concurrent.futures.wait([slow, quick], 10.0, FIRST_COMPLETED) == ({quick}, {slow})
    bad = pool.submit(tasks.fail, "x")
    done, left = concurrent.futures.wait([slow, bad], 10.0, FIRST_EXCEPTION)
    assert (done, left) == ({bad}, {slow})
    assert concurrent.futures.wait([slow], 0.05, ALL_COMPLETED) == (set(), {slow})
    gate.touch()
    assert concurrent.futures.wait([slow, slow, bad, quick], 10.0) == ({slow, bad, quick}, set())


def test_futures_come_as_they_complete(pool: Executor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow = pool.submit(tasks.until, gate)
    quick = [pool.submit(tasks.mul, 7, n) for n in range(5)]
    coming = concurrent.futures.as_completed([slow, *quick, slow], timeout=20.0)
    assert {next(coming) for _ in quick} == set(quick)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(concurrent.futures.as_completed([slow], timeout=0.05))
    gate.touch()
    assert list(coming) == [slow]


def test_a_future_is_running_once_it_was_sent_and_can_be_cancelled_before(pool: Executor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    running = [pool.submit(tasks.until, gate, n) for n in range(2)]
    eventually(lambda: all(future.running() for future in running))
    waiting = [pool.submit(tasks.until, gate) for _ in range(3)]
    assert not running[0].cancel()
    assert all(future.cancel() for future in waiting)
    assert all(future.cancelled() for future in waiting)
    gate.touch()
    assert [future.result(10.0) for future in running] == [0, 1]
    assert concurrent.futures.wait(waiting, 10.0).not_done == set(), "the cancelled ones are done"
    with pytest.raises(concurrent.futures.CancelledError):
        waiting[0].result()


def test_callbacks_are_called_and_may_use_the_executor(pool: Executor) -> None:
    called: list[int] = []

    def more(future: Future[int]) -> None:
        called.append(future.result())
        called.append(pool.submit(tasks.mul, 3, 3).result(10.0))

    future = pool.submit(tasks.mul, 2, 2)
    future.add_done_callback(more)
    eventually(lambda: called == [4, 9], message=lambda: str(called))
    future.add_done_callback(lambda done: called.append(done.result()))
    assert called == [4, 9, 4], "of a future that is done, at once"


def test_a_callback_that_raises_harms_nobody(pool: Executor, caplog: pytest.LogCaptureFixture) -> None:
    future = pool.submit(tasks.mul, 2, 2)
    future.add_done_callback(lambda _: [][0])
    assert pool.submit(tasks.mul, 3, 3).result(10.0) == 9
    eventually(lambda: "IndexError" in caplog.text)


def test_submit_and_map_are_refused_after_shutdown(pool: Executor) -> None:
    pool.shutdown()
    pool.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(pow, 2, 5)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.map(pow, [2], [5])


def test_shutdown_waits_for_all_that_was_submitted(pool: Executor) -> None:
    futures = [pool.submit(time.sleep, 0.01) for _ in range(50)]
    pool.map(str, [2] * 3)
    pool.shutdown()
    assert all(future.done() for future in futures)


def test_shutdown_without_waiting_still_has_it_done(pool: Executor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    found = pool.map(tasks.until, [gate] * 4, range(4))
    future = pool.submit(abs, -3)
    pool.shutdown(wait=False)
    assert not future.done()
    gate.touch()
    assert (list(found), future.result(10.0)) == ([0, 1, 2, 3], 3)


def test_shutdown_can_cancel_what_was_not_sent(pool: Executor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    running = [pool.submit(tasks.until, gate) for _ in range(2)]
    eventually(lambda: all(future.running() for future in running))
    waiting = [pool.submit(tasks.until, gate) for _ in range(48)]
    pool.shutdown(wait=False, cancel_futures=True)
    eventually(lambda: all(future.cancelled() for future in waiting))
    gate.touch()
    pool.shutdown()
    assert [future.exception(10.0) for future in running] == [None, None]


def test_a_future_that_was_cancelled_at_once_does_not_hold_up_shutdown(pool: Executor) -> None:
    pool.submit(int).result(10.0)
    pool.submit(int).cancel()
    pool.shutdown()


def test_an_executor_that_nobody_has_any_more_finishes_and_ends(cluster: bigm.Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pool = cluster.executor()
    found, thread = pool.map(tasks.until, [gate] * 3, range(3)), pool._scheduler._thread
    del pool
    gc.collect()
    gate.touch()
    assert list(found) == [0, 1, 2]
    thread.join(10.0)
    assert not thread.is_alive()


def test_an_initializer_runs_once_in_each_worker_before_its_first_task() -> None:
    with bigm.start("local", name="initialized") as cluster:
        cluster.wait(cluster.start(1, procs=2), timeout=30.0)
        with cluster.executor(initializer=tasks.initialize, initargs=("yes",), threads=2) as pool:
            assert set(pool.map(tasks.initialized, range(200))) == {"yes"}
        with cluster.executor() as pool:
            assert set(pool.map(tasks.initialized, range(20))) == {"yes"}


def test_an_initializer_that_raises_breaks_the_executor(cluster: bigm.Cluster) -> None:
    with cluster.executor(initializer=tasks.fail, initargs=("no data",)) as pool:
        future = pool.submit(pow, 2, 2)
        with pytest.raises(BrokenExecutor, match="no data") as caught:
            future.result(10.0)
        assert isinstance(caught.value.__cause__, ValueError)
        with pytest.raises(BrokenExecutor, match="no data"):
            pool.submit(pow, 2, 2)
    with pytest.raises(TypeError, match="callable"):
        cluster.executor(initializer=3)  # type: ignore[arg-type]


def program(text: str, tmp_path: Path, *, code: int = 0) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "prog.py"
    path.write_text(textwrap.dedent(text))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "PATHS": str(tmp_path)}
    done = subprocess.run([sys.executable, str(path)], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.parametrize("end", ["", "pool.shutdown(wait=False)"])
def test_work_that_is_pending_when_the_program_ends_is_done(tmp_path: Path, end: str) -> None:
    # In 3.12.0 to 3.12.2 no thread can be made by then (gh-113964), and starting a machine takes some.
    ready = "cluster.wait()" if (3, 12, 0) <= sys.version_info[:3] <= (3, 12, 2) else ""
    shown = program(
        f"""
        import time, bigm
        def say(text):
            time.sleep(0.2)  # the program is to end first
            print(text, flush=True)
        if __name__ == "__main__":
            cluster = bigm.start()
            cluster.start(1)
            {ready}
            pool = cluster.executor()
            for n in range(3):
                pool.submit(say, f"apple {{n}}")
            {end}
        """,
        tmp_path,
    )
    assert [f"apple {n}" in shown.stderr for n in range(3)] == [True] * 3
    assert "Traceback" not in shown.stderr


def test_nothing_can_be_submitted_when_the_program_has_ended(tmp_path: Path) -> None:
    shown = program(
        """
        import atexit, bigm
        @atexit.register
        def last():
            try:
                pool.submit(id, None)
            except RuntimeError as error:
                print("refused:", error)
        if __name__ == "__main__":
            cluster = bigm.start("inprocess")
            cluster.start(1)
            pool = cluster.executor()
            pool.submit(id, 42).result()
        """,
        tmp_path,
    )
    assert shown.stdout == "refused: cannot schedule new futures after interpreter shutdown\n"


def test_work_that_is_cancelled_when_the_program_ends_holds_up_nothing(tmp_path: Path) -> None:
    program(
        """
        import bigm, executor_tasks as tasks, pathlib
        if __name__ == "__main__":
            cluster = bigm.start()
            cluster.start(1)
            pool = cluster.executor()
            for n in range(20):
                pool.submit(tasks.same, n)
            pool.shutdown(wait=False, cancel_futures=True)
        """,
        tmp_path,
    )


# What it adds.


def test_asyncio_runs_its_executor_tasks_on_machines(pool: Executor, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(pool, tasks.mul, n, n) for n in range(50)),
            loop.run_in_executor(pool, tasks.fail, "x"),
            return_exceptions=True,
        )

    *values, error = asyncio.run(main())
    assert values == [n * n for n in range(50)]
    assert isinstance(error, ValueError)


def test_a_task_that_does_not_pickle_fails_alone_and_names_the_path(pool: Executor) -> None:
    held = {"config": [threading.Lock()]}
    futures = [pool.submit(tasks.capture, value) for value in (1, held, 2)]
    assert futures[0].result(10.0) == (1, {})
    with pytest.raises(bigm.NotPicklable, match=r"cannot call capture: argument 1\['config'\]\[0\]"):
        futures[1].result(10.0)
    assert futures[2].result(10.0) == (2, {})
    with pytest.raises(bigm.NotPicklable, match=r"cannot send function Made\.method.*__self__\.n"):
        pool.submit(tasks.Made(threading.Lock()).method).result(10.0)  # type: ignore[arg-type]


def test_a_map_with_arguments_that_do_not_pickle_fails_in_its_place(pool: Executor) -> None:
    list(pool.map(tasks.same, [[]] * 100))  # so that many travel in one batch
    found = pool.map(tasks.same, [[0], [1], threading.Lock(), [3]])
    assert [next(found), next(found)] == [[0], [1]]
    with pytest.raises(bigm.NotPicklable, match="argument 1"):
        next(found)


def test_a_result_that_does_not_pickle_fails_alone(pool: Executor) -> None:
    list(pool.map(tasks.same, range(100)))
    futures = [pool.submit(tasks.lock), pool.submit(tasks.same, 1), pool.submit(tasks.same, [2])]
    with pytest.raises(bigm.NotPicklable, match="cannot return from lock"):
        futures[0].result(10.0)
    assert [future.result(10.0) for future in futures[1:]] == [1, [2]]


def test_a_function_need_not_be_hashable_or_comparable(pool: Executor) -> None:
    assert list(pool.map(tasks.Unhashable(), range(100))) == list(range(1, 101))
    assert [pool.submit(tasks.Unhashable(), n).result(10.0) for n in (1, 2)] == [2, 3]


def test_a_function_that_cannot_be_rebuilt_there_names_what_is_missing(pool: Executor) -> None:
    futures = [pool.submit(tasks.Missing()) for _ in range(3)]
    for future in futures:
        with pytest.raises(bigm.NotPicklable, match=r"cannot rebuild function Missing on m\d: .*only_here.*sys\.path"):
            future.result(10.0)


def test_tasks_that_travel_together_do_not_share_their_arguments(pool: Executor) -> None:
    items: list[int] = []
    for _ in range(3):  # the first ones go alone
        assert list(pool.map(tasks.append, [items] * 50)) == [1] * 50
        assert {future.result(10.0) for future in [pool.submit(tasks.append, items) for _ in range(50)]} == {1}


def test_arrays_travel_both_ways(pool: Executor) -> None:
    array = np.arange(1_000_000.0)
    assert np.array_equal(pool.submit(np.negative, array).result(20.0), -array)
    for found in pool.map(np.negative, [array[:n] for n in (1, 10, 5000, 500_000)]):
        assert np.array_equal(found, -array[: len(found)])


def test_functions_of_many_kinds_are_mixed(pool: Executor) -> None:
    for _ in range(3):
        futures = [
            pool.submit(function, n)  # type: ignore[arg-type]
            for n in range(20)
            for function in (tasks.same, abs, partial(tasks.mul, 1), str)
        ]
        assert [future.result(10.0) for future in futures] == [v for n in range(20) for v in (n, n, n, str(n))]


def test_idle_workers_take_what_others_have_not_begun(pool: Executor, tmp_path: Path) -> None:
    """Tasks that look short travel together, and one of them holds up the rest: these must not wait for it."""
    gate, free = tmp_path / "gate", tmp_path
    for _ in range(5):
        list(pool.map(tasks.until, [free] * 200))  # each is quick
    futures = [pool.submit(tasks.until, gate if n == 3 else free, n) for n in range(100)]
    others = [future for n, future in enumerate(futures) if n != 3]
    assert concurrent.futures.wait(others, 10.0).not_done == set()
    assert not futures[3].done()
    gate.touch()
    assert futures[3].result(10.0) == 3


def test_a_map_that_is_left_frees_the_workers(pool: Executor, tmp_path: Path) -> None:
    log = tmp_path / "log"
    found = pool.map(tasks.note, [log] * 20_000)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert pool.submit(tasks.mul, 2, 3).result(10.0) == 6
    pool.shutdown()
    assert len(tasks.noted(log)) < 20_000


def test_each_worker_runs_one_task_at_a_time_or_as_many_as_asked_for(cluster: bigm.Cluster, tmp_path: Path) -> None:
    for threads in (1, 3):
        gate, log = tmp_path / f"gate{threads}", tmp_path / f"log{threads}"
        with cluster.executor(threads=threads) as pool:
            futures = [pool.submit(tasks.mark_and_wait, log, gate) for _ in range(20)]
            eventually(lambda: len(tasks.noted(log)) == 2 * threads)  # noqa: B023
            assert sum(future.running() for future in futures) == 2 * threads
            gate.touch()
        assert len(tasks.noted(log)) == 20


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"retries": -1}, {"retries": True}, {"machines": []}])
def test_an_executor_with_wrong_arguments_is_refused(cluster: bigm.Cluster, wrong: dict[str, Any]) -> None:
    with pytest.raises(bigm.ConfigError, match=r"must be a whole number|needs machines"):
        cluster.executor(**wrong)


def test_a_cluster_without_machines_starts_those_asked_for_or_asks() -> None:
    asked = "no machines to run functions on, .* how many machines"
    with bigm.start("inprocess") as cluster:
        with pytest.raises(bigm.ConfigError, match=asked):
            cluster.executor()
        with pytest.raises(bigm.ConfigError, match=asked):
            list(cluster.map(len, ["x"]))
    with bigm.start("inprocess", nmach=2) as cluster:
        with cluster.executor() as pool:
            assert pool.submit(tasks.mul, 2, 3).result(20.0) == 6
        assert len(cluster.machines) == 2


def test_an_executor_keeps_to_the_machines_it_was_given(cluster: bigm.Cluster) -> None:
    machine = cluster.machines[1]
    with cluster.executor([machine]) as pool:
        assert {machine.id} == set(pool.map(tasks.here, range(50)))


def test_machines_of_another_cluster_are_refused(cluster: bigm.Cluster) -> None:
    words = "cannot use machine {}: it belongs to another cluster"
    with bigm.start("inprocess", name="elsewhere") as other:
        [stranger] = other.start(1)
        for refused in (cluster.executor, lambda chosen: cluster.map(tasks.same, [1], machines=chosen)):
            with pytest.raises(bigm.ConfigError, match=words.format(stranger.addr)):
                refused([cluster.machines[0], stranger])


def test_machines_that_are_started_later_are_used(cluster: bigm.Cluster, tmp_path: Path) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    with cluster.executor() as pool:
        futures = [pool.submit(tasks.mark_and_wait, log, gate) for _ in range(3)]
        eventually(lambda: len(tasks.noted(log)) == 2)
        [third] = cluster.start(1)
        eventually(lambda: len(tasks.noted(log)) == 3, 30.0)
        gate.touch()
        assert all(future.result(10.0) for future in futures)
        third.shutdown()
        assert list(pool.map(tasks.same, range(10))) == list(range(10))


def test_a_machine_that_is_shut_down_ends_what_it_runs_and_is_given_nothing_more(
    cluster: bigm.Cluster, tmp_path: Path
) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    [leaving] = cluster.start(1)
    leaving.wait(timeout=30.0)
    with cluster.executor([*cluster.machines]) as pool:
        futures = [pool.submit(tasks.mark_and_wait, log, gate) for _ in range(6)]
        eventually(lambda: len(tasks.noted(log)) == 3)
        ending = threading.Thread(target=leaving.shutdown, name="leaving")
        ending.start()
        assert leaving.state is State.RUNNING
        gate.touch()
        ending.join(20.0)
        assert leaving.state is State.STOPPED
        assert [future.exception(10.0) for future in futures] == [None] * 6


def test_the_end_of_its_cluster_fails_what_is_pending_with_that_cause(tmp_path: Path) -> None:
    with bigm.start("local", name="ending") as cluster:
        cluster.start(1)
        pool = cluster.executor()
        futures = [pool.submit(tasks.until, tmp_path / "never") for _ in range(3)]
        eventually(lambda: futures[0].running(), 30.0)
    for future in futures:
        with pytest.raises(bigm.MachineStopped) as caught:
            future.result(10.0)
        assert caught.value.cause == Cause.SHUTDOWN
    with pytest.raises(RuntimeError, match="after the end of its cluster"):
        pool.submit(pow, 2, 2)
    pool.shutdown()


def test_the_loss_of_all_machines_fails_what_is_pending_at_once_with_the_cause(
    local: bigm.Cluster, tmp_path: Path
) -> None:
    local.start(1)
    with local.executor() as pool:
        futures = [pool.submit(tasks.die), pool.submit(tasks.same, 1), pool.submit(tasks.same, 2)]
        for future in futures:
            with pytest.raises(bigm.MachineStopped, match=r"signal 9|SIGKILL") as caught:
                future.result(20.0)
            assert caught.value.cause == Cause.SIGNAL
        with pytest.raises(bigm.MachineStopped, match="no machine is left"):
            pool.submit(pow, 2, 2).result(10.0)
        local.start(1)
        assert pool.submit(pow, 2, 2).result(30.0) == 4, "with another machine it goes on"


def test_a_lost_task_is_run_again_only_where_that_was_allowed(local: bigm.Cluster, tmp_path: Path) -> None:
    local.wait(local.start(3), timeout=30.0)
    with local.executor() as pool:
        once = pool.submit(tasks.die_once, tmp_path / "a")
        with pytest.raises(bigm.MachineStopped):
            once.result(20.0)
        again = pool.options(retries=1).submit(tasks.die_once, tmp_path / "b")
        assert again.result(20.0) not in tasks.noted(tmp_path / "b")
        assert list(pool.map(tasks.same, range(10))) == list(range(10))


def test_retries_are_counted_and_a_task_that_raises_is_never_retried(local: bigm.Cluster, tmp_path: Path) -> None:
    local.wait(local.start(3), timeout=30.0)
    with local.executor(retries=1) as pool:
        with pytest.raises(bigm.MachineStopped):
            pool.submit(tasks.die).result(20.0)
        assert len(local.machines) == 1
        with pytest.raises(ValueError, match="x"):
            pool.submit(tasks.fail, "x").result(10.0)
        log = tmp_path / "log"
        pool.submit(tasks.note, log).result(10.0)
        assert len(tasks.noted(log)) == 1


def test_a_map_survives_the_loss_of_a_machine_where_that_was_allowed(local: bigm.Cluster, tmp_path: Path) -> None:
    machines = local.start(3)
    local.wait(machines, timeout=30.0)
    with local.executor(retries=3) as pool:
        found = pool.map(tasks.until, [tmp_path] * 5000, range(5000))
        assert next(found) == 0
        machines[0].cancel()
        assert list(found) == list(range(1, 5000))


def test_lost_machines_are_replaced_where_that_was_asked_for(local: bigm.Cluster, tmp_path: Path) -> None:
    local.wait(local.start(1, procs=2), timeout=30.0)
    with local.executor(retries=1, replace=True) as pool:
        assert pool.submit(tasks.die_once, tmp_path / "a").result(30.0)
        [machine] = local.machines
        assert machine.procs == 2


@pytest.mark.parametrize("error", [CapacityError("no room"), OSError("no room"), SystemExit("no room")])
def test_when_replacements_do_not_start_it_stops_asking_and_says_why(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    class Once(Local):
        launches = 0

        def launch(self, *args: Any, **kwargs: Any) -> Launched:
            self.launches += 1
            if self.launches > 1 and isinstance(error, CapacityError):
                return Launched((), (error,))
            if self.launches > 1:
                raise error
            return super().launch(*args, **kwargs)

    system = Once()
    with bigm.start(system, name="scarce") as cluster:
        cluster.start(1)
        with cluster.executor(replace=True) as pool:
            lost, waiting = pool.submit(tasks.die), pool.submit(tasks.same, 1)
            with pytest.raises(bigm.MachineStopped, match=r"signal 9|SIGKILL"):
                lost.result(20.0)
            with pytest.raises(bigm.MachineStopped, match=r"3 in a row did not start in its place: .*no room"):
                waiting.result(20.0)
        assert system.launches == 4
    assert "lost machines are replaced no more: 3 in a row did not start: " in capfd.readouterr().err


def test_ctrl_c_in_the_block_cancels_and_does_not_wait(cluster: bigm.Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with contextlib.suppress(KeyboardInterrupt):
        with cluster.executor() as pool:
            running = [pool.submit(tasks.cancelled_by, mark) for _ in range(2)]
            waiting = pool.submit(tasks.cancelled_by, mark)
            eventually(lambda: len(tasks.noted(mark)) == 2)
            raise KeyboardInterrupt
    for future in (*running, waiting):
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(10.0)
    with cluster.executor() as pool:
        assert [pool.submit(tasks.mul, 2, n).result(10.0) for n in range(4)] == [0, 2, 4, 6], "the workers are free"


def test_any_other_exception_in_the_block_waits_for_what_was_submitted(cluster: bigm.Cluster) -> None:
    with contextlib.suppress(ValueError), cluster.executor() as pool:
        futures = [pool.submit(tasks.same, n) for n in range(10)]
        raise ValueError("x")
    assert all(future.done() for future in futures)


def test_a_forked_child_can_neither_use_nor_end_the_executor(pool: Executor) -> None:
    pool.submit(int).result(10.0)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                pool.submit(int)
            except RuntimeError as error:
                os.write(write, str(error).encode())
            pool.shutdown()
            os.write(write, b"; shut down")
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    assert os.waitpid(child, 0)[1] == 0
    assert "belongs to the process that opened it" in said
    assert said.endswith("; shut down")
    assert pool.submit(tasks.mul, 2, 3).result(10.0) == 6


def test_many_threads_submit_at_once(pool: Executor) -> None:
    found: list[int] = []

    def some(start: int) -> None:
        found.extend(pool.submit(tasks.same, start + n).result(20.0) for n in range(50))

    threads = [threading.Thread(target=some, args=(1000 * n,), name=f"some-{n}") for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert sorted(found) == [1000 * n + m for n in range(8) for m in range(50)]


def test_its_repr_tells_what_it_does(pool: Executor) -> None:
    eventually(lambda: "open: 2 machines, 0 waiting, 0 given out" in repr(pool), message=lambda: repr(pool))
    pool.shutdown()
    assert "ended" in repr(pool)
