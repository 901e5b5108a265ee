"""One connection of a caller, as a server sees it."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Callable, Optional, Union

from bigm.rpc import wire
from bigm.rpc.connection import Connection
from bigm.rpc.current import CurrentCall
from bigm.rpc.identity import Identity
from bigm.rpc.poller import READ, WRITE

if TYPE_CHECKING:
    from bigm.rpc.server import Server
    from bigm.rpc.streams import Incoming
    from bigm.rpc.writers import Writer

Parked = Union[list[wire.Buffer], Callable[["Caller", int], None]]  # a big reply, or what opens a stream where asked


class Caller:
    """One connection of a caller."""

    def __init__(self, server: Server, sock: socket.socket, context: ssl.SSLContext, generation: int) -> None:
        self.server = server
        self.generation = generation
        self.opened = time.monotonic()
        self.progress = self.opened  # when bytes last arrived
        self.identity: Optional[Identity] = None
        self.jobs: dict[int, CurrentCall] = {}
        self.parked: dict[int, tuple[int, Parked]] = {}  # token: (call, what)
        self.streams: dict[tuple[int, int], Union[Incoming, Writer]] = {}  # by call and number in it
        self.last = 0
        self.goodbye = False
        self.doomed = 0.0  # when it was told to go for breaking the rules
        self.closed = False
        self.lock = threading.Lock()
        self.has_reader = True  # a thread of its own reads it: that of its handshake, later those of big payloads
        self._full = False
        self._blocked = False
        self.connection = Connection(sock, context, wire.Decoder(server._limits, server.accepts), on_blocked=self.block)
        self.fd = self.connection.fd

    def __repr__(self) -> str:
        who = self.identity.uri if self.identity else "unknown"
        return f"<connection of {who}, {len(self.jobs)} calls in flight>"

    def interest(self) -> None:
        """Tell the poller what we wait for. Under the lock.

        The end of a connection is told to whoever watches it for anything, or for nothing: one that has its own reader,
        which will find that, is better not watched at all.
        """
        if self.closed:
            return
        if self.has_reader and not self._blocked:
            self.server._poller.remove(self.fd)
            return
        reads = not self.has_reader and not self._full
        self.server._poller.set(self.fd, (READ if reads else 0) | (WRITE if self._blocked else 0))

    def give_reader(self, reader: bool) -> None:
        """While a thread of its own reads this connection, the turn does not: there may be one reader at a time."""
        with self.lock:
            self.has_reader = reader
            self.interest()

    def check_queue(self) -> None:
        """Read no more calls while too much of the replies to earlier ones is waiting to be sent."""
        full = self.connection.queued > self.server._limits.queued
        if full != self._full:
            with self.lock:
                self._full = full
                self.interest()

    def block(self) -> None:
        """The socket is full: go on when there is room."""
        with self.lock:
            self._blocked = True
            self.interest()

    def unblock(self) -> None:
        """There is room again."""
        with self.lock:
            if not self._blocked or self.closed:
                return
            self._blocked = False
            self.interest()
        if not self.connection.resume():
            self.block()
        self.check_queue()
