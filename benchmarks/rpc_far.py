"""The other process of the call benchmarks: a server of ours, raw blocking TLS, or grpcio, told by its one argument.

Credentials arrive pickled on standard input; the port is written to standard output; the end of the input ends it.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bigm.authority import Authority
from bigm.rpc import streamwire
from bigm.rpc.client import Client
from bigm.rpc.identity import MACHINE, Identity
from bigm.rpc.server import Server
from bigm.rpc.tls import Credentials, client_context, server_context


class Service:
    """What is called."""

    def null(self) -> None:
        """Nothing."""

    def sleep(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)  # the method is the work itself

    def take(self, value: object) -> int:
        """Receive something big; the peak memory of this process in KiB."""
        return peak()

    def give(self, size: int) -> object:
        """Send something big."""
        import numpy

        return numpy.zeros(size, numpy.uint8)

    def count(self, n: int) -> Iterator[int]:
        """Stream small items."""
        yield from range(n)

    def pieces(self, n: int, size: int) -> Iterator[bytes]:
        """Stream big ones."""
        piece = bytes(size)
        for _ in range(n):
            yield piece

    def drain(self, items: Iterator[Any]) -> int:
        """Read a stream to its end; the peak memory of this process in KiB since its beginning."""
        reset_peak()
        for _ in items:
            pass
        return peak()

    def total(self, items: Iterator[int]) -> int:
        """Read a stream of numbers."""
        return sum(items)

    def peak(self) -> int:
        """The peak memory of this process in KiB since it was last asked."""
        found = peak()
        reset_peak()
        return found


def peak() -> int:
    """Peak resident memory of this process in KiB since `reset_peak`."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def reset_peak() -> None:
    """Begin to measure the peak anew."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


class Far:
    """A process of `kind` ("ours", "raw", "grpc") and how to reach it."""

    def __init__(self, authority: Authority, kind: str, machine: str = "m0") -> None:
        self.authority = authority
        self.machine = machine
        self.process = subprocess.Popen([sys.executable, __file__, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        credentials = _with_host_name(authority) if kind == "grpc" else authority.machine(machine)
        pickle.dump(credentials, self.process.stdin)
        self.process.stdin.flush()
        self.port = int(self.process.stdout.readline())

    def connect(self, timeout: float | None = None) -> socket.socket:
        """A raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def client(self) -> Client:
        """A client of ours."""
        expected = Identity(self.authority.cluster, MACHINE, self.machine)
        return Client(self.connect, self.authority.driver(), expected, name=self.machine)

    def raw(self) -> ssl.SSLSocket:
        """A blocking TLS connection."""
        sock = self.connect()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client_context(self.authority.driver()).wrap_socket(sock, server_hostname="x")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


def _with_host_name(authority: Authority) -> Credentials:
    """Credentials with the host name "m0", without which grpcio talks to nobody; ours have URIs only."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        authority._builder(x509.Name([]), key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("m0")]), critical=True)
        .sign(authority._key, hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    return Credentials(
        Identity(authority.cluster, MACHINE, "m0"),
        authority.ca,
        certificate.public_bytes(encoding),
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain),
    )


@contextlib.contextmanager
def far(authority: Authority, kind: str, machine: str = "m0") -> Iterator[Far]:
    """A `Far` that ends with the block."""
    process = Far(authority, kind, machine)
    try:
        yield process
    finally:
        process.close()


def _serve_ours(credentials: Credentials) -> None:
    server = Server(credentials, name="m0", accepts=streamwire.FROM_CLIENT)
    server.register("S", Service())
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        server.adopt(listener.accept()[0])


def _serve_raw(credentials: Credentials) -> None:
    """Each message begins with two lengths of 8 bytes: of what follows, and of the reply."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    context = server_context(credentials)
    while True:
        sock = listener.accept()[0]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = context.wrap_socket(sock, server_side=True)
        threading.Thread(target=_answer_raw, args=(tls,), daemon=True).start()


def _answer_raw(tls: ssl.SSLSocket) -> None:
    while True:
        head = tls.recv(4096)
        if not head:
            return
        size, reply = int.from_bytes(head[:8], "big"), int.from_bytes(head[8:16], "big")
        receive(tls, size - (len(head) - 16))
        tls.sendall(bytes(reply))


def receive(tls: ssl.SSLSocket, size: int) -> object:
    """Receive *size* bytes into a fresh buffer, blocking."""
    if size <= 0:
        return None
    import numpy

    buffer = numpy.empty(size, numpy.uint8)
    view, done = memoryview(buffer), 0
    while done < size:
        done += tls.recv_into(view[done:], min(262144, size - done))
    return buffer


def _serve_grpc(credentials: Credentials) -> None:
    import concurrent.futures

    import grpc

    def null(request: bytes, context: object) -> bytes:
        return b""

    handler = grpc.method_handlers_generic_handler(
        "S", {"null": grpc.unary_unary_rpc_method_handler(null, lambda data: data, lambda data: data)}
    )
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((handler,))
    mutual = grpc.ssl_server_credentials(
        [(credentials.key, credentials.cert)], credentials.ca, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", mutual)
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    serve = {"ours": _serve_ours, "raw": _serve_raw, "grpc": _serve_grpc}[sys.argv[1]]
    threading.Thread(target=serve, args=(pickle.load(sys.stdin.buffer),), daemon=True).start()
    sys.stdin.buffer.read()
