"""The file of a shared object, and what a worker knows of those that it is told of."""

from __future__ import annotations

import io
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigm.errors import NotPicklable
from bigm.rpc import codec
from bigm.worker import shared


class Array:
    """Memory that pickles out of band, as numpy's arrays do."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: int) -> Any:
        return Array, (pickle.PickleBuffer(self.memory),)


def stored(folder: Path, value: Any) -> tuple[str, str]:
    """The digest and path of a value's file."""
    buffer = io.BytesIO()
    digest = shared.write(buffer, codec.dumps(value, "it"))
    path = folder / digest
    path.write_bytes(buffer.getvalue())
    return digest, str(path)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 3 * codec.OUT_OF_BAND), max_size=5), st.text())
def test_an_object_comes_out_of_its_file_as_it_went_in(tmp_path_factory: Any, sizes: list[int], text: str) -> None:
    value = [text, *(Array(os.urandom(size)) for size in sizes)]
    _, path = stored(tmp_path_factory.getbasetemp(), value)
    found = shared.read(path)
    os.unlink(path)
    assert text == found[0]
    assert [each.memory for each in value[1:]] == [bytes(each.memory) for each in found[1:]]


def test_two_shares_of_one_content_have_names_of_their_own(tmp_path: Path) -> None:
    assert stored(tmp_path, [1])[0] != stored(tmp_path, [1])[0]


@pytest.fixture
def shares() -> shared.Shares:
    return shared.Shares("m0", lambda: pytest.fail("it needs no other machine"))


def in_thread(function: Any) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(function())
        except NotPicklable as error:
            answers.append(str(error))

    thread = threading.Thread(target=run, name="reader")
    thread.start()
    return thread, answers


def test_a_call_waits_until_the_object_is_there(shares: shared.Shares, tmp_path: Path) -> None:
    digest, path = stored(tmp_path, ["x"])
    os.rename(path, path + ".hidden")
    shares.expect(digest, path)
    thread, answers = in_thread(lambda: shares.value(digest))
    assert [] == answers
    os.rename(path + ".hidden", path)
    shares.here(digest)
    thread.join(20)
    assert [["x"]] == answers
    assert answers[0] is shares.value(digest)


def test_a_call_that_came_before_the_announcement_waits_for_it(shares: shared.Shares, tmp_path: Path) -> None:
    digest, path = stored(tmp_path, ["x"])
    thread, answers = in_thread(lambda: shares.value(digest))
    shares.expect(digest, path)
    thread.join(20)
    assert [["x"]] == answers


def test_a_worker_that_could_not_be_told_finds_the_file(shares: shared.Shares, tmp_path: Path) -> None:
    digest, path = stored(tmp_path, ["x"])
    shares.expect(digest, path)
    assert ["x"] == shares.value(digest)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda s, d: s.refuse(d, "no room"), "could not be brought to m0: no room"),
        (lambda s, d: s.forget(d, ""), "not shared"),
    ],
)
def test_whoever_waits_is_told_that_it_will_not_come(
    shares: shared.Shares, tmp_path: Path, end: Any, said: str
) -> None:
    shares.expect("0" * 64, str(tmp_path / "missing"))
    thread, answers = in_thread(lambda: shares.value("0" * 64))
    end(shares, "0" * 64)
    thread.join(20)
    assert said in answers[0]


def test_what_is_forgotten_leaves_no_file_and_stays_valid_where_held(shares: shared.Shares, tmp_path: Path) -> None:
    digest, path = stored(tmp_path, Array(b"1" * codec.OUT_OF_BAND))
    Path(path + ".part").touch()
    shares.expect(digest, path)
    held = shares.value(digest)
    shares.forget(digest, path)
    assert [] == list(tmp_path.iterdir())
    assert b"1" * codec.OUT_OF_BAND == bytes(held.memory)
    with pytest.raises(NotPicklable, match="not shared any more on m0; keep its handle"):
        shares.value(digest)
