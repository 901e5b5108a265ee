"""One request for what many threads ask."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bigm.systems.ec2.gathering import Gathering
from waiting import eventually


class Requests:
    """Answers with how often it was asked; the first request takes as long as a test wants."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []
        self.times: list[float] = []
        self.go = threading.Event()
        self.error: Exception | None = None

    def __call__(self, ids: set[str]) -> int:
        self.asked.append(set(ids))
        self.times.append(time.monotonic())
        number = len(self.asked)
        assert self.go.wait(10.0)
        if self.error is not None:
            raise self.error
        return number


@pytest.fixture
def requests() -> Requests:
    return Requests()


def test_fifty_that_ask_while_a_request_is_on_its_way_share_the_next(requests: Requests) -> None:
    gathering = Gathering(requests, interval=0.0)
    with ThreadPoolExecutor(51) as pool:
        first = pool.submit(gathering.ask, ["first"])
        eventually(lambda: requests.asked)
        others = [pool.submit(gathering.ask, [str(n)]) for n in range(50)]
        eventually(lambda: len(gathering._round.ids) == 50)
        requests.go.set()
        assert 1 == first.result(10.0)
        assert [2] * 50 == [other.result(10.0) for other in others]
    assert [{"first"}, {str(n) for n in range(50)}] == requests.asked


def test_requests_keep_their_distance(requests: Requests) -> None:
    requests.go.set()
    gathering = Gathering(requests, interval=0.2)
    assert [1, 2, 3] == [gathering.ask() for _ in range(3)]
    pauses = [after - before for before, after in zip(requests.times, requests.times[1:])]
    assert min(pauses) >= 0.19, pauses


def test_an_error_is_raised_in_everyone_who_shares_it_and_nobody_else(requests: Requests) -> None:
    requests.error = OSError("no")
    gathering = Gathering(requests, interval=0.0, moment=0.05)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(gathering.ask, [str(n)]) for n in range(4)]
        eventually(lambda: requests.asked)
        requests.go.set()
        assert all(isinstance(one.exception(10.0), OSError) for one in asked)
    requests.error = None
    assert gathering.ask() == len(requests.asked)


def test_who_waits_takes_over_when_the_one_who_asks_is_interrupted(requests: Requests) -> None:
    class Interrupted(BaseException):
        """As Ctrl-C."""

    calls: list[int] = []

    def request(ids: set[str]) -> int:
        calls.append(len(calls))
        if len(calls) == 1:
            requests.go.wait(10.0)
            raise Interrupted
        return len(ids)

    gathering = Gathering(request, interval=0.0)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(gathering.ask, ["a"])
        eventually(lambda: calls)
        second = pool.submit(gathering.ask, ["b"])
        eventually(lambda: "b" in gathering._round.ids)
        requests.go.set()
        assert 1 == second.result(10.0)
        assert isinstance(first.exception(10.0), Interrupted)
