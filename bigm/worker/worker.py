"""A worker without its process: the server, the supervisor, and who may call what.

`bigm.worker.launcher` puts a process around it; machines of the `inprocess` system are threads of the driver around it.
"""

from __future__ import annotations

import functools
import socket
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable, Optional

from bigm.errors import Busy, NotAllowed
from bigm.rpc import streamwire
from bigm.rpc.codec import Home
from bigm.rpc.identity import DRIVER, MACHINE, WORKER, Identity
from bigm.rpc.server import Server
from bigm.rpc.tls import Credentials
from bigm.worker import functions, shared
from bigm.worker.supervisor import NAME, Supervisor

if TYPE_CHECKING:
    from bigm.peers import Peers


class Worker:
    """Answers calls to the supervisor at once, and to the user's services once they are registered.

    Args:
        credentials: what it proves itself with; its identity is that of a worker.
        procs: how many workers the machine has.
        timeouts: by which services call other machines; what is missing is as by default.
        connect: how services reach other machines: from a locator and seconds to a connected socket; None: by *route*.
        route: the same as a word; see `bigm.routes`.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        procs: int = 1,
        timeouts: Optional[Mapping[str, float]] = None,
        connect: Optional[Callable[[str, float], socket.socket]] = None,
        route: str = "",
    ) -> None:
        identity = credentials.identity
        self.name = identity.machine if procs == 1 else f"{identity.machine} worker {identity.proc}"
        self.server = Server(credentials, name=self.name, accepts=streamwire.FROM_CLIENT, authorize=self._authorize)
        self.supervisor = Supervisor(self.server, self.name, self._see_cluster)
        self.server.register(NAME, self.supervisor)
        self.home = Home(identity.cluster, lambda addr: self._peers().dial(addr), worker=True)
        self.server.home = self.home
        self.home.shared = shared.Shares(self.name, lambda: self._peers()._link)
        self.server.register(shared.NAME, self.home.shared, methods=("expect", "here", "refuse", "forget", "fetch"))
        self._credentials = credentials
        self._procs = procs
        self._timeouts = dict(timeouts or {})
        self._connect = connect
        self._route = route
        self._lock = threading.Lock()
        self._made: Optional[Peers] = None

    def __repr__(self) -> str:
        return f"<Worker {self.name}: {self.server!r}>"

    def imported(self) -> None:
        """Let services be registered and functions be run: the program is imported. Until then `register` waits."""
        self.server.register(functions.NAME, functions.Functions(self.name))
        self.supervisor._imported()

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connection of which nothing was read yet."""
        self.server.adopt(sock)

    def close(self, grace: float = 0.0) -> None:
        """Let running calls end for *grace* seconds, and close all connections."""
        self.server.close(grace)
        self._let_go()

    def abort(self) -> None:
        """Cut all connections with no farewell, those to other machines too, as the death of a process does."""
        self.server.abort()
        self._let_go()

    def _let_go(self) -> None:
        if self._made is not None:
            self._made.close()
        if "bigm.variables" in sys.modules:
            sys.modules["bigm.variables"].forget(self.home)

    def _authorize(self, peer: Identity, service: str, method: str) -> None:
        authorize(peer, service, method)
        if peer.role != DRIVER and service != NAME and not self.supervisor.ready:
            raise Busy(f"{self.name} is still starting", hint="`retry_call` waits until it has set up its services")

    def _see_cluster(self, addr: str, name: str) -> object:
        peers = self._peers()
        peers.place(addr, name)
        return peers

    def _peers(self) -> Peers:
        from bigm.peer import Link  # only services that know other machines pay for the client side
        from bigm.peers import Peers
        from bigm.routes import reach
        from bigm.timeouts import Timeouts

        with self._lock:
            if self._made is None:
                who = self._credentials.identity
                connect = self._connect or functools.partial(reach, self._route)
                link = Link(self._credentials, connect, Timeouts(**self._timeouts), self.home)
                self._made = Peers(who.machine, who.proc, self._procs, link)
            return self._made


def authorize(peer: Identity, service: str, method: str) -> None:
    """The driver may call everything; peers the user's services, and ping the supervisor.

    Raises:
        NotAllowed: *peer* may not call that; do not retry.
    """
    if peer.role == DRIVER:
        return
    own = service in (NAME, shared.NAME)
    if peer.role in (MACHINE, WORKER) and (not own or (service, method) == (NAME, "ping")):
        return
    raise NotAllowed(f"{peer.uri} may not call {service}.{method}", hint="only the driver may")
