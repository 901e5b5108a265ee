"""Takes the turn from calls that run for too long: one thread for all servers of this process.

One for each server would be simpler, but each wakes every millisecond while calls are run, and of thousands (machines
in one process) most of the time would go into waking them.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigm.rpc.server import Server

WATCH = 0.001  # seconds; a call that runs for longer loses the turn
_LULL = 50  # looks at a server that ran nothing, before it is looked at no more


class Turns:
    """Looks every millisecond at the servers that run calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._servers: dict[Server, int] = {}  # with the looks at which it ran nothing
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, server: Server) -> None:
        """Look at *server*, which runs a call, until it has run none for a while."""
        with self._lock:
            server.watched = True
            self._servers[server] = 0
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bigm-turns", daemon=True)
                self._thread.start()
        self._wanted.set()

    def _run(self) -> None:
        while True:
            if not self._servers:
                self._wanted.wait()
                self._wanted.clear()
            seen = [(server, server.inline_since) for server in list(self._servers)]
            time.sleep(WATCH)
            for server, since in seen:
                if server.inline is None:
                    self._lull(server)
                else:
                    self._servers[server] = 0
                    if server.inline_since == since:
                        server.take_turn(since)
            seen = server = None  # type: ignore[assignment]  # they must not live until the next call

    def _lull(self, server: Server) -> None:
        self._servers[server] += 1
        if self._servers[server] <= _LULL:
            return
        with self._lock:
            server.watched = False
            if server.inline is None:
                del self._servers[server]
            else:  # it began a call before it could see that
                server.watched = True


_shared = Turns()


def watch(server: Server) -> None:
    """Look at *server*, which runs a call, until it has run none for a while."""
    _shared.watch(server)


def _after_fork() -> None:
    global _shared
    _shared = Turns()


os.register_at_fork(after_in_child=_after_fork)
