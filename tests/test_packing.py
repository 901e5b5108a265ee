from __future__ import annotations

import gc
import itertools
import threading
from typing import Any

import numpy as np
import pytest

from bigm.errors import NotPicklable
from bigm.packing import pack, settle, take_last
from bigm.rpc import codec
from bigm.tasks import Piece, Stretch, Sweep, Task
from bigm.worker.functions import ONE, PACKED, ROW, Outcomes


def echo(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def task(*args: Any, **kwargs: Any) -> Task:
    return Task(echo, args, kwargs, 0)


def stretch(*calls: Any, rows: bool = False) -> Stretch:
    sweep = Sweep(echo, rows=rows, retries=0)
    sweep.add(calls, last=True)
    piece = sweep.take(len(calls))
    assert piece is not None
    return piece


def test_atoms_travel_together_and_everything_else_by_itself():
    pieces, parts = pack([task(1), task("a"), task(1, 2), task([1]), task(1, x=2), stretch(1, 2, 3)])
    assert 6 == len(pieces)
    assert [(ONE, [1, "a"]), (ROW, [(1, 2)])] == [(part.form, part.calls) for part in parts[:2]]
    assert [(PACKED, 2), (ONE, 3)] == [(part.form, len(part.calls)) for part in parts[2:]]
    assert [(([1],), {}), ((1,), {"x": 2})] == [codec.loads(call) for call in parts[2].calls]
    assert all(codec.loads(part.function) is echo for part in parts)


def test_the_rows_of_a_map_over_several_iterables():
    assert [(ROW, [(1, 2), (3, 4)])] == [(p.form, p.calls) for p in pack([stretch((1, 2), (3, 4), rows=True)])[1]]
    [part] = pack([stretch((1, [2]), (3, [4]), rows=True)])[1]
    assert [((1, [2]), {}), ((3, [4]), {})] == [codec.loads(call) for call in part.calls]


def test_a_function_is_sent_once_for_tasks_that_follow_one_another():
    thing = [3, 1, 2]
    methods = [Task(thing.count, ([n],), {}, 0) for n in range(3)]
    assert 1 == len(pack(methods)[1])


def test_what_does_not_pickle_fails_alone_and_is_left_out():
    bad, good = task(threading.Lock()), task([1])
    worse = Task(threading.Lock().acquire, (), {}, 0)
    pieces, parts = pack([bad, worse, good])
    assert [good] == pieces
    assert [1] == [len(part.calls) for part in parts]
    assert isinstance(bad.exception(), NotPicklable)
    assert isinstance(worse.exception(), NotPicklable)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_argument_of_a_map_that_does_not_pickle_fails_in_its_place(place: int):
    calls: list[Any] = [[0], [1], [2]]
    calls[place] = threading.Lock()
    piece = stretch(*calls)
    pieces, parts = pack([piece])
    assert 2 == sum(map(len, pieces)) == sum(len(part.calls) for part in parts)
    settle(pieces, outcomes([10, 11]))
    results = itertools.chain.from_iterable(iter(lambda: piece.sweep.read(None), None))
    assert list(range(10, 10 + place)) == list(itertools.islice(results, place))
    with pytest.raises(NotPicklable):
        next(results)


def outcomes(values: list[Any], failures: dict[int, Any] | None = None) -> Outcomes:
    return Outcomes(True, values, failures or {}, [0.1])


def test_outcomes_reach_their_tasks_and_what_was_not_begun_is_told():
    one, two, three = task(1), task(2), task(3)
    error = codec.dumps_error(ValueError("x"), "m0")
    assert [three] == settle([one, two, three], outcomes(["a", None], {1: error}))
    assert "a" == one.result(0)
    assert isinstance(two.exception(0), ValueError)
    assert not three.done()


def test_outcomes_may_end_in_the_middle_of_a_stretch():
    piece = stretch(1, 2, 3, 4)
    [rest] = settle([piece], outcomes(["a", "b"]))
    assert (2, [3, 4]) == (rest.start, rest.calls)  # type: ignore[union-attr]
    assert settle([rest], outcomes(["c", "d"])) == []
    found = []
    while (done := piece.sweep.read(None)) is not None:
        found.extend(done)
    assert ["a", "b", "c", "d"] == found


def test_outcomes_told_before_are_left_out():
    error = codec.dumps_error(ValueError("x"), "m0")
    left = outcomes([1, None, 3, None], {1: error, 3: error}).after(2)
    assert ([3, None], {1: error}) == (left.values, left.failures)


def test_the_last_calls_are_taken_back_across_pieces():
    first, second, third = stretch(1, 2, 3), task(4), stretch(5, 6)
    pieces: list[Piece] = [first, second, third]
    taken = take_last(pieces, 4)
    assert [[3], [5, 6]] == [piece.calls for piece in taken if isinstance(piece, Stretch)]
    assert second in taken
    assert [[1, 2]] == [piece.calls for piece in pieces]  # type: ignore[union-attr]
    assert len(take_last(pieces, 10)) == 1
    assert pieces == []


def test_arrays_stay_where_they_are_and_no_collector_stumbles_over_them():
    """A buffer of a view of a buffer in a reference cycle crashes Python before 3.12.7 (gh-77894)."""
    array = np.arange(10_000.0)
    gc.freeze()  # what there is already need not be looked through fifty times
    try:
        for _ in range(50):
            pieces, parts = pack([task(array)])
            [call] = parts[0].calls
            assert np.shares_memory(np.frombuffer(call[1], dtype=array.dtype), array)
            ring: list[Any] = [pieces, parts, codec.dumps(parts, "parts")]
            ring.append(ring)
            del ring, pieces, parts, call
            gc.collect()
    finally:
        gc.unfreeze()
