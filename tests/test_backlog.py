from __future__ import annotations

import functools
import threading

import pytest

from bigm.backlog import LEAST, MOST, TARGET, Backlog, Pace
from bigm.tasks import Done, Stretch, Sweep, Task


def task(n: int = 0) -> Task:
    return Task(quick, (n,), {}, 0)


def sweep(n: int, most: int = 0) -> Sweep:
    made = Sweep(quick, rows=False, retries=0, most=most)
    made.add(range(n), last=True)
    return made


def quick(n: int) -> int:
    return n


def backlog(*entries: Task | Sweep, pace: float | None = None) -> Backlog:
    made = Backlog()
    for entry in entries:
        made.put(entry) if isinstance(entry, Task) else made.put_sweep(entry)
    if pace is not None:
        made.pace.saw(quick, 1, pace)
    return made


def sizes(made: Backlog, slots: int = 1) -> list[int]:
    """How many calls each batch has until nothing is left."""
    found = []
    while made.head() is not None:
        found.append(sum(map(len, made.gather(slots)[0])))
    return found


def test_a_function_that_was_not_measured_goes_alone():
    assert [1, 1, 1] == sizes(backlog(task(), task(), task()))
    assert [1, 1, 1] == sizes(backlog(sweep(3)))


def test_a_batch_has_as_many_as_take_a_hundredth_of_a_second():
    assert (100, 0.01) == (len(backlog(sweep(1000), pace=0.0001).gather(1)[0][0]), TARGET)
    assert [1, 1] == sizes(backlog(task(), task(), pace=1.0))


def test_a_batch_is_never_more_than_a_share_of_what_waits_unless_that_is_next_to_nothing():
    pace = 1e-6
    found = sizes(backlog(sweep(20_000), pace=pace), slots=2)
    least = int(LEAST / pace)
    assert [5000, 3750] == found[:2]
    assert all(size >= least for size in found[:-1])
    assert sum(found) == 20_000
    assert max(sizes(backlog(sweep(1_000_000), pace=1e-12))) <= MOST


def test_tasks_and_sweeps_share_batches_in_their_order():
    pieces, seconds = backlog(task(), sweep(5), task(), pace=0.0001).gather(1)
    assert [Task, Stretch, Task] == [type(piece) for piece in pieces]
    assert seconds == pytest.approx(7 * 0.0001)


def test_a_size_that_was_asked_for_is_kept_to():
    assert [7, 7, 6] == sizes(backlog(sweep(20, most=7)))
    assert [1, 7, 7, 6] == sizes(backlog(task(), sweep(20, most=7), pace=0.0001))


def test_what_is_given_back_comes_first_and_what_was_lost_goes_alone():
    made = backlog(*(task(n) for n in range(4)), pace=0.0001)
    pieces, _ = made.gather(1)
    assert 4 == len(pieces)
    assert isinstance(pieces[2], Task)
    pieces[2].lost = 1
    made.put(task(4))
    made.give_back(pieces)
    assert [2, 1, 2] == sizes(made)


def test_a_sweep_that_comes_back_keeps_its_positions():
    made, items = backlog(pace=0.0001), sweep(10)
    made.put_sweep(items)
    [piece], _ = made.gather(1)
    rest = piece.split(4)  # type: ignore[union-attr]
    made.give_back([rest])  # type: ignore[list-item]
    [again], _ = made.gather(1)
    assert (4, [4, 5, 6, 7, 8, 9]) == (again.start, again.calls)  # type: ignore[union-attr]


def test_what_was_cancelled_is_let_go_and_whoever_waits_is_told():
    one, other = task(), task()
    made = backlog(one, other)
    one.cancel()
    assert made.head() is other
    assert "CANCELLED_AND_NOTIFIED" == one._state


def test_all_can_be_cancelled_or_failed():
    one, items = task(), sweep(10)
    backlog(one, items).cancel()
    assert one.cancelled()
    assert items.cancelled
    one, items = task(), sweep(3)
    backlog(one, items).fail(ValueError("x"))
    assert isinstance(one.exception(), ValueError)
    done = items.read(None)
    assert isinstance(done, Done)
    with pytest.raises(ValueError, match="x"):
        next(iter(done))


def test_the_pace_follows_the_last_measurements():
    pace = Pace()
    assert pace.of(quick) is None
    pace.saw(quick, 10, 1.0)
    assert 0.1 == pace.of(quick)
    for _ in range(20):
        pace.saw(quick, 10, 2.0)
    assert 0.2 == pytest.approx(pace.of(quick), rel=0.01)
    pace.saw(quick, 0, 5.0)
    assert 0.2 == pytest.approx(pace.of(quick), rel=0.01), "nothing ran"


def test_functions_that_run_the_same_code_have_one_pace():
    pace = Pace()
    pace.saw(functools.partial(quick, 3), 1, 0.5)
    assert 0.5 == pace.of(quick)
    lock = threading.Lock()
    pace.saw(lock.acquire, 1, 0.25)
    assert 0.25 == pace.of(threading.Lock().acquire)
    for n in range(3000):
        pace.saw(type(f"F{n}", (), {})(), 1, 1.0)
    assert len(pace._seen) <= 1025
