"""Other libraries on an executor: joblib by its own hook, dask because it takes any executor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dask
import joblib
import pytest

import bigm
import bigm.joblib
import executor_tasks as tasks
from bigm.executor import Executor


@pytest.fixture(scope="module", params=["local", "inprocess"])
def cluster(request: pytest.FixtureRequest) -> Iterator[bigm.Cluster]:
    with bigm.start(request.param, name=f"joblib-{request.param}") as cluster:
        cluster.wait(cluster.start(2), timeout=30.0)
        yield cluster


@pytest.fixture
def pool(cluster: bigm.Cluster) -> Iterator[Executor]:
    with cluster.executor() as pool:
        yield pool


def test_joblib_runs_its_loops_on_machines(pool: Executor) -> None:
    with joblib.parallel_config("bigm", executor=pool):
        assert joblib.effective_n_jobs() == 2
        assert joblib.Parallel()(joblib.delayed(tasks.mul)(n, 2) for n in range(1000)) == list(range(0, 2000, 2))
        machines = set(joblib.Parallel()(joblib.delayed(tasks.here)(n) for n in range(200)))
    assert machines <= {"m0", "m1"}
    assert machines


@pytest.mark.parametrize(("n_jobs", "effective"), [(None, 2), (-1, 2), (-2, 1), (1, 1), (2, 2), (100, 2), (-100, 1)])
def test_joblib_is_told_how_much_runs_at_a_time(pool: Executor, n_jobs: int | None, effective: int) -> None:
    assert bigm.joblib.Backend(pool).effective_n_jobs(n_jobs) == effective


def test_joblib_has_results_as_they_come(pool: Executor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with joblib.parallel_config("bigm", executor=pool):
        loop = joblib.Parallel(return_as="generator_unordered", batch_size=1)
        found = loop(joblib.delayed(tasks.until)(path, n) for n, path in enumerate([gate, tmp_path, tmp_path]))
        assert {next(found), next(found)} == {1, 2}
        gate.touch()
        assert list(found) == [0]


def test_a_task_of_joblib_that_raises_ends_the_loop_and_the_executor_goes_on(pool: Executor) -> None:
    with joblib.parallel_config("bigm", executor=pool):
        with pytest.raises(ValueError, match="x"):
            joblib.Parallel()(joblib.delayed(tasks.fail if n == 5 else tasks.same)("x") for n in range(1000))
        assert joblib.Parallel()(joblib.delayed(tasks.same)(n) for n in range(10)) == list(range(10))
        with pytest.raises(ValueError, match="no meaning"):
            joblib.Parallel(n_jobs=0)(joblib.delayed(tasks.same)(n) for n in range(10))


def nested(n: int) -> list[int]:
    return joblib.Parallel(n_jobs=2)(joblib.delayed(tasks.mul)(n, m) for m in range(3))  # type: ignore[no-any-return]


def test_loops_of_joblib_may_be_nested(pool: Executor) -> None:
    with joblib.parallel_config("bigm", executor=pool):
        assert joblib.Parallel()(joblib.delayed(nested)(n) for n in range(4)) == [[0, n, 2 * n] for n in range(4)]


def test_dask_computes_on_machines(cluster: bigm.Cluster, pool: Executor) -> None:
    square = dask.delayed(tasks.mul)
    total = dask.delayed(sum)([square(n, n) for n in range(50)])
    assert total.compute(scheduler=pool) == sum(n * n for n in range(50))
    pids = dask.compute(*[dask.delayed(tasks.pid)(n) for n in range(20)], scheduler=pool)
    own = {machine.run(os.getpid) for machine in cluster.machines}
    assert set(pids) <= own
