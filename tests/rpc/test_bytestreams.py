"""Bytes of a method as files, and files into one; opened again where they broke."""

from __future__ import annotations

import gc
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from places import Place

from bigm.errors import CallError, MayHaveRun, Unreachable
from bigm.rpc.bytestreams import StreamReader
from bigm.rpc.streams import Incoming, Stream
from one_client import OneClient
from waiting import eventually

Make = Callable[..., Place]
SIZE = 12_000_000  # bytes; so much more than two windows that a third is not at its end yet


class Disk:
    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.hold: Optional[threading.Event] = None
        self.served = 0

    def load(self, path: str, offset: int = 0) -> Iterator[bytes]:
        self.offsets.append(offset)
        with open(path, "rb") as file:
            file.seek(offset)
            while piece := file.read(100_000):
                yield piece

    def load_once(self, path: str) -> Iterator[bytes]:
        yield from self.load(path)

    def open(self, path: str) -> Any:
        return open(path, "rb")

    def texts(self) -> Iterator[str]:
        yield "text"

    def views(self) -> Iterator[Any]:
        data = bytearray(b"abc")
        yield memoryview(data)
        data[:] = b"xyz"
        yield data

    def number(self) -> int:
        return 7

    def save(self, file: Any, path: str, offset: int = 0) -> int:
        self.offsets.append(offset)
        with open(path, "r+b") as target:
            target.seek(offset)
            while piece := file.read(10_007):
                target.write(piece)
                self.served = target.tell()
                if self.hold is not None and self.served > SIZE // 2:
                    self.hold.wait(20.0)
        return os.path.getsize(path)

    def save_once(self, file: Any, path: str) -> int:
        return self.save(file, path)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def here(place: Make, disk: Disk) -> Place:
    return place(D=disk)


@pytest.fixture
def calls(here: Place) -> OneClient:
    return OneClient(here.client())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.touch()
    return path


@pytest.mark.parametrize("method", ["D.load", "D.load_once", "D.open"])
def test_bytes_are_read_as_a_file(calls: OneClient, source: Path, method: str) -> None:
    data = source.read_bytes()
    with calls.read(method, str(source)) as file:
        assert file.readable()
        assert data[:10] == file.read(10)
        assert data[10:] == file.readall()
        assert b"" == file.read(10)
    with io.BufferedReader(calls.read(method, str(source))) as buffered:
        assert io.BytesIO(data).readline() == buffered.readline()


def test_a_file_that_was_yielded_as_views_is_what_it_was_at_the_yield(calls: OneClient) -> None:
    assert b"abcxyz" == calls.read("D.views").readall()


def test_closing_the_file_ends_the_method(calls: OneClient, here: Place, source: Path) -> None:
    file = calls.read("D.load", str(source))
    file.read(1)
    file.close()
    eventually(lambda: here.server.in_flight == 0)
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


@pytest.mark.parametrize("buffered", [True, False])
def test_a_file_that_is_collected_takes_no_lock(buffered: bool) -> None:
    """The garbage collector may come while its thread holds the connection's own."""
    told: list[str] = []

    class Side:
        def soon(self, function: Callable[[], None]) -> None:
            told.append("soon")

        def abandon(self, incoming: Incoming) -> None:
            told.append("now")

    raw = StreamReader(Stream(Incoming(Side(), 1, 0, "S.m", float("inf"))))  # type: ignore[arg-type]  # a part of one
    file = io.BufferedReader(raw) if buffered else raw
    cycle: list[Any] = [file]
    cycle.append(cycle)
    del raw, file, cycle
    gc.collect()
    assert told == ["soon"]


def test_what_yields_no_bytes_is_said(calls: OneClient) -> None:
    with pytest.raises(CallError, match=r"an item of type str.*yield bytes"):
        calls.read("D.texts").read(1)
    with pytest.raises(CallError, match="returned int, which is no stream"):
        calls.read("D.number")


