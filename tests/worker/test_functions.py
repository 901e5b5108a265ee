"""The service `Functions` of a worker that is a thread of this process, called over real TLS."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bigm.authority import Authority
from bigm.rpc import codec
from bigm.rpc.client import Client
from bigm.worker.functions import ONE, PACKED, ROW, Lane, Outcomes, Part
from bigm.worker.worker import Worker
from waiting import eventually

AUTHORITY = Authority()
LANE = Lane("lane", 1, None)
GATE = threading.Event()
RAN: list[Any] = []


@pytest.fixture
def client() -> Iterator[Client]:
    GATE.clear()
    RAN.clear()
    worker = Worker(AUTHORITY.worker("m0", 0))
    worker.imported()

    def connect(timeout: float) -> socket.socket:
        ours, theirs = socket.socketpair()
        worker.adopt(theirs)
        return ours

    client = Client(connect, AUTHORITY.driver(), AUTHORITY.worker("m0", 0).identity, name="m0", dial_timeout=10.0)
    yield client
    GATE.set()
    client.close()
    worker.close(1.0)


def run(value: Any) -> Any:
    RAN.append(value)
    if value == "wait":
        assert GATE.wait(20.0)
    if value == "fail":
        raise ValueError(value)
    if value == "exit":
        raise SystemExit(3)
    return value


def refuse() -> None:
    raise OSError("no disk")


def part(*calls: Any, function: Any = run, form: int = ONE) -> Part:
    return Part("run", codec.dumps(function, "function run"), form, list(calls))


def batch(client: Client, *parts: Part, lane: Lane = LANE, ticket: int = 1) -> Any:
    return client.submit("Functions.batch", (lane, ticket, list(parts)), timeout=30.0)


def failures(outcomes: Outcomes) -> dict[int, str]:
    return {position: type(codec.loads_error(error)).__name__ for position, error in outcomes.failures.items()}


def test_a_batch_runs_its_calls_in_order_and_a_failure_is_an_outcome(client: Client):
    outcomes = batch(client, part(1, "fail", 2, "exit", 3)).result()
    assert (True, [1, None, 2, None, 3]) == (outcomes.plain, outcomes.values)
    assert {1: "ValueError", 3: "ServiceError"} == failures(outcomes)
    assert 1 == len(outcomes.seconds)


def test_calls_travel_in_three_forms_and_results_that_are_no_atoms_each_by_itself(client: Client):
    packed = [list(codec.dumps_call("run", ([n],), {})) for n in range(2)]
    outcomes = batch(client, part(1), part((7, 2), form=ROW, function=divmod), part(*packed, form=PACKED)).result()
    assert not outcomes.plain
    assert [1, (3, 1), [0], [1]] == [codec.loads(value) for value in outcomes.values]
    assert 3 == len(outcomes.seconds)


def test_a_result_that_does_not_pickle_fails_alone(client: Client):
    outcomes = batch(client, part(1), part((), form=ROW, function=threading.Lock), part(2)).result()
    assert {1: "NotPicklable"} == failures(outcomes)
    assert [1, 2] == [codec.loads(outcomes.values[n]) for n in (0, 2)]


def test_what_cannot_be_rebuilt_there_fails_and_the_rest_runs(client: Client):
    lost = Part("gone", [b"cno_such_module\nf\n."], ONE, [1, 2])
    bad = [[b"cno_such_module\nf\n."]]
    outcomes = batch(client, lost, part(*bad, form=PACKED), part(3)).result()
    assert {0: "NotPicklable", 1: "NotPicklable", 2: "NotPicklable"} == failures(outcomes)
    assert 3 == outcomes.values[3]
    with pytest.raises(Exception, match=r"cannot rebuild function gone on m0: ModuleNotFoundError.*sys.path there is"):
        raise codec.loads_error(outcomes.failures[0])


def test_batches_of_a_lane_take_turns_and_those_of_others_do_not_wait(client: Client):
    first = batch(client, part("wait"))
    eventually(lambda: RAN == ["wait"])
    second = batch(client, part("second"), ticket=2)
    assert ["other"] == batch(client, part("other"), lane=Lane("other", 1, None)).result().values
    assert not second.done()
    GATE.set()
    assert (["wait"], ["second"]) == (first.result().values, second.result().values)


def test_a_lane_runs_as_many_batches_at_once_as_it_says(client: Client):
    lane = Lane("wide", 2, None)
    batches = [batch(client, part("wait"), lane=lane, ticket=n) for n in range(3)]
    eventually(lambda: len(RAN) == 2)
    GATE.set()
    assert [["wait"]] * 3 == [each.result().values for each in batches]


def test_recall_takes_back_what_was_not_begun_and_tells_what_is_done(client: Client):
    running = batch(client, part(1, 2, "wait", 3), part(4, 5))
    waiting = batch(client, part(6, 7), ticket=2)
    eventually(lambda: RAN == [1, 2, "wait"])

    eventually(lambda: 2 in client.call("Functions.recall", ("lane", {2: 0, 99: 0}), timeout=10.0))
    client.call("Functions.recall", ("lane", {1: 0}), timeout=10.0)
    GATE.set()
    assert [1, 2, "wait"] == running.result().values
    assert [] == waiting.result().values
    assert [1, 2, "wait"] == RAN, "what was taken back has not run"


def test_recall_counts_what_it_takes_and_leaves_out_what_was_told(client: Client):
    running = batch(client, part(1, 2, "wait", 3), part(4, 5))
    eventually(lambda: RAN == [1, 2, "wait"])
    found = client.call("Functions.recall", ("lane", {1: 1}), timeout=10.0)[1]
    assert (3, [2]) == (found.taken, found.outcomes.values)
    found = client.call("Functions.recall", ("lane", {1: 2}), timeout=10.0)[1]
    assert (0, []) == (found.taken, found.outcomes.values)
    GATE.set()
    assert [1, 2, "wait"] == running.result().values


def test_a_batch_whose_caller_has_given_up_begins_nothing_more(client: Client):
    running = batch(client, part("wait", 1, 2))
    eventually(lambda: RAN == ["wait"])
    assert running.cancel()
    waiting = batch(client, part("next"), ticket=2)  # the cancellation, sent before, has arrived when this one has
    eventually(lambda: client.call("Functions.recall", ("lane", {2: 0}), timeout=10.0))
    GATE.set()
    waiting.result()
    assert ["wait"] == RAN[:1]
    assert 1 not in RAN


def test_an_initializer_runs_once_and_its_failure_is_that_of_every_batch(client: Client):
    begin = codec.dumps((run, ("begun",)), "the initializer")
    lane = Lane("begins", 1, begin)
    assert [["a"], ["b"]] == [batch(client, part(value), lane=lane).result().values for value in "ab"]
    assert ["begun", "a", "b"] == RAN
    broken = Lane("broken", 1, codec.dumps((refuse, ()), "the initializer"))
    for _ in range(2):
        outcomes = batch(client, part(1), lane=broken).result()
        assert (0, "OSError") == (len(outcomes.values), type(codec.loads_error(outcomes.broken)).__name__)
    client.call("Functions.forget", ("begins",), timeout=10.0)
    batch(client, part("c"), lane=lane).result()
    assert ["begun", "a", "b", "begun", "c"] == RAN
