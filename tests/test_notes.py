from __future__ import annotations

import gc
import threading
import weakref

import pytest

from bigm.notes import Notes
from waiting import eventually


@pytest.fixture
def done() -> list[object]:
    return []


def test_notes_are_done_in_their_order_by_one_thread_with_what_is_due_after_each(done: list[object]) -> None:
    notes = Notes("test-notes", lambda: done.append(threading.current_thread().name))
    notes.start()
    notes.start()
    notes.leave(done.append, 1)
    notes.leave(done.extend, [2, 3])
    notes.close()
    assert [1, "test-notes", 2, 3, "test-notes"] == done


def test_what_is_left_before_the_start_is_done_after_it(done: list[object]) -> None:
    notes = Notes("test-notes")
    notes.leave(done.append, "early")
    assert "1 to do" in repr(notes)
    notes.start()
    eventually(lambda: done == ["early"])
    notes.close()


def test_nothing_is_done_after_the_end_which_may_come_before_the_start(done: list[object]) -> None:
    notes = Notes("test-notes")
    notes.close()
    notes.start()
    notes.leave(done.append, "late")
    assert "<Notes for test-notes: closed>" == repr(notes)
    assert not any(thread.name == "test-notes" for thread in threading.enumerate())
    assert [] == done


def test_a_note_that_meets_a_bug_is_logged_and_the_next_one_is_done(
    done: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes("test-notes")
    notes.start()
    notes.leave(lambda: done.append([][0]))
    notes.leave(done.append, 2)
    notes.close()
    assert [2] == done
    assert "test-notes met a bug" in caplog.text


def test_the_garbage_collector_may_leave_one_while_the_thread_is_started(
    done: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self

    notes = Notes("test-notes")
    start = threading.Thread.start

    def collect_and_start(thread: threading.Thread) -> None:
        weakref.finalize(Cycle(), notes.leave, done.append, "gone")
        gc.collect()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", collect_and_start)
    notes.start()
    monkeypatch.undo()
    notes.close()
    assert ["gone"] == done


def test_a_thread_that_waits_keeps_nothing_of_the_last_note() -> None:
    class Big:
        def use(self) -> None:
            """The note."""

    notes, big = Notes("test-notes"), Big()
    notes.start()
    notes.leave(big.use)
    alive = weakref.ref(big)
    del big
    eventually(lambda: alive() is None)
    notes.close()


def test_the_thread_itself_may_end_it(done: list[object]) -> None:
    notes = Notes("test-notes")
    notes.start()
    notes.leave(notes.close)
    eventually(lambda: notes.closed)
    notes.leave(done.append, "late")
    assert [] == done
