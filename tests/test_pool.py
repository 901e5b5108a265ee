from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from bigm.pool import Pool
from waiting import eventually


def test_jobs_run_side_by_side_up_to_the_limit() -> None:
    pool = Pool("bigm-test", 3)
    together, go = threading.Semaphore(0), threading.Event()

    def job() -> None:
        together.release()
        go.wait(10.0)

    for _ in range(5):
        pool.submit(job)
    assert all(together.acquire(timeout=10.0) for _ in range(3))
    assert not together.acquire(blocking=False), "a fourth thread"
    go.set()
    assert all(together.acquire(timeout=10.0) for _ in range(2))
    pool.close()


def test_an_idle_thread_is_used_again() -> None:
    pool = Pool("bigm-test", 8)
    names: list[str] = []
    for count in range(1, 20):
        pool.submit(lambda: names.append(threading.current_thread().name))
        eventually(lambda count=count: len(names) == count and pool._idle == 1)
    assert set(names) == {"bigm-test-0"}
    pool.close()


def test_threads_without_a_job_end_and_are_made_again() -> None:
    pool = Pool("bigm-test", 2, idle=0.05)
    for _ in range(3):
        done = threading.Event()
        pool.submit(done.set)
        assert done.wait(10.0)
        eventually(lambda: not _threads(), message="an idle thread has not ended")
    pool.close()


def test_a_job_that_raises_takes_no_thread_with_it(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool("bigm-test", 1)
    done = threading.Event()
    pool.submit(int, "x")
    pool.submit(done.set)
    assert done.wait(10.0)
    assert "invalid literal" in caplog.text
    pool.close()


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("bigm-test")]


def test_close_lets_what_was_submitted_finish_and_ends_the_threads() -> None:
    pool = Pool("bigm-test", 2)
    done: list[int] = []
    for number in range(50):
        pool.submit(done.append, number)
    pool.close()
    assert sorted(done) == list(range(50))
    assert not _threads()


def test_after_close_nothing_runs() -> None:
    pool = Pool("bigm-test", 2)
    pool.close()
    ran: list[int] = []
    pool.submit(ran.append, 1)
    assert ran == []


def test_where_no_thread_can_be_made_jobs_run_in_the_calling_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    ran: list[int] = []
    Pool("bigm-test", 2).submit(ran.append, 1)
    assert ran == [1]


def test_jobs_run_while_the_interpreter_shuts_down() -> None:
    program = """
import atexit, threading
from bigm.pool import Pool
pool = Pool("bigm-test", 2)
done = threading.Event()
def at_exit():
    pool.submit(done.set)
    print("ran" if done.wait(5) else "did not run")
atexit.register(at_exit)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout == "ran\n", result.stderr
