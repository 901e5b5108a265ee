"""A server and its clients in this process, with real certificates, for the tests of calls."""

from __future__ import annotations

import socket
import threading
from typing import Any, Optional

from bigm.rpc import streamwire
from bigm.rpc.client import Client
from bigm.rpc.identity import DRIVER, MACHINE, Identity
from bigm.rpc.server import Server
from bigm.rpc.tls import Credentials

CLUSTER = "0123456789ab"


class Certificates:
    """Credentials of one cluster, made by the authority in whatever Python has `cryptography`."""

    def __init__(self) -> None:
        self._made: dict[Identity, Credentials] = {}
        self._authority: Any = None

    def of(self, identity: Identity) -> Credentials:
        if identity not in self._made:
            from bigm.authority import Authority

            self._authority = self._authority or Authority(CLUSTER)
            self._made[identity] = self._authority.issue(identity)
        return self._made[identity]

    def driver(self) -> Credentials:
        return self.of(Identity(CLUSTER, DRIVER))

    def machine(self, name: str = "m0") -> Credentials:
        return self.of(Identity(CLUSTER, MACHINE, name))


class Place:
    """A server that listens, and clients of it; all of it ends with the test."""

    def __init__(self, certificates: Certificates, services: dict[str, object], **server: Any) -> None:
        self.certificates = certificates
        self.services = services
        self.settings = server
        self.clients: list[Client] = []
        self.accepted: list[socket.socket] = []
        self.dialled = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.server = self.make()
        self.thread = threading.Thread(target=self._accept, name="acceptor")
        self.thread.start()

    def make(self) -> Server:
        credentials = self.settings.get("credentials") or self.certificates.machine()
        server = Server(credentials, name="m0", accepts=streamwire.FROM_CLIENT, **self._others())
        for name, service in self.services.items():
            server.register(name, service)
        return server

    def _others(self) -> dict[str, Any]:
        return {name: value for name, value in self.settings.items() if name != "credentials"}

    def _accept(self) -> None:
        while True:
            try:
                sock = self.listener.accept()[0]
            except OSError:
                return
            self.accepted.append(sock)
            self.server.adopt(sock)

    def connect(self, timeout: float = 10.0) -> socket.socket:
        self.dialled += 1
        return socket.create_connection(self.address, min(timeout, 10.0))

    def client(self, credentials: Optional[Credentials] = None, machine: str = "m0", **settings: Any) -> Client:
        expected = Identity(CLUSTER, MACHINE, machine)
        client = Client(
            settings.pop("connect", self.connect),
            credentials or self.certificates.driver(),
            expected,
            name="m0",
            **settings,
        )
        self.clients.append(client)
        return client

    def cut(self) -> None:
        """Lose all connections, as a network does."""
        for sock in list(self.accepted):  # those of now, not the redial
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5.0)
        self.server.close()
