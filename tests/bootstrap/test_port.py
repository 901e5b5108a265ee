"""The machine's one port: what a ClientHello says, and what half of one costs."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import struct
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigm.bootstrap import port as port_module
from bigm.bootstrap.loop import Loop
from bigm.bootstrap.port import Incomplete, NotTLS, Port, listen, server_name, worker_of
from bigm.rpc.identity import Identity
from waiting import eventually


def client_hello(name: str | None) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_alpn_protocols(["bigm-rpc/1", "bigm-boot/1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


HELLO = client_hello("w3.m12.0123456789ab")

names = st.from_regex(r"[a-z][a-z0-9]{0,20}(\.[a-z][a-z0-9]{0,20}){0,3}", fullmatch=True)


@settings(max_examples=50)
@given(names)
def test_the_name_a_client_asks_for_is_read(name):
    assert server_name(client_hello(name)) == name


def test_a_client_that_asks_for_no_name_gets_the_empty_one():
    assert server_name(client_hello(None)) == ""


def test_bytes_after_the_hello_change_nothing():
    assert server_name(HELLO + b"\x17\x03\x03 more") == "w3.m12.0123456789ab"


def test_every_beginning_of_a_hello_asks_for_more_than_it_has_and_no_more_than_there_is():
    for size in range(len(HELLO)):
        with pytest.raises(Incomplete) as info:
            server_name(HELLO[:size])
        assert size < info.value.needed <= len(HELLO)


@settings(max_examples=500)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_incomplete(data):
    with contextlib.suppress(Incomplete, NotTLS):
        server_name(data)


@settings(max_examples=500)
@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255))
def test_a_hello_with_a_changed_byte_is_read_or_refused(index, byte):
    data = bytearray(HELLO)
    data[index] = byte
    with contextlib.suppress(Incomplete, NotTLS):
        assert isinstance(server_name(bytes(data)), str)


def test_an_oversized_record_is_refused_at_its_header():
    with pytest.raises(NotTLS):
        server_name(b"\x16\x03\x01\xff\xff")


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n", b"\x15\x03\x03\x00\x02\x01\x00", b"\x00" * 9]
)
def test_other_protocols_are_refused_at_once(data):
    with pytest.raises(NotTLS):
        server_name(data)


@given(st.integers(0, 999_999))
def test_a_workers_server_name_leads_to_that_worker(proc):
    assert worker_of(Identity("0123456789ab", "worker", "m7", proc).server_name) == proc


@pytest.mark.parametrize("role", ["machine", "driver", "keeper", "bootstrap"])
def test_any_other_server_name_leads_to_the_agent(role):
    assert worker_of(Identity("0123456789ab", role, "w0").server_name) == -1


class Rig:
    """A port in a thread, and what it passed on."""

    def __init__(self, deadline: float = 5.0) -> None:
        self.loop = Loop()
        self.agent: list[socket.socket] = []
        self.workers: list[tuple[int, socket.socket]] = []
        self.said: list[str] = []
        self.port = Port(
            listen("127.0.0.1", 0),
            self.loop,
            deadline=deadline,
            to_agent=self.agent.append,
            to_worker=lambda proc, connection: self.workers.append((proc, connection)),
            say=self.said.append,
        )
        self.address = self.port.address
        self.thread = threading.Thread(target=self.loop.run, name="port-rig")
        self.thread.start()

    def dial(self, data: bytes = b"") -> socket.socket:
        connection = socket.create_connection(self.address, 5.0)
        connection.sendall(data)
        return connection

    def waiting(self) -> int:
        return len(self.port._waiting)

    def close(self) -> None:
        self.loop.do(self.port.close, 5.0)
        self.loop.stop()
        self.thread.join(5.0)
        self.loop.close()
        for connection in [*self.agent, *(connection for _, connection in self.workers)]:
            connection.close()


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.close()


def test_a_connection_reaches_its_worker_with_every_byte_unread(rig):
    with rig.dial(HELLO):
        proc, connection = eventually(lambda: rig.workers and rig.workers[0])
        assert proc == 3
        assert connection.recv(65536) == HELLO
        assert connection.getblocking()


def test_a_connection_without_a_workers_name_reaches_the_agent(rig):
    with rig.dial(client_hello("machine.m12.0123456789ab")):
        eventually(lambda: rig.agent)
        assert rig.workers == []


def test_a_hello_sent_byte_by_byte_arrives_whole(rig):
    with rig.dial() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(HELLO)):
            connection.send(HELLO[index : index + 1])
        _, received = eventually(lambda: rig.workers and rig.workers[0])
        assert received.recv(65536) == HELLO


def test_garbage_is_closed_at_once(rig):
    with rig.dial(os.urandom(7).join([b"\x99", b"\x99"])) as connection:
        connection.settimeout(5.0)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(10) == b""
    assert rig.agent == rig.workers == []


def cpu_seconds(rig: Rig) -> float:
    """What the port's own thread has used."""
    return time.clock_gettime(time.pthread_getcpuclockid(rig.thread.ident))


