from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from bigm.bootstrap.records import SERVING, LogRecord, Report
from bigm.errors import Unreachable
from bigm.timeouts import Timeouts
from bigm.watch import Watch


class Agent:
    """Keeps each poll until it is answered."""

    def __init__(self) -> None:
        self.polls: list[tuple[int, Callable[[Any], None]]] = []
        self.offsets: list[int] = []

    def submit_internal(self, method: str, args: tuple[int, int, float], *, timeout: float, done: Any) -> None:
        self.offsets.append(args[0])
        self.polls.append((args[0], done))

    def answer(self, data: bytes = b"", *, dropped: int = 0) -> None:
        offset, done = self.polls.pop(0)
        records = (LogRecord(offset + dropped, 0.0, "w0", "o", data),) if data else ()
        end = offset + dropped + len(data)
        done(Reply(Report(1, SERVING, "", "", (), records, end, dropped, end, False)))

    def hang_up(self) -> None:
        self.polls.pop(0)[1](Reply(Unreachable("lost")))


class Reply:
    def __init__(self, outcome: Report | Exception) -> None:
        self.outcome = outcome

    def result(self) -> Report:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Seen:
    """What a watch shows and says."""

    def __init__(self) -> None:
        self.data = b""
        self.notes: list[str] = []
        self.waiting: list[Callable[[], None]] = []
        self.reports = 0
        self.broken = 0

    def show(self, records: Any, *, last: bool, note: str, done: Callable[[], None]) -> None:
        self.data += b"".join(record.data for record in records)
        self.notes += [note] if note else []
        self.waiting.append(done)

    def reported(self, report: Report) -> None:
        self.reports += 1

    def broke(self) -> None:
        self.broken += 1


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def watch(agent: Agent, seen: Seen) -> Watch:
    watch = Watch(agent, Timeouts(), show=seen.show, reported=seen.reported, broken=seen.broke)  # type: ignore[arg-type]
    watch.ask()
    return watch


def test_each_poll_asks_from_where_the_last_one_ended(agent: Agent, seen: Seen, watch: Watch) -> None:
    agent.answer(b"one\n")
    agent.answer(b"two\n")
    assert seen.data == b"one\ntwo\n"
    assert agent.offsets == [0, 4, 8]
    assert seen.reports == 2


def test_a_second_question_is_not_asked_while_one_is_out(agent: Agent, watch: Watch) -> None:
    watch.ask()
    assert agent.offsets == [0]


def test_what_the_agent_no_longer_had_is_said(agent: Agent, seen: Seen, watch: Watch) -> None:
    agent.answer(b"late", dropped=7)
    assert seen.notes == ["7 bytes of output are lost"]


def test_a_poll_that_broke_is_told_and_goes_on_from_the_same_offset(agent: Agent, seen: Seen, watch: Watch) -> None:
    agent.answer(b"one\n")
    agent.hang_up()
    assert (seen.broken, agent.polls) == (1, [])
    watch.ask()
    assert agent.offsets == [0, 4, 4]


def test_while_showing_lags_no_output_is_fetched_but_deaths_are_heard(agent: Agent, seen: Seen, watch: Watch) -> None:
    agent.answer(b"x" * (1 << 20))
    assert agent.offsets[-1] > 1 << 60, "it still asks for output"
    seen.waiting.pop()()
    assert agent.offsets[-1] == 1 << 20


def test_the_end_waits_for_the_last_output(agent: Agent, seen: Seen, watch: Watch) -> None:
    ending = threading.Thread(target=watch.finish, args=(4, 60.0))
    ending.start()
    agent.answer(b"end\n")
    ending.join(10.0)
    assert not ending.is_alive()
    assert (seen.data, seen.notes) == (b"end\n", [])


def test_the_end_does_not_wait_for_the_output_of_an_agent_that_is_gone(seen: Seen, watch: Watch) -> None:
    ending = threading.Thread(target=watch.finish, args=(4, 60.0))
    ending.start()
    watch.lost()
    ending.join(10.0)
    assert not ending.is_alive()
    assert seen.notes == ["4 bytes of output could not be read: the agent is gone"]
