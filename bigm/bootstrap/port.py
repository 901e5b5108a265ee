"""The machine's one port: accepts, reads the server name each client asks for, and passes the connection on untouched.

A client names the process it wants in its ClientHello (`bigm.rpc.identity.Identity.server_name`), which is looked at
with MSG_PEEK and left where it is, so that whoever gets the connection speaks TLS from its first byte. The name only
routes; who is who is proven by certificates, later and elsewhere.

A ClientHello may arrive in halves, or never: such a connection waits until its bytes are there (SO_RCVLOWAT: a plain
poll would report the half again and again), for a limited time, in a limited number of which the oldest goes first.
"""

from __future__ import annotations

import errno
import re
import socket
import time
from collections import OrderedDict
from typing import Callable

from bigm.bootstrap.loop import Loop

BACKLOG = 512
MAX_WAITING = 256  # connections whose ClientHello is not complete; a good client's stays here for no time at all
MAX_HELLO = 5 + (1 << 14)  # bytes of one TLS record with its header; a ClientHello has some 300 to 1,800
_ACCEPT_AT_ONCE = 64
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_ACCEPT_PAUSE = 0.1  # seconds without accepting when there are no descriptors left; clients wait in the backlog
_LOOK_AGAIN = 0.05  # seconds between two looks where SO_RCVLOWAT is not obeyed, or the client is gone already
_WORKER = re.compile(r"w(\d{1,6})\.")

_RECORD_HANDSHAKE = 22
_CLIENT_HELLO = 1
_EXTENSION_SERVER_NAME = 0


class Incomplete(Exception):
    """The ClientHello is not all there.

    Args:
        needed: count of bytes from its beginning that are certainly needed.
    """

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class NotTLS(Exception):
    """These bytes are no ClientHello."""


def server_name(data: bytes) -> str:
    """The server name in the ClientHello at the beginning of *data*, or "" when it names none.

    Raises:
        Incomplete: more bytes are needed.
        NotTLS: this is something else.
    Source: RFC 8446 sections 4.1.2 and 5.1; RFC 6066 section 3.
    """
    if (data[:1] and data[0] != _RECORD_HANDSHAKE) or (data[1:2] and data[1] != 3):
        raise NotTLS
    if len(data) < 5:
        raise Incomplete(5)
    end = 5 + int.from_bytes(data[3:5], "big")
    if end > MAX_HELLO or end < 9:
        raise NotTLS
    if len(data) < end:
        raise Incomplete(end)
    hello = _Fields(data[5:end])
    if hello.number(1) != _CLIENT_HELLO:
        raise NotTLS
    hello.skip(3 + 2 + 32)  # length (a hello in several records is read as far as the first goes), version, random
    hello.block(1)  # session id
    hello.block(2)  # cipher suites
    hello.block(1)  # compression methods
    extensions = hello.block(2)
    while extensions:
        kind, content = extensions.number(2), extensions.block(2)
        if kind == _EXTENSION_SERVER_NAME:
            names = content.block(2)
            names.skip(1)  # the only type there is: host name
            return names.block(2).text()
    return ""


def worker_of(name: str) -> int:
    """The index of the worker a server name means; -1 when it means the agent."""
    found = _WORKER.match(name)
    return int(found.group(1)) if found else -1


def listen(host: str, port: int) -> socket.socket:
    """Open the machine's one port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(BACKLOG)
    return listener


class Port:
    """Accepts on a listening socket, on the loop's thread.

    Args:
        listener: bound and listening; owned from now on.
        loop: calls us.
        deadline: seconds a client has to send its ClientHello.
        to_agent: takes a connection meant for the agent, and owns it.
        to_worker: takes a connection and the index of the worker it is meant for, and owns it.
        say: tells the machine's log.
    """

    def __init__(
        self,
        listener: socket.socket,
        loop: Loop,
        *,
        deadline: float,
        to_agent: Callable[[socket.socket], None],
        to_worker: Callable[[int, socket.socket], None],
        say: Callable[[str], None],
    ) -> None:
        self._listener = listener
        self._loop = loop
        self._deadline = deadline
        self._to_agent = to_agent
        self._to_worker = to_worker
        self._say = say
        self._waiting: OrderedDict[socket.socket, float] = OrderedDict()  # since when, oldest first
        self._starved = False
        listener.setblocking(False)
        loop.watch(listener.fileno(), self._accept)

    def __repr__(self) -> str:
        return f"<Port {self._listener.getsockname()} waiting={len(self._waiting)}>"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port we listen on."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Accept no more, and drop whoever still waits."""
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        for connection in list(self._waiting):
            self._drop(connection)

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                connection, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    self._pause(error)
                    return
                continue  # the client was gone before we came to it
            connection.setblocking(False)
            if not self._look(connection):
                self._wait(connection)

    def _pause(self, error: OSError) -> None:
        if not self._starved:
            self._say(f"cannot accept connections: {error.strerror}; trying again every {_ACCEPT_PAUSE:g} s")
        self._starved = True
        self._loop.unwatch(self._listener.fileno())
        self._loop.after(_ACCEPT_PAUSE, self._resume)

    def _resume(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.watch(self._listener.fileno(), self._accept)

    def _wait(self, connection: socket.socket) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._drop(next(iter(self._waiting)))
        if not self._waiting:
            self._loop.after(self._deadline, self._expire)
        self._waiting[connection] = time.monotonic()
        self._loop.watch(connection.fileno(), lambda: self._ready(connection))

    def _ready(self, connection: socket.socket) -> None:
        self._loop.unwatch(connection.fileno())
        if self._look(connection):
            self._waiting.pop(connection, None)
        else:
            self._loop.after(_LOOK_AGAIN, lambda: self._again(connection))

    def _again(self, connection: socket.socket) -> None:
        if connection in self._waiting:
            self._loop.watch(connection.fileno(), lambda: self._ready(connection))

    def _expire(self) -> None:
        now = time.monotonic()
        while self._waiting:
            connection, since = next(iter(self._waiting.items()))
            if since + self._deadline > now:
                self._loop.after(since + self._deadline - now, self._expire)
                return
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        del self._waiting[connection]
        try:
            self._loop.unwatch(connection.fileno())
        except KeyError:
            pass  # between two looks
        connection.close()

    def _look(self, connection: socket.socket) -> bool:
        """Pass *connection* on or close it, and return True; or False when its ClientHello is not all there."""
        try:
            data = connection.recv(MAX_HELLO, socket.MSG_PEEK)
            name = server_name(data)
        except BlockingIOError:
            return False
        except Incomplete as error:
            if not data:
                connection.close()  # it left without a word
                return True
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, error.needed)
            return False
        except (NotTLS, OSError):
            connection.close()
            return True
        self._starved = False
        self._pass_on(connection, worker_of(name))
        return True

    def _pass_on(self, connection: socket.socket, proc: int) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        connection.setblocking(True)
        if proc < 0:
            self._to_agent(connection)
        else:
            self._to_worker(proc, connection)


class _Fields:
    """Reads numbers and length-prefixed blocks; what is missing or too long is no ClientHello."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise NotTLS
        data, self._at = self._data[self._at : end], end
        return data

    def skip(self, size: int) -> None:
        self.take(size)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def block(self, size_of_length: int) -> _Fields:
        return _Fields(self.take(self.number(size_of_length)))

    def text(self) -> str:
        return self._data.decode("latin-1")
