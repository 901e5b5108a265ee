"""One connection of a client, and the calls in flight on it.

Theory of operation. At any time at most one thread reads a channel:

* A thread that waits for its own call reads the connection itself, for everybody: it is the *leader*. When its own
  reply has come, it wakes exactly one other waiting thread to be the next leader; if there is none, the I/O thread
  takes over. So a lone synchronous call costs no switch between threads at all.
* Calls by `submit` and `acall` are written and read by the I/O thread.
* Telling the I/O thread to watch a connection costs a system call, so a leader that leaves an idle connection says
  nothing; the I/O thread looks for such connections every few milliseconds, as long as there are any.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Optional

from bigm.errors import ProtocolError, WireError
from bigm.rpc import wire
from bigm.rpc.calls import NEVER, Pending, WaitingCall
from bigm.rpc.connection import Connection, Lost
from bigm.rpc.poller import READ, WRITE

if TYPE_CHECKING:
    from bigm.rpc.client import Client


class Channel:
    """One connection and the calls in flight on it."""

    def __init__(self, client: Client, connection: Connection, flags: int) -> None:
        self.client = client
        self.connection = connection
        self.flags = flags
        self.fd = connection.fd
        self.lock = threading.Lock()
        self.pending: dict[int, Pending] = {}
        self.closed = False
        self._retired = False
        self._leading = False
        self._watched = False
        self._blocked = False
        self._waiting: dict[int, WaitingCall] = {}
        self._uses = 0
        self._uses_seen = 0
        self._last_started = -1
        self._io = client._io

    def __repr__(self) -> str:
        state = "closed" if self.closed else "retired" if self._retired else "open"
        return f"<Channel to {self.client.name} {state}, {len(self.pending)} calls in flight>"

    @property
    def usable(self) -> bool:
        """Whether calls may be sent here."""
        return not self.closed and not self._retired

    def start(self, call: Pending) -> bool:
        """Put a call in flight; False when this connection is not usable any more."""
        with self.lock:
            if self.closed or self._retired:
                return False
            call.id = self.client._next_id()
            call.channel = self
            call.sends += 1
            call.position = 1 << 62  # until it is queued it is not sent
            self.pending[call.id] = call
            return True

    def send(self, call: Pending) -> None:
        """Write the call's frame from this thread, as far as the socket takes it."""
        self.connection.send(self.mark(call))

    def mark(self, call: Pending) -> list[wire.Buffer]:
        """The call's frame, for which it is noted where it will end at the earliest.

        Before its first byte can leave: the connection may be lost, and who finds out must not take the call for one
        that was never sent, before this thread has done anything else.
        """
        frame = call.frame(call.id, self.flags)
        call.position = self.connection.enqueued + wire.size_of(frame)
        return frame

    def queue(self, call: Pending) -> None:
        """Leave the writing to the I/O thread."""
        self.connection.enqueue(self.mark(call))
        self._io.want_flush(self)
        if call.deadline != NEVER:
            self._io.deadline(call.deadline)

    def forget(self, call: Pending) -> bool:
        """Take a call out of flight and tell the server; whether it was still in flight."""
        with self.lock:
            if self.pending.pop(call.id, None) is None:
                return False
            self._waiting.pop(call.id, None)
        if not self.closed:
            self.connection.enqueue([wire.cancel(call.id)])
            self._io.want_flush(self)
        return True

    # Reading.

    def lead(self, call: WaitingCall) -> bool:
        """Read for everybody until *call* is settled; False when somebody else reads (the call will be woken)."""
        with self.lock:
            if self._leading or self.closed:
                if not self.closed:
                    self._waiting[call.id] = call
                return False
            self._waiting.pop(call.id, None)
            self._leading = True
            self._uses += 1
            if self._watched:
                self._set_watched(False)
        try:
            self._read_until(call)
        finally:
            self._leave()
        return True

    def _read_until(self, call: WaitingCall) -> None:
        connection = self.connection
        while call.outcome is None and call.channel is self and not self.closed:
            if not connection.wait_readable(call.deadline):
                return
            self._read()

    def _read(self) -> None:
        """Read once and settle what that completes. Only the leader."""
        try:
            for event in self.connection.read():
                self._handle(event)
        except Lost as e:
            self._lost(str(e))
        except WireError as e:
            self._lost(str(e), e)

    def _leave(self) -> None:
        """Hand the reading on: to one waiting thread, else to the I/O thread."""
        with self.lock:
            self._leading = False
            while self._waiting:
                _, call = self._waiting.popitem()
                if call.outcome is None:
                    call.wake()
                    return
            if self.pending and not self._watched and not self.closed:
                self._set_watched(True)

    def _handle(self, event: wire.Event) -> None:
        if isinstance(event, (wire.Reply, wire.Error, wire.Parked)):
            self.client.load = event.load
            call = self.pending.pop(event.id, None)
            if call is not None:
                self.client._settle(call, event)
        elif isinstance(event, wire.Goodbye):
            self._retire(event)
        else:
            raise ProtocolError(f"{self.client.name} sent a second greeting")

    def _retire(self, event: wire.Goodbye) -> None:
        """No more calls here; those that were not started go elsewhere, the others may still be answered."""
        with self.lock:
            self._retired = True
            self._last_started = event.last
            early = [call for id, call in self.pending.items() if id > event.last]
            for call in early:
                del self.pending[call.id]
                self._waiting.pop(call.id, None)
        self.client._channel_ended(self)
        for call in early:
            self.client._lost(call, started=False, why=event.reason or "the connection was closed")

    def _lost(self, why: str, error: Optional[BaseException] = None) -> None:
        """The connection is over. Only the leader."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
            calls = list(self.pending.values())
            self.pending.clear()
            self._waiting.clear()
        self._io.remove(self)
        self.connection.close()
        self.client._channel_ended(self)
        for call in calls:
            started = call.position <= self.connection.sent
            self.client._lost(call, started=started, why=why, error=error)

    # Asked by the I/O thread.

    def _set_watched(self, watched: bool) -> None:
        """Under the lock."""
        self._watched = watched
        self._io.poller.set(self.fd, (READ if watched else 0) | (WRITE if self._blocked else 0))
        if not watched:
            self._io.unwatch(self)

    def on_readable(self) -> None:
        """Read, unless a waiting thread does."""
        with self.lock:
            if self._leading or self.closed:
                return
            self._leading = True
        try:
            self._read()
        finally:
            self._leave()

    def on_blocked(self) -> None:
        """The socket is full: go on when there is room."""
        with self.lock:
            if not self.closed:
                self._blocked = True
                self._io.poller.set(self.fd, (READ if self._watched else 0) | WRITE)

    def on_writable(self) -> None:
        """Go on writing."""
        with self.lock:
            if not self._blocked or self.closed:
                return
            self._blocked = False
            self._io.poller.set(self.fd, READ if self._watched else 0)
        if not self.connection.resume():
            self.on_blocked()

    def flush(self) -> None:
        """Write what is queued."""
        if self.closed:
            return
        self.connection.flush()
        if not self._leading and not self._watched and self.pending:
            with self.lock:
                if not self._leading and not self._watched and not self.closed:
                    self._set_watched(True)

    def watch_if_idle(self) -> bool:
        """Have the end noticed of a connection that nobody used since the last time; whether that is so."""
        with self.lock:
            if self.closed or self._watched:
                return True
            if self._leading or self._uses != self._uses_seen:
                self._uses_seen = self._uses
                return False
            self._set_watched(True)
            return True

    def expire(self, now: float) -> float:
        """Fail the calls of futures that are past their deadline; the next deadline."""
        next_deadline = NEVER
        for call in list(self.pending.values()):
            if isinstance(call, WaitingCall):
                continue  # its thread keeps the deadline
            if call.deadline <= now:
                if self.forget(call):
                    call.settle(self.client._deadline_error(call))
            else:
                next_deadline = min(next_deadline, call.deadline)
        return next_deadline

    def shut(self) -> None:
        """End the connection from any thread: its reader finds the end, or the I/O thread does."""
        self.connection.shutdown()
        with self.lock:
            if not self.closed and not self._leading and not self._watched:
                self._set_watched(True)

    def disown(self) -> None:
        """In a forked child: let go of the descriptor, leave the connection to the parent."""
        self.closed = True
        self.connection.disown()
