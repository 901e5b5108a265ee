"""The relay passes bytes on in both directions as they come, and drops what it cannot."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigm.routes import LONGEST, reach, unix_connect
from bigm.systems.ssh.relay import Relay


class Places:
    """What can be dialled: each locator that begins with "ssh:" is one end of a pair, whose other end is kept."""

    def __init__(self) -> None:
        self.ends: dict[str, socket.socket] = {}
        self.dialled = threading.Semaphore(0)

    def dial(self, locator: str, timeout: float) -> socket.socket:
        if not locator.startswith("ssh:"):
            raise ConnectionError(f"there is no machine at {locator}")
        ours, self.ends[locator] = socket.socketpair()
        self.ends[locator].settimeout(10.0)
        self.dialled.release()
        return ours

    def end(self, locator: str) -> socket.socket:
        assert self.dialled.acquire(timeout=10.0)
        return self.ends[locator]


@pytest.fixture
def places() -> Iterator[Places]:
    places = Places()
    yield places
    for end in places.ends.values():
        end.close()


@pytest.fixture
def relay(tmp_path: Path, places: Places) -> Iterator[Relay]:
    relay = Relay(str(tmp_path / "relay"), places.dial)
    yield relay
    relay.close()
    assert not (tmp_path / "relay").exists()


def read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := connection.recv(1 << 20)):
        data += piece
    return data


def test_a_machine_elsewhere_is_reached_by_the_relay_and_bytes_go_both_ways(relay: Relay, places: Places) -> None:
    with reach(f"ssh:here#={Path(relay.path).parent}", "ssh:there#7", 10.0) as here:
        here.sendall(b"hello")
        there = places.end("ssh:there#7")
        assert b"hello" == read(there, 5)
        there.sendall(b"yes?")
        assert b"yes?" == read(here, 4)
        here.shutdown(socket.SHUT_WR)
        assert b"" == there.recv(1), "the end of one direction is passed on"
        there.sendall(b"last words")
        there.close()
        assert b"last words" == read(here, 100), "and the other still flows"


def test_megabytes_pass_though_nobody_reads_for_a_while(relay: Relay, places: Places) -> None:
    data = bytes(range(256)) * 40_000
    with unix_connect(relay.path, 10.0) as here:
        writer = threading.Thread(target=lambda: here.sendall(b"ssh:a#0\n" + data))
        writer.start()
        there = places.end("ssh:a#0")
        assert writer.is_alive(), "what is not taken stops who sends"
        assert data == read(there, len(data))
        writer.join()


def test_a_line_that_comes_byte_by_byte_is_understood(relay: Relay, places: Places) -> None:
    with unix_connect(relay.path, 10.0) as here:
        for byte in b"ssh:b#1\nx":
            here.sendall(bytes([byte]))
        assert b"x" == read(places.end("ssh:b#1"), 1)


@pytest.mark.parametrize("line", [b"nowhere\n", b"\n", b"\xff\xfe\n", b"s" * (LONGEST + 1), b""])
def test_what_names_no_machine_is_dropped(relay: Relay, line: bytes) -> None:
    with unix_connect(relay.path, 10.0) as here:
        here.sendall(line)
        if not line:
            here.shutdown(socket.SHUT_WR)
        assert b"" == here.recv(1)


def test_who_does_not_say_whom_it_means_is_cut(tmp_path: Path, places: Places) -> None:
    relay = Relay(str(tmp_path / "hasty"), places.dial, line=0.2)
    with unix_connect(relay.path, 10.0) as silent, unix_connect(relay.path, 10.0) as here:
        here.sendall(b"ssh:a#0\n")
        there = places.end("ssh:a#0")
        silent.sendall(b"ssh:")
        assert b"" == silent.recv(1)
        there.sendall(b"still there")
        assert b"still there" == read(here, 11)
    relay.close()


def test_connections_above_the_limit_wait_for_one_to_end(tmp_path: Path, places: Places) -> None:
    relay = Relay(str(tmp_path / "narrow"), places.dial, most=1)
    with unix_connect(relay.path, 10.0) as first, unix_connect(relay.path, 10.0) as second:
        first.sendall(b"ssh:a#0\n")
        second.sendall(b"ssh:b#0\n")
        places.end("ssh:a#0").sendall(b"a")
        assert b"a" == read(first, 1)
        assert not places.dialled.acquire(timeout=0.2), "nobody has seen it"
        first.close()
        places.ends["ssh:a#0"].close()
        places.end("ssh:b#0").sendall(b"b")
        assert b"b" == read(second, 1)
    relay.close()


class Exhausted:
    """A listener of a process that has no descriptors left, for a while."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.refusals = 0
        self.is_over = False

    def accept(self) -> tuple[socket.socket, object]:
        if self.is_over:
            return self._listener.accept()
        self.refusals += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def fileno(self) -> int:
        return self._listener.fileno()

    def close(self) -> None:
        self._listener.close()


def test_where_descriptors_have_run_out_a_connection_waits_and_costs_nothing(relay: Relay, places: Places) -> None:
    relay._listener = listener = Exhausted(relay._listener)  # type: ignore[assignment]
    with unix_connect(relay.path, 10.0) as here:
        here.sendall(b"ssh:a#0\n")
        before = time.process_time()
        assert not places.dialled.acquire(timeout=1.0)
        assert 1 <= listener.refusals <= 10, "some a second, not as many as there is time for"
        assert time.process_time() - before < 0.5
        listener.is_over = True
        places.end("ssh:a#0").sendall(b"a")
        assert b"a" == read(here, 1)


def test_the_end_of_the_relay_is_the_end_of_its_connections(tmp_path: Path, places: Places) -> None:
    relay = Relay(str(tmp_path / "other"), places.dial)
    with unix_connect(relay.path, 10.0) as here, unix_connect(relay.path, 10.0) as half:
        here.sendall(b"ssh:c#0\n")
        there = places.end("ssh:c#0")
        relay.close()
        assert [b"", b"", b""] == [here.recv(1), half.recv(1), there.recv(1)]
