"""Calls to one process.

A client has a main connection for small calls and up to BULK_CONNECTIONS further ones for big payloads; each is a
`bigm.rpc.channel.Channel`, which says who reads it.

A call that is lost with its connection is sent again when it certainly had not started: its last byte was not sent, or
the server's goodbye says so. Otherwise it fails with MayHaveRun, unless it is idempotent.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from bigm.errors import (
    BigmError,
    Busy,
    DeadlineExceeded,
    IdentityError,
    MayHaveRun,
    NoSuchMethod,
    NotAllowed,
    NotPicklable,
    PayloadTooLarge,
    ProtocolError,
    Unreachable,
    WireError,
)
from bigm.rpc import codec, interrupts, streamwire, wire
from bigm.rpc.calls import NEVER, AwaitedCall, CallFuture, FutureCall, Inbox, Outcome, Pending, WaitingCall
from bigm.rpc.channel import Channel
from bigm.rpc.connection import Connection, Lost, describe_tls_failure
from bigm.rpc.identity import Identity, peer_identity
from bigm.rpc.iothread import IOThread, shared
from bigm.rpc.stats import CallStats
from bigm.rpc.tls import Credentials, client_context
from bigm.rpc.wire import BULK, Limits

if TYPE_CHECKING:
    import asyncio

    from bigm.rpc.sources import Sources
    from bigm.rpc.streams import Incoming

BULK_CONNECTIONS = 4  # at most, per client; more gained nothing on two cores
SENDS = 5  # times a call is sent at most when connection after connection is lost before it starts

Tls = Union[ssl.SSLObject, ssl.SSLSocket]
logger = logging.getLogger("bigm.rpc")


class Client:
    """Calls to one process (an agent or a worker): dials lazily, redials, keeps big payloads out of small calls' way.

    Args:
        connect: connects a raw socket within the given number of seconds.
        credentials: who we are.
        expected: who must answer.
        name: how messages call the other side ("m0 worker 2", "agent of m0").
        io: the I/O thread; the process's own one when None.
        dial_timeout: seconds for connecting, the handshake and the greeting; None: as long as the call may wait, since
            a worker may be busy importing.
        limits: what is accepted.
        stats: where calls are counted.
        check: an extra test after the handshake; raises IdentityError.
        doubt: called with this client, quickly, by any thread, when a call was lost and somebody else can tell whether
            the other side is gone for good. Such calls wait for `close`, which gives them its error, or `resolve`.
        home: whose results become.
    """

    def __init__(
        self,
        connect: Callable[[float], socket.socket],
        credentials: Credentials,
        expected: Identity,
        *,
        name: str,
        io: Optional[IOThread] = None,
        dial_timeout: Optional[float] = 30.0,
        limits: Optional[Limits] = None,
        stats: Optional[CallStats] = None,
        check: Optional[Callable[[Tls], None]] = None,
        doubt: Optional[Callable[[Client], None]] = None,
        home: Optional[codec.Home] = None,
    ) -> None:
        self.name = name
        self.stats = stats or CallStats()
        self.load: float = 0
        self._connect = connect
        self._credentials = credentials
        self._expected = expected
        self._dial_timeout = dial_timeout
        self._limits = limits or Limits()
        self._check = check
        self._doubt = doubt
        self._home = home
        self._io = io or shared()
        self._error: Optional[BaseException] = None
        self._reset()
        _clients.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._next_id: Callable[[], int] = itertools.count(1).__next__  # atomic
        self._main: Optional[Channel] = None
        self._bulk: list[Channel] = []
        self._bulk_dials = 0
        self._others: weakref.WeakSet[Channel] = weakref.WeakSet()  # retired, still waiting for replies
        self._dialling: list[socket.socket] = []
        self._dial_running = False
        self._early: list[Pending] = []  # calls made before there is a connection
        self._doubtful: list[tuple[Pending, WireError]] = []  # calls that are lost, as it seems
        self._inboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Inbox] = weakref.WeakKeyDictionary()
        self._fetching: dict[Pending, WaitingCall] = {}
        self._logged = 0.0
        self._payload = wire.Limits().payload

    def __repr__(self) -> str:
        state = "closed" if self._error else "connected" if self._main else "not connected"
        return f"<Client of {self.name}, {state}, {self.in_flight} calls in flight>"

    @property
    def in_flight(self) -> int:
        """Calls not yet answered."""
        with self._lock:
            channels = [*self._bulk, *self._others, *([self._main] if self._main else [])]
            return len(self._early) + sum(channel.busy for channel in channels)

    # Calling.

    def call(
        self,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = {},
        *,
        timeout: Optional[float] = None,
        idempotent: bool = False,
        direct: bool = False,
    ) -> Any:
        """Call "Service.method" and wait for its result.

        Args:
            timeout: seconds from now, dialling included; None: no limit. A stream must have ended by then.
            idempotent: the call may be sent again when it may have run already.
            direct: the result is expected to be a stream: call where streams travel, which spares a round trip.
        Returns:
            what the method returned; a `Stream` when that was an iterator.
        Raises:
            Unreachable: it certainly did not start; trying again can help.
            MayHaveRun: the connection was lost while it was in flight.
            DeadlineExceeded: *timeout* passed; the method was asked to stop.
            Exception: whatever the method raised, as itself.
        """
        with interrupts.deferred():
            args, kwargs, sources = _sources(method, args, kwargs)
            call = WaitingCall(method, codec.dumps_call(method, args, kwargs), _deadline(timeout), idempotent)
            call.direct, call.sources = direct or sources is not None, sources
            return self._value(call, self._transact(call))

    def submit(
        self,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = {},
        *,
        timeout: Optional[float] = None,
        idempotent: bool = False,
    ) -> CallFuture:
        """Call without waiting. Arguments as `call`; its errors are the future's, but for what cannot be pickled."""
        args, kwargs, sources = _sources(method, args, kwargs)
        segments = codec.dumps_call(method, args, kwargs)
        future = CallFuture(self)
        try:
            with interrupts.deferred():
                call = FutureCall(future, method, segments, _deadline(timeout), idempotent)
                call.direct, call.sources = sources is not None, sources
                self._dispatch(call)
        except BaseException:  # Ctrl-C: nobody will ever have the future
            future.cancel()
            raise
        return future

    def submit_internal(
        self,
        method: str,
        args: tuple[Any, ...] = (),
        *,
        timeout: Optional[float] = None,
        done: Callable[[CallFuture], None],
    ) -> CallFuture:
        """As `submit`; *done* runs on the I/O thread, so it must be quick and never user code."""
        segments = codec.dumps_call(method, args, {})
        with interrupts.deferred():
            future = CallFuture(self, done)
            self._dispatch(FutureCall(future, method, segments, _deadline(timeout), False))
            return future

    async def acall(
        self,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = {},
        *,
        timeout: Optional[float] = None,
        idempotent: bool = False,
        direct: bool = False,
    ) -> Any:
        """Call and await the result. Arguments and errors as `call`; cancelling the task cancels the call."""
        import asyncio  # here, since a worker that never awaits must not pay for it

        loop = asyncio.get_running_loop()
        args, kwargs, sources = _sources(method, args, kwargs, loop)
        segments = codec.dumps_call(method, args, kwargs)
        with interrupts.deferred():
            inbox = self._inboxes.get(loop)
            if inbox is None:
                inbox = self._inboxes[loop] = Inbox(loop)
            call = AwaitedCall(inbox, method, segments, _deadline(timeout), idempotent)
            call.direct, call.sources = direct or sources is not None, sources
            self._dispatch(call)
        try:
            await call.future
        except BaseException:
            self._abandon(call)
            raise
        assert call.outcome is not None
        return self._value(call, call.outcome)

    def close(self, error: Optional[BaseException] = None) -> None:
        """End all connections; calls in flight and later ones raise *error* at once (None: Unreachable)."""
        with self._lock:
            if self._error is not None:
                return
            self._error = error or Unreachable(f"cannot call {self.name}: the client is closed")
            channels = [*self._bulk, *self._others, *([self._main] if self._main else [])]
            early, self._early = self._early, []
            doubtful, self._doubtful = self._doubtful, []
            dialling, self._dialling = self._dialling, []
        for sock in dialling:
            _shutdown(sock)
        for channel in channels:
            if not channel.closed:
                channel.connection.send([wire.goodbye(0, "closed")])
                channel.shut()
        for call in [*early, *(call for call, _ in doubtful)]:
            self._settle(call, self._error)

    def cancel_since(self, moment: float) -> None:
        """Cancel the calls of futures that were made at *moment*, monotonic, or later; not bigm's own."""
        with self._lock:
            channels = [*self._bulk, *self._others, *([self._main] if self._main else [])]
            calls = [*self._early, *self._fetching]
        for channel in channels:
            with channel.lock:
                calls += channel.pending.values()
        for call in calls:
            if isinstance(call, FutureCall) and call.started >= moment and call.future.of_user:
                call.future.cancel()

    def resolve(self) -> None:
        """The other side is not known to be gone: calls that were in doubt fail with their own errors."""
        with self._lock:
            doubtful, self._doubtful = self._doubtful, []
        for call, error in doubtful:
            call.settle(error)

    # Waiting for one call in this thread.

    def _transact(self, call: WaitingCall) -> Outcome:
        """Send a call and wait for its outcome. Deferred section."""
        try:
            if interrupts.in_main_thread() and not interrupts.owned():
                self._dispatch(call)
                self._follow(call)
            elif call.size > BULK or call.direct:
                self._send_bulk(call)
            else:
                channel = self._main
                if channel is not None and self._error is None and channel.start(call):
                    channel.send(call)
                else:
                    self._dispatch(call)
            return self._wait(call)
        except Unreachable as e:  # a bulk connection could not be dialled
            self._settle(call, e)
            return self._wait(call)
        except BaseException:
            self._abandon(call)
            raise

    def _wait(self, call: WaitingCall) -> Outcome:
        while call.outcome is None:
            if time.monotonic() >= call.deadline:
                self._abandon(call)
                return call.outcome or self._deadline_error(call)
            channel = call.channel
            if channel is not None and channel.lead(call):
                continue
            self._sleep(call)
        return call.outcome

    def _follow(self, call: WaitingCall) -> None:
        """Wait without ever reading, where Ctrl-C could break the reading."""
        while call.outcome is None and time.monotonic() < call.deadline:
            self._sleep(call)

    def _wait_stream(self, channel: Channel, incoming: Incoming) -> None:
        """Wait for a frame of a stream, or for its deadline. Deferred section."""
        reads = not interrupts.in_main_thread() or interrupts.owned()
        while incoming.outcome is None and time.monotonic() < incoming.deadline:
            if not reads:
                channel.side().want(incoming)
            elif channel.lead(incoming):
                continue
            self._sleep(incoming)

    def _sleep(self, call: WaitingCall) -> None:
        """Wait until the call is settled, or this thread is to read, or the deadline passed."""
        if call.gate is None:
            call.gate = threading.Lock()
            call.gate.acquire()
            return  # whoever looked before there was a gate has left its mark: look again
        left = call.deadline - time.monotonic()
        with interrupts.waiting() as most:
            patience = min(left, most)
            call.gate.acquire(timeout=-1 if patience == NEVER else max(0.0, min(patience, 1e6)))

    # Sending.

    def _dispatch(self, call: Pending) -> None:
        """Send a call without waiting: over the main connection, which is dialled if need be. Any thread."""
        if call.direct and call.size <= BULK and self._queue_direct(call):
            return
        if call.size > BULK or call.direct:
            threading.Thread(target=self._run_bulk, args=(call,), name=f"bigm-bulk {self.name}", daemon=True).start()
            return
        while True:
            stranded: list[Pending] = []
            with self._lock:
                channel, error = self._main, self._error
                if channel is None and error is None:
                    self._early.append(call)
                    call.channel = None
                    stranded = self._start_dialling()
            if channel is None and error is None:
                for each in stranded:
                    self._settle(each, Unreachable(f"cannot call {self.name}: this program is ending"))
                return
            if error is not None:
                self._settle(call, error)
                return
            if channel is not None and channel.start(call):
                channel.queue(call)
                return
            self._channel_ended(channel)

    def _queue_direct(self, call: Pending) -> bool:
        """Queue a small call on a connection for big payloads and streams, if there is one that need not be dialled."""
        with self._lock:
            if self._error is not None:
                return False
            best = min(self._bulk, key=lambda channel: channel.busy, default=None)
            if best is None or (best.busy and len(self._bulk) + self._bulk_dials < BULK_CONNECTIONS):
                return False
        if not best.start(call):
            self._channel_ended(best)
            return False
        best.queue(call)
        return True

    def _send_bulk(self, call: Pending) -> None:
        """Send a big call from this thread, waiting until it is sent."""
        if call.size > self._limits.payload or call.size > self._payload:
            limit = min(self._limits.payload, self._payload)
            raise PayloadTooLarge(f"{call.method} on {self.name}: {call.size} bytes; at most {limit} are accepted")
        self._log_size(call.method, call.size)
        while True:
            channel = self._bulk_channel(call)
            if channel.start(call):
                channel.connection.send_waiting(channel.mark(call), call.deadline)
                return
            self._channel_ended(channel)  # it may have been lost before we knew of it

    def _run_bulk(self, call: Pending) -> None:
        """A big call of a future or coroutine, or one that is sent again, in a thread of its own."""
        try:
            if isinstance(call, WaitingCall):
                self._send_bulk(call)
                if call.channel is not None:
                    call.channel.flush()  # has the I/O thread read the reply, should the caller not do so
                return
            inner = WaitingCall(call.method, call.segments, call.deadline, call.idempotent, call.token)
            inner.direct, inner.sources = call.direct, call.sources
            self._fetching[call] = inner
            outcome: Outcome = self._transact(inner)
        except Exception as e:  # noqa: BLE001  # whatever went wrong is the call's outcome
            outcome = e
        self._fetching.pop(call, None)
        if call.outcome is None:
            self._settle(call, outcome)

    def _bulk_channel(self, call: Pending) -> Channel:
        """A connection for big payloads: an idle one, else a new one, else the least busy one."""
        while True:
            with self._lock:
                if self._error is not None:
                    raise self._error
                idle = min(self._bulk, key=lambda channel: channel.busy, default=None)
                if idle is not None and (not idle.busy or len(self._bulk) + self._bulk_dials >= BULK_CONNECTIONS):
                    return idle
                self._bulk_dials += 1
            try:
                channel = self._dial(call.deadline, wire.DIRECT)
                with self._lock:
                    self._bulk.append(channel)
            finally:
                with self._lock:
                    self._bulk_dials -= 1
            return channel

    # Dialling.

    def _start_dialling(self) -> list[Pending]:
        """Under the lock. Returns the calls that nobody will make: the interpreter starts no more threads."""
        if not self._dial_running:
            thread = threading.Thread(target=self._dial_main, name=f"bigm-dial {self.name}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                stranded, self._early = self._early, []
                return stranded
            self._dial_running = True
        return []

    def _dial_main(self) -> None:
        try:
            channel = self._dial(NEVER, 0)
        except Exception as e:  # noqa: BLE001  # the error belongs to the calls that wait
            with self._lock:
                self._dial_running = False
                early, self._early = self._early, []
            for call in early:
                self._settle(call, self._error or e)
            return
        with self._lock:
            self._main, self._dial_running = channel, False
            early, self._early = self._early, []
        for call in early:
            if call.outcome is not None:
                continue
            if channel.start(call):
                channel.queue(call)
                if isinstance(call, WaitingCall):
                    call.wake()
            else:
                self._dispatch(call)

    def _dial(self, deadline: float, flags: int) -> Channel:
        """Connect, shake hands, see that it is who we expect, and wait for the greeting."""
        if self._dial_timeout is not None:
            deadline = min(deadline, time.monotonic() + self._dial_timeout)
        sock: Optional[socket.socket] = None
        try:
            sock = self._connect(1e6 if deadline == NEVER else max(0.001, deadline - time.monotonic()))
            with self._lock:
                if self._error is not None:
                    raise self._error
                self._dialling.append(sock)
            return self._greet(sock, deadline, flags)
        except BaseException as e:
            if sock is not None:
                sock.close()
            raise self._dial_error(e) from e
        finally:
            with self._lock:
                if sock in self._dialling:
                    self._dialling.remove(sock)

    def _greet(self, sock: socket.socket, deadline: float, flags: int) -> Channel:
        decoder = wire.Decoder(self._limits, streamwire.FROM_SERVER)
        channels: list[Channel] = []
        connection = Connection(
            sock,
            _context(self._credentials),
            decoder,
            server_name=self._expected.server_name,
            on_blocked=lambda: channels[0].on_blocked(),
            window=interrupts.waiting,
        )
        connection.handshake(deadline)
        peer_identity(connection.tls, self._expected.cluster, self._expected)
        if self._check is not None:
            self._check(connection.tls)
        events = connection.decrypt()
        while not events:
            if not connection.wait_readable(deadline):
                raise TimeoutError("no greeting after the TLS handshake")
            events = connection.read()
        greeting = events.pop(0)
        if isinstance(greeting, wire.Goodbye):
            raise Lost(greeting.reason)
        if not isinstance(greeting, wire.Hello):
            raise ProtocolError(f"{self.name} did not greet")
        self._payload = greeting.payload
        channel = Channel(self, connection, flags)
        channels.append(channel)
        self._io.add(channel)
        self._io.unwatch(channel)
        for event in events:
            channel._handle(event)
        return channel

    def _dial_error(self, error: BaseException) -> BaseException:
        if self._error is not None:
            return self._error
        if isinstance(error, ssl.SSLCertVerificationError):
            return IdentityError(f"cannot call {self.name}: {describe_tls_failure(error)}")
        if isinstance(error, IdentityError):
            return IdentityError(f"cannot call {self.name}: {error}")
        if isinstance(error, BigmError) or not isinstance(error, Exception):
            return error
        if isinstance(error, ssl.SSLError):
            return Unreachable(f"cannot call {self.name}: {describe_tls_failure(error)}")
        if isinstance(error, TimeoutError):
            return Unreachable(f"cannot call {self.name}: {error or 'no answer'}")
        if isinstance(error, (OSError, Lost)):
            return Unreachable(f"cannot call {self.name}: {getattr(error, 'strerror', None) or error}")
        return error

    # Outcomes.

    def _settle(self, call: Pending, outcome: Outcome) -> None:
        """Hand a call its outcome; a parked reply is fetched first, by the waiting thread or one made for it."""
        if isinstance(outcome, wire.Parked) and not isinstance(call, WaitingCall):
            threading.Thread(
                target=self._run_fetch, args=(call, outcome), name=f"bigm-bulk {self.name}", daemon=True
            ).start()
            return
        if self._doubt is not None and isinstance(outcome, (MayHaveRun, Unreachable)) and self._error is None:
            self._hold(call, outcome)
            return
        call.settle(outcome)

    def _hold(self, call: Pending, error: WireError) -> None:
        """Let a call that seems to be lost wait for what its owner finds out."""
        with self._lock:
            held, gone = not self._doubtful, self._error
            if gone is None:
                self._doubtful.append((call, error))
        if gone is not None:
            call.settle(gone)
        elif held and self._doubt is not None:
            self._doubt(self)

    def _run_fetch(self, call: Pending, parked: wire.Parked) -> None:
        try:
            outcome: Outcome = self._fetch(call, parked)
        except Exception as e:  # noqa: BLE001  # whatever went wrong is the call's outcome
            outcome = e
        call.settle(outcome)

    def _fetch(self, call: Pending, parked: wire.Parked) -> Outcome:
        self._log_size(call.method, parked.size)
        inner = WaitingCall(call.method, (b"",), call.deadline, True, parked.token)
        self._fetching[call] = inner
        try:
            return self._transact(inner)
        finally:
            self._fetching.pop(call, None)

    def _value(self, call: Pending, outcome: Outcome) -> Any:
        """The result of an outcome, or its error raised."""
        if isinstance(outcome, wire.Parked):
            outcome = self._fetch(call, outcome)
        seconds = time.monotonic() - call.started
        if isinstance(outcome, wire.Reply):
            self.stats.record(call.method, seconds, call.size, wire.size_of(outcome.segments), False)
            return codec.loads(outcome.segments, self._home)
        if not isinstance(outcome, (wire.Error, BaseException)):  # a stream: it is counted by its opening
            self.stats.record(call.method, seconds, call.size, 0, False)
            return outcome
        size = wire.size_of(outcome.segments) if isinstance(outcome, wire.Error) else 0
        self.stats.record(call.method, seconds, call.size, size, True)
        raise self._error_of(call, outcome)

    def _error_of(self, call: Pending, outcome: Outcome) -> BaseException:
        if isinstance(outcome, BaseException):
            return outcome
        assert isinstance(outcome, wire.Error)
        if outcome.code == wire.RAISED:
            return codec.loads_error(outcome.segments, self._home)
        text, hint = codec.read_refusal(outcome.segments)
        kind = _ERRORS.get(outcome.code)
        if kind is None:
            return ProtocolError(f"{call.method} on {self.name}: an error with the unknown code {outcome.code}")
        if kind is NoSuchMethod and "." not in call.method:
            text = 'that names no service; calls take "Service.method"'
        return kind(f"{call.method} on {self.name}: {text}", hint=hint)

    def _deadline_error(self, call: Pending) -> DeadlineExceeded:
        waited = time.monotonic() - call.started
        return DeadlineExceeded(f"{call.method} on {self.name}: no reply within {waited:.3g} s")

    def _abandon(self, call: Pending) -> None:
        """Nobody waits for a call any more."""
        inner = self._fetching.get(call)
        if inner is not None:
            self._abandon(inner)
            if inner.outcome is None:  # a thread waits for it
                inner.settle(Unreachable(f"{call.method} on {self.name}: the call was given up"))
        with self._lock:
            if call in self._early:
                self._early.remove(call)
        if call.channel is not None:
            call.channel.forget(call)

    def _lost(self, call: Pending, *, started: bool, why: str, error: Optional[BaseException] = None) -> None:
        """A call's connection is gone: send it again, or say what is known. Any thread."""
        if self._error is not None:
            self._settle(call, self._error)
        elif error is not None:
            self._settle(call, error)
        elif started and not call.idempotent:
            self._settle(call, self._in_doubt(call, why))
        elif call.sources is not None and not call.sources.rewind():
            self._settle(call, self._in_doubt(call, why, "give bigm.streamed(function) to have the stream made anew"))
        elif call.sends >= SENDS:
            self._settle(call, Unreachable(f"{call.method} on {self.name}: {why} ({call.sends} times in a row)"))
        else:
            self._dispatch(call)

    def _in_doubt(
        self,
        call: Pending,
        why: str,
        hint: str = "if running it twice does no harm, call it with options(idempotent=True)",
    ) -> MayHaveRun:
        text = f"{call.method} on {self.name}: the connection was lost while the call was in flight: {why}"
        return MayHaveRun(text, hint=hint)

    def _lost_stream(self, incoming: Incoming, why: str, error: Optional[BaseException]) -> None:
        """The connection of an open stream is gone. Any thread."""
        text = f"{incoming.method} on {self.name}: the connection was lost in the middle of a stream: {why}"
        self._settle(incoming, self._error or error or MayHaveRun(text))

    def _channel_ended(self, channel: Optional[Channel]) -> None:
        with self._lock:
            if channel is None:
                return
            if self._main is channel:
                self._main = None
            if channel in self._bulk:
                self._bulk.remove(channel)
            if not channel.closed:
                self._others.add(channel)

    def _log_size(self, method: str, size: int) -> None:
        now = time.monotonic()
        if size > self._limits.log_payload and now - self._logged > self._limits.log_every:
            self._logged = now
            logger.warning("%s on %s: a payload of %.1f MiB", method, self.name, size / 2**20)

    def _disown(self) -> None:
        """In a forked child: the connections are the parent's. This client dials new ones when it is called."""
        channels = [*self._bulk, *self._others, *([self._main] if self._main else [])]
        for channel in channels:
            channel.disown()
        for sock in self._dialling:
            sock.close()
        self._reset()


_ERRORS: dict[int, Callable[..., BigmError]] = {
    wire.BUSY: Busy,
    wire.NO_SUCH_METHOD: NoSuchMethod,
    wire.NOT_ALLOWED: NotAllowed,
    wire.BAD_ARGUMENTS: NotPicklable,
    wire.EXPIRED: DeadlineExceeded,
    wire.GONE: MayHaveRun,
    wire.BAD_REPLY: NotPicklable,
    wire.TOO_LARGE: PayloadTooLarge,
}


_contexts: weakref.WeakKeyDictionary[Credentials, ssl.SSLContext] = weakref.WeakKeyDictionary()


def _context(credentials: Credentials) -> ssl.SSLContext:
    """The context of all clients with these credentials: a driver has three clients for each machine."""
    context = _contexts.get(credentials)
    if context is None:
        context = _contexts[credentials] = client_context(credentials)
    return context


def _sources(
    method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], loop: Optional[asyncio.AbstractEventLoop] = None
) -> tuple[tuple[Any, ...], Mapping[str, Any], Optional[Sources]]:
    """The arguments, with a mark for each that is a stream, and these streams; nearly always there are none."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if type(value) not in _PLAIN and _may_stream(value):
            break
    else:
        return args, kwargs, None
    from bigm.rpc.sources import Sources, is_source  # most programs never need it

    if not any(map(is_source, (*args, *kwargs.values()))):
        return args, kwargs, None
    sources = Sources(method, loop)
    marked, named = sources.replace(args, kwargs)
    return marked, named, sources


_PLAIN = frozenset({int, float, str, bytes, bool, type(None), list, tuple, dict, set})


def _may_stream(value: Any) -> bool:
    cls = type(value)
    return (
        hasattr(cls, "__next__") or hasattr(cls, "__anext__") or hasattr(cls, "is_streamed") or hasattr(value, "read")
    )


def _deadline(timeout: Optional[float]) -> float:
    return NEVER if timeout is None else time.monotonic() + timeout


def _shutdown(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # not connected (any more)
        pass


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def cancel_since(moment: float) -> None:
    """Cancel the calls of futures that this process made at *moment*, monotonic, or later, whomever they went to."""
    for client in list(_clients):
        client.cancel_since(moment)


def _after_fork() -> None:
    for client in list(_clients):
        client._disown()


os.register_at_fork(after_in_child=_after_fork)