def test_half_hellos_cost_no_time_and_do_not_keep_a_good_client_waiting(rig):
    """Twenty clients stop in the middle, some of them also leave: neither spins, and the next client is served."""
    halves = [rig.dial(HELLO[: 1 + index * 12]) for index in range(20)]
    eventually(lambda: rig.waiting() == 20)
    for connection in halves[:5]:
        connection.shutdown(socket.SHUT_WR)
    before = cpu_seconds(rig)
    started = time.monotonic()
    with rig.dial(HELLO):
        eventually(lambda: rig.workers)
    assert time.monotonic() - started < 1.0
    with pytest.raises(AssertionError):
        eventually(lambda: len(rig.workers) > 1, 0.5)
    assert cpu_seconds(rig) - before < 0.1
    for connection in halves:
        connection.close()


def test_a_client_that_does_not_say_its_hello_in_time_is_closed():
    rig = Rig(deadline=0.2)
    try:
        with rig.dial(HELLO[:100]) as half, rig.dial() as silent:
            half.settimeout(5.0)
            silent.settimeout(5.0)
            with contextlib.suppress(ConnectionResetError):
                assert half.recv(1) == b""
            with contextlib.suppress(ConnectionResetError):
                assert silent.recv(1) == b""
        assert rig.waiting() == 0
    finally:
        rig.close()


def test_of_too_many_waiting_clients_the_oldest_goes_and_a_good_one_is_served(rig, monkeypatch):
    monkeypatch.setattr(port_module, "MAX_WAITING", 10)
    silent = []
    for count in range(1, 26):
        silent.append(rig.dial(b"\x16"))
        eventually(lambda: rig.waiting() >= min(count, 10))  # noqa: B023 - asked at once
    eventually(lambda: rig.waiting() == 10)
    with rig.dial(HELLO):
        eventually(lambda: rig.workers)
    for connection in silent:
        connection.close()


def test_a_client_that_resets_while_it_waits_is_forgotten():
    rig = Rig(deadline=0.3)
    try:
        connection = rig.dial(HELLO[:50])
        eventually(lambda: rig.waiting() == 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        eventually(lambda: rig.waiting() == 0)
        with rig.dial(HELLO):
            eventually(lambda: rig.workers)
    finally:
        rig.close()


def test_without_descriptors_clients_wait_in_the_backlog_and_are_served_when_there_are_some_again(rig):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket()
    probe = os.dup(0)
    os.close(probe)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
        client.connect(rig.address)
        client.sendall(HELLO)
        eventually(lambda: rig.said, poll=0.05)
        assert "Too many open files" in rig.said[0]
        assert rig.workers == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    eventually(lambda: rig.workers)
    assert len(rig.said) == 1
    client.close()
