from __future__ import annotations

import itertools
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bigm
import executor_tasks as tasks
from waiting import eventually

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", params=["local", "inprocess"])
def cluster(request: pytest.FixtureRequest) -> Iterator[bigm.Cluster]:
    with bigm.start(request.param, name=f"map-{request.param}") as cluster:
        cluster.wait(cluster.start(2), timeout=30.0)
        yield cluster


def ended(cluster: bigm.Cluster) -> None:
    """Nothing of a map is left."""
    eventually(lambda: not cluster._executors, message="an executor lives on")


def test_results_come_in_order_from_one_iterable_or_several(cluster: bigm.Cluster) -> None:
    assert list(cluster.map(abs, range(-5, 5))) == list(map(abs, range(-5, 5)))
    assert list(cluster.map(pow, range(10), itertools.count())) == [n**n for n in range(10)]
    assert list(cluster.map(abs, [])) == []
    assert list(cluster.map(lambda n: n + 1, range(10_000))) == list(range(1, 10_001))
    ended(cluster)


def test_without_order_results_come_as_they_are_ready(cluster: bigm.Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    paths = [gate, *[tmp_path] * 9]
    found = cluster.map(tasks.until, paths, range(10), ordered=False)
    assert sorted(next(found) for _ in range(9)) == list(range(1, 10))
    gate.touch()
    assert list(found) == [0]
    ended(cluster)


def test_an_endless_iterable_is_read_only_so_far_ahead(cluster: bigm.Cluster) -> None:
    read = itertools.count()
    found = cluster.map(tasks.same, read, ahead=20)
    assert next(read) == 0, "nothing is read before a result is asked for"
    assert list(itertools.islice(found, 1000)) == list(range(1, 1001))
    assert next(read) <= 1000 + 20 + 2
    found.close()  # type: ignore[attr-defined]
    ended(cluster)


def test_the_first_results_do_not_wait_for_slow_arguments(cluster: bigm.Cluster) -> None:
    more = threading.Event()

    def arguments() -> Iterator[int]:
        yield 1
        yield 2
        assert more.wait(10.0), "the first results were held up"
        yield 3

    found = cluster.map(tasks.same, arguments(), ahead=2)
    assert next(found) == 1
    more.set()
    assert list(found) == [2, 3]


def test_an_exception_comes_in_its_place_and_ends_the_map(cluster: bigm.Cluster, tmp_path: Path) -> None:
    found = cluster.map(divmod, [1] * 1000, [1, 2, 0, *[1] * 997])
    assert [next(found), next(found)] == [(1, 0), (0, 1)]
    with pytest.raises(ZeroDivisionError):
        next(found)
    with pytest.raises(StopIteration):
        next(found)
    ended(cluster)


def test_an_exception_of_the_arguments_comes_after_the_results_before_it(cluster: bigm.Cluster) -> None:
    def arguments() -> Iterator[int]:
        yield from range(100)
        raise ValueError("no more")

    found = cluster.map(tasks.same, arguments())
    assert list(itertools.islice(found, 100)) == list(range(100))
    with pytest.raises(ValueError, match="no more"):
        next(found)
    ended(cluster)


def test_a_map_that_is_left_asks_what_runs_to_stop(cluster: bigm.Cluster, tmp_path: Path) -> None:
    begun, stopped = tmp_path / "begun", tmp_path / "stopped"
    found = cluster.map(tasks.stoppable, range(10), [begun] * 10, [stopped] * 10, ordered=False)
    assert next(found) == 0
    eventually(lambda: len(tasks.noted(begun)) == 2)
    found.close()  # type: ignore[attr-defined]
    eventually(lambda: len(tasks.noted(stopped)) == 2, message="they run on")
    assert list(cluster.map(tasks.same, range(3))) == [0, 1, 2], "the workers are free"
    assert len(tasks.noted(begun)) == 2, "what waited was dropped"
    ended(cluster)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda c: c.map(3, [1]), "is no function"),
        (lambda c: c.map(abs), "something to map over"),
        (lambda c: c.map(abs, [1], ahead=0), "ahead must be"),
        (lambda c: c.map(abs, [1], retries=-1), "retries must be"),
        (lambda c: c.map(abs, [1], threads=0), "threads must be"),
    ],
)
def test_wrong_arguments_are_refused_at_once(cluster: bigm.Cluster, wrong: Any, words: str) -> None:
    with pytest.raises(bigm.ConfigError, match=words):
        wrong(cluster)
    with pytest.raises(TypeError, match="not iterable"):
        cluster.map(abs, 3)  # type: ignore[arg-type]


def test_a_map_that_is_never_read_starts_nothing(cluster: bigm.Cluster) -> None:
    found = cluster.map(tasks.die, [1, 2, 3])
    assert cluster._executors == []
    del found


def test_a_map_survives_the_loss_of_a_machine_where_that_was_allowed() -> None:
    with bigm.start("local", name="map-lost") as cluster:
        first, second = cluster.start(2)
        found = cluster.map(tasks.slowly, range(400), retries=1, ahead=40)
        assert list(itertools.islice(found, 50)) == list(range(50))
        assert first.state is second.state is bigm.State.RUNNING
        os.kill(first.run(os.getpid), signal.SIGKILL)
        assert list(found) == list(range(50, 400))
        assert first.state is bigm.State.STOPPED


PROGRAM = """
import bigm
def double(n): return 2 * n
if __name__ == "__main__":
    with bigm.start("inprocess") as cluster:
        cluster.start(2)
        print(sum(cluster.map(double, range(2000), progress=True)))
        print(sum(cluster.map(double, iter(range(10)), progress=True)))
"""


def test_progress_is_a_line_for_each_phase_off_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text(PROGRAM)
    shown = subprocess.run([sys.executable, str(tmp_path / "prog.py")], capture_output=True, text=True, timeout=60)
    assert shown.stdout == "3998000\n90\n", shown.stderr
    lines = [line for line in shown.stderr.splitlines() if "double" in line]
    assert [re.sub(r"\d+\.\d", "N", line) for line in lines] == [
        "bigm: double: mapping over 2,000 items",
        "bigm: double: 2,000 of 2,000 done in N s",
        "bigm: double: mapping",
        "bigm: double: 10 done in N s",
    ]


SLOW = """
import bigm, time
def slow(n): time.sleep(0.02); return n
if __name__ == "__main__":
    with bigm.start("inprocess") as cluster:
        cluster.start(2)
        print(len(list(cluster.map(slow, range(100), progress=True))))
"""


def test_progress_is_a_bar_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text(SLOW)
    driver, terminal = pty.openpty()
    env = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "prog.py")], stdout=subprocess.DEVNULL, stderr=terminal, env=env
    ) as program:
        os.close(terminal)
        shown = b""
        while True:
            try:
                piece = os.read(driver, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            shown += piece
        assert program.wait(60.0) == 0
    os.close(driver)
    assert re.search(r"slow: ━+\S* +\d+ of 100 · \d+/s · \d s".encode(), shown), shown.decode()
