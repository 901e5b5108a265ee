"""The handshakes of all servers' connections, none of them holding up another.

A connection that says nothing costs nothing but its descriptor, until its deadline. One thread does them all: a server
that greets nobody has none, and a process may have thousands of servers.
"""

from __future__ import annotations

import logging
import os
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
    """All handshakes of a process, in one thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: list[Caller] = []
        self._peers: dict[int, Caller] = {}
        self._poller: Optional[Poller] = None

    def add(self, peer: Caller) -> None:
        """Begin a handshake; when it is done its server is told. Never waits."""
        with self._lock:
            self._new.append(peer)
            if self._poller is None:
                self._poller = Poller()
                threading.Thread(target=self._run, args=(self._poller,), name="bigm-handshakes", daemon=True).start()
            self._poller.wake()

    def drop_closed(self) -> None:
        """Drop those of servers that have closed, soon."""
        if self._poller is not None:
            self._poller.wake()

    def disown(self) -> None:
        """In a forked child: they are the parent's."""
        for peer in [*self._new, *self._peers.values()]:
            peer.closed = True
            peer.connection.disown()
        if self._poller is not None:
            self._poller.disown()

    def _run(self, poller: Poller) -> None:
        while True:
            for fd, _ in poller.wait(self._timeout()):
                peer = self._peers.get(fd)
                if peer is not None:
                    self._step(poller, peer)
            with self._lock:
                new, self._new = self._new, []
            for peer in new:
                self._make_room(poller, peer.server)
                self._peers[peer.fd] = peer
                poller.set(peer.fd, READ)
            now = time.monotonic()
            for peer in list(self._peers.values()):
                if peer.server.closed:
                    self._end(poller, peer, "the server was closed")
                elif now - peer.opened > peer.server._limits.handshake:
                    self._end(poller, peer, "no handshake within its time")

    def _timeout(self) -> float:
        if not self._peers:
            return -1.0
        due = min(peer.opened + peer.server._limits.handshake for peer in self._peers.values())
        return max(0.01, due - time.monotonic())

    def _make_room(self, poller: Poller, server: Server) -> None:
        """Above the server's limit the one that has been silent the longest goes."""
        if len(self._peers) >= server._limits.handshakes:
            silent = [peer for peer in self._peers.values() if peer.server is server]
            if len(silent) >= server._limits.handshakes:
                self._end(poller, min(silent, key=lambda peer: peer.opened), "too many handshakes at once")

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
        peer.server._welcome(peer)

    def _end(self, poller: Poller, peer: Caller, why: str) -> None:
        logger.info("%s: a connection ended before its greeting: %s", peer.server.name, why)
        del self._peers[peer.fd]
        poller.remove(peer.fd)
        peer.server._discard(peer)


_shared = Handshakes()


def shared() -> Handshakes:
    """Those of this process."""
    return _shared


def _after_fork() -> None:
    global _shared
    _shared.disown()
    _shared = Handshakes()


os.register_at_fork(after_in_child=_after_fork)
