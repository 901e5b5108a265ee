from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

import pytest

from bigm.bootstrap import imds
from bigm.bootstrap.imds import Notices
from metadata import metadata_service
from waiting import eventually

VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
QUICK = 0.01  # seconds between two questions


class Told:
    """What an agent is told."""

    def __init__(self) -> None:
        self.notices: queue.Queue[float] = queue.Queue()
        self.advice: queue.Queue[str] = queue.Queue()
        self.said: queue.Queue[str] = queue.Queue()

    @contextmanager
    def asking(self, **arguments: Any) -> Iterator[Notices]:
        notices = Notices(self.notices.put, self.advice.put, self.said.put, interval=QUICK, **arguments)
        notices.start()
        try:
            yield notices
        finally:
            notices.close()


def test_a_notice_is_passed_on_once_with_the_seconds_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    with metadata_service() as (address, metadata), told.asking() as notices:
        monkeypatch.setenv(VARIABLE, address)
        eventually(lambda: len(metadata.asked) > 6)  # and is told of nothing
        assert told.notices.empty()
        metadata.interrupt(120.0)
        assert 110.0 < told.notices.get(timeout=10.0) <= 120.0
        eventually(lambda: "not asking" in repr(notices))
    assert (True, True) == (told.notices.empty(), told.advice.empty())


def test_advice_to_leave_is_passed_on_once_and_a_notice_may_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    with metadata_service() as (address, metadata), told.asking():
        monkeypatch.setenv(VARIABLE, address)
        metadata.advise_rebalance()
        assert "likely" in told.advice.get(timeout=10.0)
        seen = len(metadata.asked)
        eventually(lambda: len(metadata.asked) > seen + 6)
        assert told.advice.empty()
        metadata.interrupt(60.0)
        assert 50.0 < told.notices.get(timeout=10.0) <= 60.0


def test_a_service_that_answers_again_is_heard_and_a_minute_of_silence_is_said() -> None:
    told, answers = Told(), iter([OSError("no route")] * 15)

    def ask(method: str, path: str, head: dict[str, str]) -> Optional[str]:
        for error in answers:
            raise error
        return "a token" if method == "PUT" else '{"action": "terminate", "time": "soon"}'

    with told.asking(ask=ask):
        assert imds.NOTICE == told.notices.get(timeout=10.0)
    assert "the metadata service does not tell of this instance's end: no route" == told.said.get_nowait()
    assert told.said.empty()


@pytest.mark.parametrize("answer", [None, "", "no JSON"])
def test_what_is_no_notice_ends_nothing(answer: Optional[str]) -> None:
    told, asked = Told(), queue.Queue[str]()

    def ask(method: str, path: str, head: dict[str, str]) -> Optional[str]:
        asked.put(path)
        return "a token" if method == "PUT" else answer if path.endswith("instance-action") else None

    with told.asking(ask=ask):
        for _ in range(6):
            asked.get(timeout=10.0)
    assert (True, True) == (told.notices.empty(), told.advice.empty())