def test_a_method_with_an_offset_makes_the_file_seekable(calls: OneClient, disk: Disk, source: Path) -> None:
    data = source.read_bytes()
    file = calls.read("D.load", str(source))
    assert file.seekable()
    assert 1_234_567 == file.seek(1_234_567)
    assert data[1_234_567:1_234_577] == file.read(10)
    assert 1_234_587 == file.seek(10, io.SEEK_CUR)
    assert data[1_234_587:1_234_590] == file.read(3)
    assert [0, 1_234_567, 1_234_587] == sorted(disk.offsets)  # the first may begin last: nothing of it was read
    with pytest.raises(io.UnsupportedOperation):
        file.seek(0, io.SEEK_END)
    with pytest.raises(ValueError, match="negative"):
        file.seek(-1)
    from_there = calls.read("D.load", str(source), offset=100)
    assert data[100:105] == from_there.read(5)
    from_there.seek(50)
    assert data[150:155] == from_there.read(5)


def test_a_method_without_one_does_not(calls: OneClient, source: Path) -> None:
    file = calls.read("D.load_once", str(source))
    assert not file.seekable()
    with pytest.raises(io.UnsupportedOperation, match="takes no offset"):
        file.seek(1)


def test_a_lost_connection_is_survived_where_the_method_takes_an_offset(
    calls: OneClient, here: Place, disk: Disk, source: Path
) -> None:
    data = source.read_bytes()
    found = bytearray()
    with calls.read("D.load", str(source)) as file:
        for cut_at in (1_000_000, 6_000_000):  # more than a window lies behind each: it must be opened again
            while len(found) < cut_at:
                piece = file.read(200_000)
                assert piece is not None
                found += piece
            here.cut()
        found += file.readall()
    assert data == bytes(found)
    assert 3 == len(disk.offsets)


def test_it_is_not_where_it_does_not(calls: OneClient, here: Place, source: Path) -> None:
    file = calls.read("D.load_once", str(source))
    file.read(1)
    here.cut()
    with pytest.raises((MayHaveRun, Unreachable)):
        file.readall()


def test_an_offset_by_position_leaves_the_loss_as_the_error(
    calls: OneClient, here: Place, disk: Disk, source: Path
) -> None:
    file = calls.read("D.load", str(source), 100)
    file.read(1)
    here.cut()
    with pytest.raises((MayHaveRun, Unreachable)) as caught:
        file.readall()
    assert "'offset'" in str(caught.value.__cause__)
    assert [100] == disk.offsets


def test_a_file_is_written_by_a_method(calls: OneClient, source: Path, target: Path) -> None:
    with open(source, "rb") as file:
        assert SIZE == calls.write("D.save", file, str(target))
    assert source.read_bytes() == target.read_bytes()


def pieces_of(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(77_777):
            yield piece


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("kind", ["file", "function that opens", "function that yields"])
def test_writing_goes_on_behind_what_was_taken_when_the_connection_is_lost(
    calls: OneClient, here: Place, disk: Disk, source: Path, target: Path, kind: str, idempotent: bool
) -> None:
    calls._idempotent = idempotent
    disk.hold = threading.Event()
    with open(source, "rb") as opened:
        given = {
            "file": opened,
            "function that opens": lambda: open(source, "rb"),
            "function that yields": lambda: pieces_of(source),
        }[kind]
        result: list[int] = []
        writer = threading.Thread(target=lambda: result.append(calls.write("D.save", given, str(target))))
        writer.start()
        eventually(lambda: disk.served > SIZE // 2)
        here.cut()
        disk.hold.set()
        writer.join(30.0)
    assert [SIZE] == result
    assert source.read_bytes() == target.read_bytes()
    first, second = disk.offsets
    assert 0 == first < second <= disk.served, "what was taken is not sent again, and nothing is left out"


@pytest.mark.parametrize("kind", ["an iterator", "an offset by position"])
def test_what_cannot_be_written_again_fails_with_the_loss(
    calls: OneClient, here: Place, disk: Disk, source: Path, target: Path, kind: str
) -> None:
    disk.hold = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            if kind == "an iterator":
                calls.write("D.save", pieces_of(source), str(target))
            else:
                calls.write("D.save", lambda: pieces_of(source), str(target), 0)
        except MayHaveRun as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    eventually(lambda: disk.served > SIZE // 2)
    here.cut()
    disk.hold.set()
    writer.join(30.0)
    assert 1 == len(failures)
    assert [0] == disk.offsets


def test_what_cannot_be_written_is_refused(calls: OneClient, target: Path) -> None:
    with pytest.raises(CallError, match="a binary file, an iterator of bytes"):
        calls.write("D.save", 7, str(target))
