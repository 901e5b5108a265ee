"""Python's own tests of executors, run on ours: the very classes, where this Python has brought them.

Left out are cases that name the class or its threads, or make one by `max_workers`; what they are about is in
tests/test_executor.py.
"""

from __future__ import annotations

import importlib
import unittest
from collections.abc import Iterator
from typing import Any

import pytest

import bigm

NOT_OURS = {
    "test_interpreter_shutdown",
    "test_submit_after_interpreter_shutdown",
    "test_hang_gh83386",
    "test_max_workers_negative",
}
CLASSES = {
    "executor": ["ExecutorTest"],
    "test_shutdown": ["ExecutorShutdownTest"],
    "test_wait": ["WaitTests"],
    "test_as_completed": ["AsCompletedTests"],
}
current: list[bigm.Cluster] = []


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    try:
        importlib.import_module("test.test_concurrent_futures.executor")
    except ImportError:
        yield  # each test says so
        return
    with bigm.start("local", name="python") as cluster:
        cluster.wait(cluster.start(2, procs=2), timeout=30.0)
        current.append(cluster)
        yield
        current.clear()


class Pool:
    """Stands where these tests name a class of concurrent.futures."""

    def __new__(cls, max_workers: int = 4, **options: Any) -> Any:
        return current[0].executor(**options)


def cases() -> list[Any]:
    """Each method of the classes, bound to our executor; where there are none, one that says so."""
    found = []
    for module, names in CLASSES.items():
        try:
            there = importlib.import_module(f"test.test_concurrent_futures.{module}")
        except ImportError:
            return [pytest.param(None, id="none")]
        mixin = importlib.import_module("test.test_concurrent_futures.util").ExecutorMixin
        for name in names:
            made = type(name, (getattr(there, name), mixin, unittest.TestCase), {"executor_type": Pool})
            tests = unittest.TestLoader().getTestCaseNames(made)
            found += [pytest.param(made(test), id=f"{name}.{test}") for test in tests if test not in NOT_OURS]
    return found


@pytest.mark.parametrize("case", cases())
def test_ours_passes_what_pythons_own_pass(case: unittest.TestCase | None) -> None:
    if case is None:
        pytest.skip("no tests of its own in this Python; as a package they came with Python 3.13")
    result = unittest.TestResult()
    case.run(result)
    assert [text for _, text in result.errors + result.failures] == []
    assert result.testsRun == 1
