"""What a server does with callers that break the rules, and with methods that are slow."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import pytest
from places import Certificates, Place

from bigm.rpc import codec, wire
from bigm.rpc.current import CurrentCall
from bigm.rpc.methods import Method
from bigm.rpc.server import Job, Server
from bigm.rpc.tls import client_context
from bigm.rpc.wire import Limits
from waiting import eventually

Make = Callable[..., Place]
HEAD = struct.Struct("!BBHIQ")


class Service:
    def __init__(self) -> None:
        self.released = threading.Event()
        self.pause = 0.0

    def null(self) -> None:
        pass

    def echo(self, value: Any) -> Any:
        return value

    def usually_quick(self) -> None:
        if self.pause:
            self.released.wait(self.pause)

    def wait(self) -> bool:
        return self.released.wait(20.0)

    def spin(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass


class Raw:
    """A caller that sends whatever it wants, after an honest handshake."""

    def __init__(self, place: Place, certificates: Certificates) -> None:
        sock = socket.create_connection(place.address, 10.0)
        self.tls = client_context(certificates.driver()).wrap_socket(sock, server_hostname="x")
        self.decoder = wire.Decoder(Limits(), wire.FROM_SERVER)
        self.events: list[Any] = []
        self.until(wire.Hello)

    def send(self, data: bytes) -> None:
        self.tls.sendall(data)

    def until(self, kind: type) -> Any:
        """The next event of a kind."""
        while True:
            for i, event in enumerate(self.events):
                if isinstance(event, kind):
                    del self.events[i]
                    return event
            self.events += self.decoder.feed(self.tls.recv(65536))

    def at_end(self) -> bool:
        try:
            return self.tls.recv(1) == b""
        except (ssl.SSLError, OSError):
            return True


def joined(buffers: Any) -> bytes:
    return b"".join(bytes(buffer) for buffer in buffers)


@pytest.fixture
def service() -> Any:
    service = Service()
    yield service
    service.released.set()


# Callers that break the rules.


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "a frame of type 71"),
        (HEAD.pack(wire.CALL, 0, 0, 1 << 30, 1), "a header of 1073741824 bytes; at most 16384"),
        (HEAD.pack(wire.REPLY, 0, 0, 0, 1), "a frame of type 3, which is not allowed here"),
    ],
)
def test_garbage_on_a_connection_ends_it_with_a_reason_and_no_other(
    place: Make, certificates: Certificates, service: Service, data: bytes, reason: str
) -> None:
    here = place(S=service)
    client = here.client()
    client.call("S.null")
    raw = Raw(here, certificates)
    raw.send(data)
    assert reason in raw.until(wire.Goodbye).reason
    assert raw.at_end()
    raw.tls.close()
    client.call("S.null")
    assert 2 == here.dialled + 1, "the other connection lives"


def test_half_a_frame_ends_its_connection_after_a_while(
    place: Make, certificates: Certificates, service: Service
) -> None:
    here = place(limits=Limits(stall=0.2), S=service)
    client = here.client()
    client.call("S.null")
    raw = Raw(here, certificates)
    raw.send(HEAD.pack(wire.CALL, 0, 0, 100, 1) + b"half")
    assert "left unfinished for 0.2 s" in raw.until(wire.Goodbye).reason
    raw.tls.close()
    client.call("S.null")
    assert 1 == here.dialled


def test_half_a_big_payload_ends_its_connection_after_a_while(
    place: Make, certificates: Certificates, service: Service
) -> None:
    here = place(limits=Limits(stall=0.2), S=service)
    raw = Raw(here, certificates)
    raw.send(joined(wire.call(1, "S.echo", 60.0, [bytes(1 << 20)], flags=wire.DIRECT))[: 1 << 19])
    assert "nothing arrived for 0.2 s" in raw.until(wire.Goodbye).reason
    raw.tls.close()


def test_bytes_that_are_no_tls_end_their_connection_at_once(place: Make, service: Service) -> None:
    here = place(S=service)
    with socket.create_connection(here.address, 10.0) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        received = b""
        while piece := sock.recv(4096):
            received += piece
    assert b"bigm" not in received
    here.client().call("S.null")


def test_silent_connections_hold_up_nobody_and_end_by_themselves(place: Make, service: Service) -> None:
    here = place(limits=Limits(handshake=0.5, handshakes=20), S=service)
    silent = [socket.create_connection(here.address, 10.0) for _ in range(30)]
    silent[-1].sendall(b"\x16\x03\x01")  # the beginning of a ClientHello
    begin = time.monotonic()
    here.client().call("S.null", timeout=10)
    assert time.monotonic() - begin < 5.0
    for sock in silent:
        assert sock.recv(1) == b""
        sock.close()


def test_a_stranger_is_let_go_and_nothing_it_sends_is_read(place: Make, service: Service) -> None:
    from bigm.authority import Authority

    here = place(S=service)
    context = client_context(Authority().driver())
    context.verify_mode = ssl.CERT_NONE
    tls = context.wrap_socket(socket.create_connection(here.address, 10.0), server_hostname="x")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _send_until_refused(tls, joined(wire.call(1, "S.null", 1.0, [b"x"])))
    tls.close()
    assert {} == here.server.stats.snapshot()


def _send_until_refused(tls: ssl.SSLSocket, data: bytes) -> None:
    tls.sendall(data)
    while tls.recv(100):
        pass


def test_a_caller_without_a_certificate_gets_no_greeting(place: Make, service: Service) -> None:
    """In TLS 1.3 it has finished its handshake before it is refused: no call may leave before the greeting."""
    here = place(S=service)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = context.wrap_socket(socket.create_connection(here.address, 10.0), server_hostname="x")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert b"" != tls.recv(100)
    tls.close()


def test_a_caller_that_reads_nothing_is_read_no_more_and_others_go_on(
    place: Make, certificates: Certificates, service: Service
) -> None:
    here = place(limits=Limits(queued=1 << 20), S=service)
    raw = Raw(here, certificates)
    raw.tls.setblocking(False)
    client, arguments, id = here.client(), codec.dumps_call("S.echo", (bytes(60000),), {}), 0
    data, idle_since = b"", time.monotonic()
    while time.monotonic() - idle_since < 0.3:
        try:
            if not data:
                id += 1
                data = joined(wire.call(id, "S.echo", 60.0, arguments))
            data = data[raw.tls.send(data) :]
            idle_since = time.monotonic()
        except ssl.SSLWantWriteError:
            client.call("S.null", timeout=10)
    client.call("S.null", timeout=10)
    queued = max(peer.connection.queued for peer in here.server._peers.values())
    assert 1 << 20 <= queued < 4 << 20, "back-pressure: what it does not read is not piled up here"
    raw.tls.close()


def test_a_connection_that_is_cut_within_a_big_payload_has_one_reader_still(
    place: Make, certificates: Certificates, service: Service
) -> None:
    """Its end is told by the poller to whoever waits there, who must leave it to the thread that reads the payload."""
    here = place(S=service)
    client = here.client()
    client.call("S.null")
    others = list(here.server._peers.values())
    raw = Raw(here, certificates)
    (peer,) = [peer for peer in here.server._peers.values() if peer not in others]
    held, inside, read = threading.Event(), [], peer.connection.read

    def read_slowly() -> list[wire.Event]:
        if peer.has_reader:
            inside.append(threading.current_thread())
            held.wait(20.0)
        return read()

    peer.connection.read = read_slowly  # type: ignore[method-assign]
    raw.send(joined(wire.call(1, "S.echo", 60.0, codec.dumps_call("S.echo", (bytes(8 << 20),), {})))[: 4 << 16])
    eventually(lambda: inside)
    peer.connection.shutdown()
    client.call("S.null", timeout=5.0)  # whoever has the turn went round, and was told of the end
    assert 1 == len(inside)
    held.set()
    eventually(lambda: peer.closed)
    raw.tls.close()


# Methods that are slow.


def test_a_usually_quick_method_that_waits_holds_up_nobody(place: Make, service: Service) -> None:
    """The watch takes the turn away from it."""
    client = place(S=service).client()
    for _ in range(200):
        client.call("S.usually_quick")
    service.pause = 20.0
    stuck = client.submit("S.usually_quick")
    begin = time.monotonic()
    for _ in range(20):
        client.call("S.null", timeout=10)
    assert time.monotonic() - begin < 5.0
    assert not stuck.done()
    service.released.set()
    stuck.result(10)


def test_many_waiting_methods_run_at_the_same_time(place: Make, service: Service) -> None:
    here = place(S=service)
    client = here.client()
    futures = [client.submit("S.wait") for _ in range(200)]
    eventually(lambda: here.server.in_flight == 200)
    eventually(lambda: sum("bigm-call" in thread.name for thread in threading.enumerate()) >= 200)
    service.released.set()
    assert all(future.result(20) for future in futures)
    eventually(lambda: sum("bigm-call" in thread.name for thread in threading.enumerate()) <= 10)


def test_a_method_that_computes_does_not_stop_the_others(place: Make, service: Service) -> None:
    client = place(S=service).client()
    busy = client.submit("S.spin", (1.0,))
    client.call("S.null", timeout=10)
    assert not busy.done()
    busy.result(20)


def test_a_slow_method_that_is_quick_again_is_known_to_be(place: Make, service: Service) -> None:
    here = place(S=service)
    client = here.client()
    method = here.server._services["S"]["usually_quick"]
    service.pause = 0.05
    client.call("S.usually_quick")
    eventually(lambda: method.slow_runs == 1)
    assert not method.slow, "one slow run says little"
    client.call("S.usually_quick")
    eventually(lambda: method.slow)
    service.pause = 0.0
    eventually(lambda: client.call("S.usually_quick") or not method.slow)


# Registering, closing.


def test_a_name_registered_twice_keeps_its_first_service(place: Make) -> None:
    class One:
        def name(self) -> str:
            return "one"

    class Two(One):
        def name(self) -> str:
            return "two"

    here = place(S=One())
    here.server.register("S", Two())
    assert "one" == here.client().call("S.name")


def test_properties_are_not_called_to_find_methods(place: Make) -> None:
    class Service:
        def __init__(self) -> None:
            self.read = 0

        @property
        def costly(self) -> int:
            self.read += 1
            return self.read

        def null(self) -> None:
            pass

    service = Service()
    place(S=service).client().call("S.null")
    assert 0 == service.read


def test_closing_answers_what_runs_and_refuses_what_comes(place: Make, service: Service) -> None:
    here = place(S=service)
    client = here.client()
    future = client.submit("S.wait")
    eventually(lambda: here.server.in_flight == 1)
    closer = threading.Thread(target=here.server.close, args=(10.0,))
    closer.start()
    eventually(lambda: here.server._closed)
    service.released.set()
    assert future.result(10)
    closer.join(10)
    assert not closer.is_alive()


def test_a_server_and_its_clients_leave_no_descriptor(certificates: Certificates, place: Make) -> None:
    here = place(S=Service())
    here.client().call("S.null")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        other = Place(certificates, {"S": Service()})
        other.client().call("S.echo", (bytes(1 << 20),))
        other.close()
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_a_server_that_never_served_leaves_no_descriptor(certificates: Certificates) -> None:
    before = len(os.listdir("/proc/self/fd"))
    Server(certificates.machine(), name="m0").close()
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_a_stream_whose_fetching_connection_has_ended_meanwhile_is_cancelled(place: Make) -> None:
    """Whoever let go of that connection has not seen it there, and nobody else would ever end it."""
    here = place(S=Service())
    server, call = here.server, wire.Call(1, 0, "S.null", float("inf"), [])
    identity = here.certificates.driver().identity
    old = types.SimpleNamespace(fd=-1, lock=threading.Lock(), jobs={}, goodbye=False, closed=False)
    gone = types.SimpleNamespace(fd=-2, lock=threading.Lock(), jobs={}, goodbye=False, closed=True)
    job = Job(old, call, Method(print), CurrentCall(identity, "S.null", None))  # type: ignore[arg-type]  # parts of one
    server.move(job, gone, 7)  # type: ignore[arg-type]  # as above
    assert job.current.cancelled
    server.finish(job, [])
    assert 0 == server.in_flight
