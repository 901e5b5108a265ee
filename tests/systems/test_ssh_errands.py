"""What several askers share: answers, errors that are nobody's fault, and never a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bigm.errors import TransientError
from bigm.systems.ssh.errands import Gathered, Shared
from bigm.systems.ssh.master import Master


class Errand:
    """Run by the first asker while a second is waiting for the next turn; what it raises, in its order."""

    def __init__(self, *raises: BaseException | None) -> None:
        self.gathered = Gathered(self.run)
        self.began, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.batches: list[Sequence[int]] = []
        self._raises = list(raises)

    def run(self, batch: Sequence[int]) -> dict[int, str]:
        self.batches.append(batch)
        self.began.release()
        assert self.go_on.acquire(timeout=10.0)
        if self._raises and (error := self._raises.pop(0)) is not None:
            raise error
        return dict.fromkeys(batch, "done")

    def ask(self, *wanted: int) -> tuple[threading.Thread, list[object]]:
        outcomes: list[object] = []

        def ask() -> None:
            try:
                outcomes.append(self.gathered.get(wanted))
            except BaseException as error:  # noqa: BLE001 - compared below
                outcomes.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        return thread, outcomes

    def three(self) -> list[object]:
        """What becomes of one who asks, and of two who ask meanwhile."""
        first = self.ask(1)
        assert self.began.acquire(timeout=10.0)
        others = [self.ask(2), self.ask(3)]
        while {2, 3} != self.gathered._waiting:
            time.sleep(0.001)  # they announce nothing
        self.go_on.release(3)
        for thread, _ in (first, *others):
            thread.join(10.0)
        return [outcomes[0] for _, outcomes in (first, *others)]


def test_errands_that_come_meanwhile_are_run_together() -> None:
    errand = Errand()
    assert [{1: "done"}, {2: "done"}, {3: "done"}] == errand.three()
    assert [[1], [2, 3]] == errand.batches


def test_an_error_of_any_kind_is_for_all_whom_it_was_done_for() -> None:
    error = KeyError("left")  # an answer of another shape
    assert [{1: "done"}, error, error] == Errand(None, error).three()


def test_an_interrupt_is_for_one_and_the_others_have_it_done() -> None:
    stop = KeyboardInterrupt()
    outcomes = Errand(None, stop).three()
    assert {1: "done"} == outcomes[0]
    assert 1 == outcomes.count(stop), "who ran it"
    assert 1 == sum(outcome in ({2: "done"}, {3: "done"}) for outcome in outcomes)


def test_who_waits_for_anothers_answer_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    shared, asking, answer = Shared[str](0.0), threading.Event(), threading.Event()

    def ask() -> str:
        asking.set()
        assert answer.wait(10.0)
        return "late"

    slow = threading.Thread(target=lambda: shared.get(ask))
    slow.start()
    assert asking.wait(10.0)
    with pytest.raises(TimeoutError):
        shared.get(lambda: "mine", 0.05)
    master = Master("far", str(tmp_path), "h0")
    master._opening = shared  # type: ignore[assignment]
    with pytest.raises(TransientError, match="far: no connection within"):
        master.open(0.05)
    answer.set()
    slow.join()
    assert "mine" == shared.get(lambda: "mine", 0.05)
