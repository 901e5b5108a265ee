from __future__ import annotations

import concurrent.futures
import threading
import time

import pytest

from bigm.errors import MachineStopped
from bigm.rpc import codec
from bigm.tasks import Done, Stretch, Sweep, Task, another, as_error, name_of
from waiting import eventually


def sweep(n: int, *, ordered: bool = True) -> Sweep:
    made = Sweep(abs, rows=False, retries=0, ordered=ordered)
    made.add(range(n), last=True)
    return made


def test_a_task_can_be_cancelled_again_once_it_was_taken_back():
    task = Task(abs, (1,), {}, 0)
    assert task.set_running_or_notify_cancel()
    assert not task.cancel()
    task.take_back()
    assert not task.running()
    assert task.cancel()


def test_a_task_is_settled_once_and_lets_go_of_what_it_was_made_of():
    task = Task(abs, (1,), {"x": 2}, 0)
    task.settle(1)
    task.settle(2)
    assert (1, None, (), {}) == (task.result(), task.function, task.args, task.kwargs)


def test_callbacks_are_not_run_by_whoever_settles_a_task():
    called: list[str] = []
    task = Task(abs, (1,), {}, 0)
    task.add_done_callback(lambda _: called.append(threading.current_thread().name))
    task.settle(1)
    eventually(lambda: called)
    assert called != [threading.current_thread().name]


def test_a_sweep_gives_out_positions_once_and_in_order():
    made = sweep(5)
    pieces = [made.take(2), made.take(2), made.take(2)]
    assert [(0, [0, 1]), (2, [2, 3]), (4, [4])] == [(piece.start, piece.calls) for piece in pieces if piece]
    assert made.take(2) is None
    assert not made


def test_a_sweep_can_be_cancelled_while_its_tasks_are_counted():
    """The reader leaves in one thread, the scheduler counts in another."""
    made = sweep(4)

    class Slow(Stretch):
        def __len__(self) -> int:
            made.cancel()
            return super().__len__()

    made.give_back(Slow(made, 0, [0]))
    made.give_back(Slow(made, 1, [1]))
    len(made)
    assert not made


def test_a_sweep_is_read_in_order_or_as_results_come():
    for ordered, expected in ((True, [0, 1, 2, 3]), (False, [2, 3, 0, 1])):
        made = sweep(4, ordered=ordered)
        made.settle(2, Done([2, 3], {}, True))
        assert made.ready is not ordered
        made.settle(0, Done([0, 1], {}, True))
        found = []
        while (done := made.read(None)) is not None:
            found.extend(done)
        assert expected == found
        assert 0 == made.outstanding


def test_a_reader_gives_up_at_its_deadline_and_ends_with_the_sweep():
    made = sweep(1)
    with pytest.raises(concurrent.futures.TimeoutError):
        made.read(time.monotonic() + 0.01)
    ended: list[BaseException] = []

    def read() -> None:
        try:
            made.read(None)
        except concurrent.futures.CancelledError as error:
            ended.append(error)

    reader = threading.Thread(target=read, name="reader")
    reader.start()
    made.cancel()
    reader.join(5.0)
    assert 1 == len(ended)


def test_results_are_handed_on_up_to_the_first_failure():
    error = codec.dumps_error(KeyError("k"), "m0")
    found = iter(Done([codec.dumps([1], ""), None, codec.dumps([2], "")], {1: error}, False))
    assert [1] == next(found)
    with pytest.raises(KeyError):
        next(found)


def test_each_failure_is_an_exception_of_its_own_with_the_same_to_say():
    first = MachineStopped("gone", cause="memory", hint="buy more")
    second = another(first)
    assert second is not first
    assert ("gone; buy more", "memory") == (str(second), second.cause)  # type: ignore[attr-defined]
    assert as_error(first) is first


def test_a_function_has_a_name_whatever_it_is():
    class Callable:
        def __call__(self) -> None: ...

    assert "abs" == name_of(abs)
    assert name_of(Callable()).endswith("Callable")
    assert name_of(Callable.__call__).endswith("Callable.__call__")
