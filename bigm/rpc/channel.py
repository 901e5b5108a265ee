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

import functools
import threading
from typing import TYPE_CHECKING, Optional, Union

from bigm.errors import ProtocolError, Unreachable, WireError
from bigm.rpc import streamwire, wire
from bigm.rpc.calls import NEVER, Pending, WaitingCall
from bigm.rpc.connection import Connection, Lost
from bigm.rpc.poller import READ, WRITE

if TYPE_CHECKING:
    from bigm.rpc.client import Client
    from bigm.rpc.sides import ClientSide
    from bigm.rpc.streams import Incoming, Stream
    from bigm.rpc.writers import Writer


class Channel:
    """One connection and the calls in flight on it."""

    def __init__(self, client: Client, connection: Connection, flags: int) -> None:
        self.client = client
        self.connection = connection
        self.flags = flags
        self.fd = connection.fd
        self.lock = threading.Lock()
        self.pending: dict[int, Pending] = {}
        self.streams: dict[tuple[int, int], Union[Incoming, Writer]] = {}  # by call and number in it
        self.closed = False
        self._retired = False
        self._leading = False
        self._leader: Optional[WaitingCall] = None  # whose thread it is; None: the I/O thread
        self._watched = False
        self._blocked = False
        self._waiting: dict[int, WaitingCall] = {}
        self._uses = 0
        self._uses_seen = 0
        self._last_started = -1
        self._io = client._io
        self._eager = False  # some stream may wait for frames whose owner does not read by itself

    def __repr__(self) -> str:
        state = "closed" if self.closed else "retired" if self._retired else "open"
        return f"<Channel to {self.client.name} {state}, {self.busy} calls in flight>"

    @property
    def busy(self) -> int:
        """Calls in flight: not answered, or answered by a stream that has not ended."""
        return len(self.pending) + sum(1 for _, number in list(self.streams) if number == 0)

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
            if call.sources is not None:
                call.sources.attach(self, call)
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
        self._detach(call)
        self.cancel(call.id)
        return True

    def cancel(self, id: int) -> None:
        """Tell the server that nobody waits for call *id* any more."""
        if not self.closed:
            self.connection.enqueue([wire.cancel(id)])
            self._io.want_flush(self)

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
            self._leader = call
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
            self._leader = None
            while self._waiting:
                _, call = self._waiting.popitem()
                if call.outcome is None:
                    call.wake()
                    return
            if self._eager:
                self._eager = any(stream.needs_reader for stream in self.streams.values())
            if (self.pending or self._eager) and not self._watched and not self.closed:
                self._set_watched(True)

    def rouse(self, call: WaitingCall) -> None:
        """Another thread has settled *call*: have its own, if that reads for everybody, look up from the socket.

        Nothing but bytes to read ends its wait. So the server is asked for a reply that is not there, and says so.
        """
        if self._leader is call and not self.closed:
            self.connection.enqueue([wire.fetch(self.client._next_id(), 0)])
            self._io.want_flush(self)

    def want_reading(self) -> None:
        """Somebody waits for a stream who does not read: have the I/O thread do it."""
        with self.lock:
            self._eager = True
            if not self._leading and not self._watched and not self.closed:
                self._set_watched(True)

    def _handle(self, event: wire.Event) -> None:
        if isinstance(event, (wire.Reply, wire.Error, wire.Parked)):
            self.client.load = event.load
            call = self.pending.pop(event.id, None)
            if call is not None:
                self._detach(call)
                self.client._settle(call, event)
        elif isinstance(event, (streamwire.Items, streamwire.End, streamwire.Credit, streamwire.Stop)):
            stream = self.streams.get((event.id, event.stream))
            if stream is not None:  # else nobody wants it any more, and the server will soon know
                stream.deliver(event)
        elif isinstance(event, streamwire.Opened):
            call = self.pending.pop(event.id, None)
            if call is not None:
                self.client.load = event.load
                self.client._settle(call, self._open(call, event))
        elif isinstance(event, wire.Goodbye):
            self._retire(event)
        else:
            raise ProtocolError(f"{self.client.name} sent a second greeting")

    def _open(self, call: Pending, event: streamwire.Opened) -> Stream:
        """The stream that a call is answered by."""
        from bigm.rpc.streams import Incoming, Stream

        side = self.side()
        incoming = Incoming(side, call.id, 0, call.method, call.deadline, seekable=event.seekable)
        incoming.channel = self
        if call.sources is not None:
            incoming.on_end = functools.partial(call.sources.detach, side)
            self._eager = True
        self.streams[call.id, 0] = incoming
        return Stream(incoming)

    def side(self) -> ClientSide:
        """This connection, as its streams see it."""
        from bigm.rpc.sides import ClientSide

        return ClientSide(self)

    def _detach(self, call: Pending) -> None:
        """Whoever sends an argument of *call* is to stop."""
        if call.sources is not None:
            call.sources.detach(self.side())

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
            self._detach(call)
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
            streams = list(self.streams.values())
            self.streams.clear()
        self._io.remove(self)
        self.connection.close()
        self.client._channel_ended(self)
        for call in calls:
            started = call.position <= self.connection.sent
            self._detach(call)
            self.client._lost(call, started=started, why=why, error=error)
        for stream in streams:
            if isinstance(stream, Pending):  # the reading end of one; a writer was told with its call
                self.client._lost_stream(stream, why, error)
            else:
                stream.stop()

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
        for stream in list(self.streams.values()):
            if isinstance(stream, Pending):
                stream.settle(Unreachable(f"{stream.method}: its stream belongs to the parent of this process"))
        self.streams.clear()
