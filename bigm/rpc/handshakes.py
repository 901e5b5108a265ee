"""The handshakes of a server's connections, none of them holding up another.

A connection that says nothing costs nothing but its descriptor, until its deadline.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from typing import TYPE_CHECKING, Optional

from bigm.rpc.connection import Lost, describe_tls_failure
from bigm.rpc.poller import READ, Poller

if TYPE_CHECKING:
    from bigm.rpc.caller import Caller
    from bigm.rpc.server import Server

logger = logging.getLogger("bigm.rpc")


class Handshakes:
    """All handshakes of a server, in one thread.

    Args:
        server: whose limits count, and who takes over what has shaken hands.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._new: list[Caller] = []
        self._peers: dict[int, Caller] = {}
        self._poller: Optional[Poller] = None
        self._closed = False

    def callers(self) -> list[Caller]:
        """Those whose handshake is not done."""
        return [*self._new, *self._peers.values()]

    def add(self, peer: Caller) -> None:
        """Begin a handshake; when it is done the server is told. Never waits."""
        with self._lock:
            self._new.append(peer)
            if self._poller is None:
                self._poller = Poller()
                name = f"bigm-handshakes {self._server.name}"
                threading.Thread(target=self._run, args=(self._poller,), name=name, daemon=True).start()
            self._poller.wake()

    def close(self) -> None:
        """Drop all of them, soon."""
        self._closed = True
        if self._poller is not None:
            self._poller.wake()

    def disown(self) -> None:
        """In a forked child: they are the parent's."""
        self._closed = True
        if self._poller is not None:
            self._poller.disown()

    def _run(self, poller: Poller) -> None:
        while not self._closed:
            for fd, _ in poller.wait(self._timeout()):
                peer = self._peers.get(fd)
                if peer is not None:
                    self._step(poller, peer)
            with self._lock:
                new, self._new = self._new, []
            for peer in new:
                self._make_room(poller)
                self._peers[peer.fd] = peer
                poller.set(peer.fd, READ)
            now = time.monotonic()
            for peer in list(self._peers.values()):
                if now - peer.opened > self._server._limits.handshake:
                    self._end(poller, peer, "no handshake within its time")
        for peer in self.callers():
            peer.connection.close()
        poller.close()

    def _timeout(self) -> float:
        if not self._peers:
            return -1.0
        oldest = min(peer.opened for peer in self._peers.values())
        return max(0.01, oldest + self._server._limits.handshake - time.monotonic())

    def _make_room(self, poller: Poller) -> None:
        """Above the limit the one that has been silent the longest goes."""
        if len(self._peers) >= self._server._limits.handshakes:
            self._end(poller, min(self._peers.values(), key=lambda peer: peer.opened), "too many handshakes at once")

    def _step(self, poller: Poller, peer: Caller) -> None:
        try:
            if not peer.connection.handshake_step():
                return
        except ssl.SSLError as e:
            self._end(poller, peer, describe_tls_failure(e))
            return
        except (Lost, OSError) as e:
            self._end(poller, peer, str(e))
            return
        del self._peers[peer.fd]
        poller.remove(peer.fd)
        self._server._welcome(peer)

    def _end(self, poller: Poller, peer: Caller, why: str) -> None:
        logger.info("%s: a connection ended before its greeting: %s", self._server.name, why)
        del self._peers[peer.fd]
        poller.remove(peer.fd)
        self._server._discard(peer)
