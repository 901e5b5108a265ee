"""Serves registered objects on connections handed to it.

Theory of operation. One thread has the *turn*: it waits for all connections, reads, and runs the calls that it read one
after another, itself. For quick methods nothing is faster: no other thread is woken, and the replies of many calls go
out in one piece. What keeps this safe is a thread that looks every millisecond (`bigm.rpc.turns`): when one call has
been running for that long, it gives the turn to another thread, which goes on with the calls that are waiting and with
the reading; the first thread finishes its call and sends its reply by itself. The method is then known to be slow, and
its next calls each get a thread at once. So a method that sleeps, or calls back into this process, holds up nobody for
more than a millisecond or two, and threads grow on demand up to the limit of calls in flight, then callers get Busy: a
bounded queue would deadlock A calling B calling A.

Handshakes run in a thread of their own, one for all servers: a connection that says nothing costs nothing but its
descriptor, until its deadline. Big payloads are received and sent by threads of their own, so that small calls never
wait for them.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable, Optional

from bigm.errors import Busy, NotAllowed, NotPicklable, ProtocolError, WireError
from bigm.rpc import codec, handshakes, turns, wire
from bigm.rpc.caller import Caller, Parked
from bigm.rpc.connection import Lost
from bigm.rpc.current import CurrentCall, running
from bigm.rpc.identity import Identity, peer_identity
from bigm.rpc.methods import Method, Queue, methods_of, no_such_method
from bigm.rpc.poller import WRITE, Poller
from bigm.rpc.stats import CallStats
from bigm.rpc.threads import Threads
from bigm.rpc.tls import Credentials, server_context
from bigm.rpc.wire import BULK, Limits

if TYPE_CHECKING:
    from bigm.rpc.results import Coroutines
    from bigm.rpc.streams import Incoming

LINGER = 1.0  # seconds for the other side to end a connection after our goodbye
_IDLE = 60.0  # seconds to wait for connections of which none is in the middle of anything
FLUSH_EVERY = 16  # calls run before their replies are sent, when more calls are waiting
_NEVER = float("inf")

logger = logging.getLogger("bigm.rpc")


class Job:
    """A call on its way through the server."""

    __slots__ = (
        "call",
        "current",
        "failed",
        "incoming",
        "later",
        "method",
        "peer",
        "seconds",
        "size_in",
        "size_out",
        "started",
    )

    def __init__(self, peer: Caller, call: wire.Call, method: Method, current: CurrentCall) -> None:
        self.peer = peer
        self.started = 0.0
        self.later: Any = None  # a generator or coroutine that was returned
        self.incoming: list[Incoming] = []  # arguments that are streams
        self.call = call
        self.method = method
        self.current = current
        self.seconds = -1.0  # that the method ran; less than 0: it did not
        self.size_in = 0
        self.size_out = 0
        self.failed = True


class Server:
    """Serves registered objects on connections handed to it.

    Args:
        credentials: who we are.
        name: how tracebacks and messages call this process ("m0", "m0 worker 2").
        authorize: asked before every call with the caller, the service's and the method's name; raises NotAllowed, or
            Busy where that is only so for now.
        limits: what is accepted.
        context: a TLS context to use instead of one made from the credentials.
        accepts: the frames that clients may send; those of `streamwire` where methods stream.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        name: str,
        authorize: Optional[Callable[[Identity, str, str], None]] = None,
        limits: Optional[Limits] = None,
        context: Optional[ssl.SSLContext] = None,
        accepts: wire.Readers = wire.FROM_CLIENT,
    ) -> None:
        self.name = name
        self.home: Optional[codec.Home] = None  # whose the arguments of calls become
        self.stats = CallStats()
        self.credentials = credentials
        self._authorize = authorize
        self.accepts = accepts
        self._limits = limits or Limits()
        self._context = context or server_context(credentials)
        self._generation = 0
        self._services: dict[str, dict[str, Method]] = {}
        self._lock = threading.Lock()
        self._poller = Poller()
        self._peers: dict[int, Caller] = {}
        self._running: dict[tuple[int, int], CurrentCall] = {}
        self._serial = 0
        self._parked: dict[int, Caller] = {}
        self._posted: deque[Callable[[], None]] = deque()
        self._coroutines: Optional[Coroutines] = None
        self._jobs: deque[Job] = deque()
        self._dirty: dict[Caller, None] = {}
        self._turn = 0  # who has it: a number that grows each time it is given away
        self.inline: Optional[Job] = None
        self.inline_since = 0
        self._threads = Threads(f"bigm-call {name}", self._limits.idle_threads)
        self._closed = False
        self._disowned = False
        self._started = False
        self.watched = False  # by `turns`
        self._untidy = False  # a connection is in the middle of a frame, or was told to go
        self._ended = threading.Event()  # a call or a connection has ended
        self._logged = 0.0
        _servers.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "serving"
        return f"<Server {self.name} {state}, {len(self._peers)} connections, {self.in_flight} calls in flight>"

    @property
    def closed(self) -> bool:
        """Whether it welcomes nobody any more."""
        return self._closed

    @property
    def in_flight(self) -> int:
        """Calls accepted and not yet answered."""
        return len(self._running)

    def register(self, name: str, service: object, *, methods: Optional[Iterable[str]] = None) -> None:
        """Serve *service* as *name*: its public methods, or only *methods*. A name that is taken stays as it is."""
        if name in self._services:
            return
        self._services[name] = methods_of(service, methods)

    def adopt(self, sock: socket.socket) -> None:
        """Take over a connection that was just accepted and from which nothing was read. Never waits."""
        if self._closed:
            sock.close()
            return
        self._start()
        handshakes.shared().add(Caller(self, sock, self._context, self._generation))

    def renew(self, credentials: Credentials) -> None:
        """Take on another identity: for new connections at once; those made under the old one end.

        Calls that run on them (this one may be one of them) are still answered; no further ones are started.
        """
        with self._lock:
            self.credentials = credentials
            self._context = server_context(credentials)
            self._generation += 1
            old = [peer for peer in self._peers.values() if peer.generation < self._generation]
        for peer in old:
            self._say_goodbye(peer, f"{self.name} has a new identity")

    def close(self, grace: float = 0.0) -> None:
        """Start no further calls, give running ones *grace* seconds to end, then end all connections."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            peers = list(self._peers.values())
        for peer in peers:
            self._say_goodbye(peer, f"{self.name} is closing")
        deadline = time.monotonic() + grace
        while any(peer.jobs for peer in peers) and time.monotonic() < deadline:
            self._ended.wait(min(0.1, max(0.0, deadline - time.monotonic())))
            self._ended.clear()
        for current in list(self._running.values()):
            current._cancel()
        deadline = time.monotonic() + LINGER
        while any(peer.connection.queued and not peer.closed for peer in peers) and time.monotonic() < deadline:
            self._ended.wait(0.01)  # the last replies were queued by the thread that has the turn, which sends them now
            self._ended.clear()
        for peer in peers:
            peer.connection.end_sending()
        deadline = time.monotonic() + LINGER
        while self._peers and time.monotonic() < deadline:
            self._ended.wait(0.05)
            self._ended.clear()
        for peer in list(self._peers.values()):
            peer.connection.shutdown()
        handshakes.shared().drop_closed()
        if self._coroutines is not None:
            self._coroutines.close()
        self._poller.wake()
        self._threads.close()
        if not self._started:
            self._poller.close()

    def abort(self) -> None:
        """End all connections at once, as a power failure does: no goodbye, no answers."""
        with self._lock:
            peers = list(self._peers.values())
        for peer in peers:
            peer.goodbye = True
            peer.connection.shutdown()
        self.close()

    # Threads.

    def _start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
        self._threads.run(self._lead)

    def take_turn(self, since: int) -> None:
        """The call that began when `inline_since` was *since* has run for too long: let another thread go on."""
        with self._lock:
            job = self.inline
            if job is None or self.inline_since != since:
                return
            self.inline = None
            self._turn += 1
        self._threads.run(self._lead)

    # The turn.

    def _lead(self) -> None:
        """Wait for connections, read, run. Returns when the turn was taken away, or at the end."""
        with self._lock:
            turn = self._turn
        every = min(1.0, max(0.05, self._limits.stall / 4))
        sweep = time.monotonic() + every
        while not self._disowned:
            if not self._run_jobs(turn):
                return
            self._flush()
            for fd, mask in self._poller.wait(every if self._untidy else _IDLE):
                peer = self._peers.get(fd)
                if peer is None:
                    continue
                if mask & WRITE:
                    peer.unblock()
                if mask & ~WRITE and not peer.has_reader:  # its end is told, too, where nobody wanted to know
                    self._read(peer)
            now = time.monotonic()
            if self._untidy and now >= sweep:
                sweep = now + every
                self._sweep(now)
            if self._closed and not self._peers:
                self._poller.close()
                return

    def _run_jobs(self, turn: int) -> bool:
        """Run what was read; False when the turn was lost meanwhile."""
        jobs = self._jobs
        count = 0
        while jobs:
            try:
                job = jobs.popleft()
            except IndexError:
                break
            if job.method.slow:
                self._threads.run(_Run(self, job))
                continue
            self.inline_since += 1
            self.inline = job
            if not self.watched:
                turns.watch(self)
            frames = self._run(job)
            with self._lock:
                mine = self._turn == turn
                if mine:
                    self.inline = None
            if not mine:
                self.finish(job, frames)
                return False
            if job.later is not None:
                self._go_on(job, own_thread=False)
                continue
            self._running.pop((job.peer.fd, job.call.id), None)
            if frames and not jobs:  # the usual case: nothing to join it with
                job.peer.connection.send(frames)
                job.peer.check_queue()
            elif frames:
                job.peer.connection.enqueue(frames)
                self._dirty[job.peer] = None
            self._end(job)  # after its answer was queued: `close` ends connections on which nothing runs
            if job.method.queue is not None:
                self._leave_queue(job.method.queue)
            self._count(job)
            count += 1
            if count % FLUSH_EVERY == 0:
                self._flush()
        return True

    def _flush(self) -> None:
        while self._posted:
            self._posted.popleft()()
        while self._dirty:
            try:
                peer, _ = self._dirty.popitem()
            except KeyError:
                return
            peer.connection.flush()
            peer.check_queue()

    def _read(self, peer: Caller) -> None:
        try:
            if peer.doomed:
                peer.connection.discard()
                return
            events = peer.connection.read()
            if events or peer.connection.decoder.receiving_bulk:
                peer.progress = time.monotonic()
            if peer.connection.decoder.partial:
                self._untidy = True
            for event in events:
                self._handle(peer, event)
        except Lost:
            self._drop(peer)
            return
        except WireError as e:
            self._doom(peer, str(e))
            return
        if peer.connection.decoder.receiving_bulk:
            peer.give_reader(True)
            self._threads.run(lambda: self._receive_bulk(peer))

    def _receive_bulk(self, peer: Caller) -> None:
        """Receive a big payload, in a thread of its own; then let the turn read this connection again."""
        connection = peer.connection
        events: list[wire.Event] = []
        try:
            while connection.decoder.receiving_bulk and not peer.closed:
                if not connection.wait_readable(time.monotonic() + self._limits.stall):
                    raise ProtocolError(f"nothing arrived for {self._limits.stall:g} s in the middle of a payload")
                events += connection.read()
                peer.progress = time.monotonic()
            for event in events:
                self._handle(peer, event)
        except Lost:
            self._drop(peer)
            return
        except WireError as e:
            self._doom(peer, str(e))
        self._untidy = True  # it may have ended in the middle of the next frame
        peer.give_reader(False)
        self._poller.wake()

    def _sweep(self, now: float) -> None:
        """End connections that have left a frame unfinished for too long."""
        self._untidy = False
        for peer in list(self._peers.values()):
            decoder = peer.connection.decoder
            if peer.doomed:
                if now - peer.doomed > LINGER:
                    self._drop(peer)
            elif decoder.partial and not decoder.receiving_bulk and now - peer.progress > self._limits.stall:
                self._doom(peer, f"a frame was left unfinished for {self._limits.stall:g} s")
            if peer.doomed or decoder.partial:
                self._untidy = True

    def soon(self, function: Callable[[], None]) -> None:
        """Have a quick function called by the thread that has the turn. Takes no lock."""
        self._posted.append(function)
        self._poller.wake()

    def run_in_thread(self, task: Callable[[], None]) -> None:
        """Run *task* in a thread of its own."""
        self._threads.run(task)

    # Events of a connection.

    def _handle(self, peer: Caller, event: Any) -> None:
        if isinstance(event, wire.Call):
            self._accept(peer, event)
        elif isinstance(event, wire.Cancel):
            current = peer.jobs.get(event.id)
            if current is not None:
                current._cancel()
            self._drop_parked(peer, event.id)
        elif isinstance(event, wire.Fetch):
            self._threads.run(lambda: self._send_parked(peer, event))
        elif not isinstance(event, wire.Goodbye):  # a stream's; a client's goodbye needs no answer
            stream = peer.streams.get((event.id, event.stream))
            if stream is not None:  # else it has ended here, and the client will soon know
                stream.deliver(event)

    def _accept(self, peer: Caller, call: wire.Call) -> None:
        """Refuse a call, or make a job of it."""
        assert peer.identity is not None
        if call.id in peer.jobs:
            raise ProtocolError(f"call {call.id} while a call of that number is in flight")
        deadline = None if call.timeout == _NEVER else time.monotonic() + call.timeout
        if len(self._running) >= self._limits.in_flight:
            self._refuse(peer, call.id, wire.BUSY, f"{self.name} has {len(self._running)} calls in flight already")
            return
        service, _, name = call.method.rpartition(".")
        method = self._services.get(service, {}).get(name)
        if self._authorize is not None:
            try:
                self._authorize(peer.identity, service, name)
            except (NotAllowed, Busy) as e:
                code = wire.BUSY if isinstance(e, Busy) else wire.NOT_ALLOWED
                self._refuse(peer, call.id, code, e.message, e.hint)
                return
        if method is None:
            self._refuse(peer, call.id, wire.NO_SUCH_METHOD, *no_such_method(self._services, service, name))
            return
        current = CurrentCall(peer.identity, call.method, deadline)
        with peer.lock:
            if peer.goodbye:
                return  # the goodbye tells the caller that this call was not started
            peer.last = max(peer.last, call.id)
            peer.jobs[call.id] = current
        self._running[peer.fd, call.id] = current
        job = Job(peer, call, method, current)
        if method.queue is None or method.queue.enter(job):
            self._begin(job)

    def _begin(self, job: Job) -> None:
        """Have a job run, by the thread that has the turn or by one of its own."""
        if job.call.flags & wire.DIRECT:
            self._threads.run(_Run(self, job))
        else:
            self._jobs.append(job)

    def _refuse(self, peer: Caller, id: int, code: int, text: str, hint: str = "") -> None:
        peer.connection.enqueue(wire.error(id, self.in_flight, code, codec.refusal(text, hint)))
        self._dirty[peer] = None

    # Running a call.

    def _run(self, job: Job) -> list[wire.Buffer]:
        """Run a call; the frames that answer it: none when nobody waits any more, or when it has only begun."""
        call, method, current = job.call, job.method, job.current
        started = job.started = time.monotonic()
        if current._cancelled:
            return []
        if current.deadline is not None and started >= current.deadline:
            return self._error(call.id, wire.EXPIRED, "its deadline had passed before its turn came")
        try:
            args, kwargs = codec.loads(call.segments, self.home)
        except BaseException as e:  # noqa: BLE001  # whatever a user's __setstate__ raises
            said = str(e) if isinstance(e, NotPicklable) else f"{codec.type_name(type(e))}: {e}"
            text = f"its arguments cannot be rebuilt on {self.name}: {said}"
            return self._error(call.id, wire.BAD_ARGUMENTS, text)
        job.size_in = wire.size_of(call.segments)
        call.segments.clear()
        if call.flags & wire.STREAMS:
            args, kwargs = _results().receive(job, args, kwargs)
        token = running.set(current)
        try:
            result = method.function(*args, **kwargs)
            if type(result) not in _AT_ONCE and _may_take_time(result) and _results().takes_time(result):
                job.later = result
                return []
            frames = self.returned(job, result)
        except BaseException as e:  # noqa: BLE001  # SystemExit and KeyboardInterrupt too: the server lives on
            frames = self.raised(job, e)
        finally:
            running.reset(token)
        if self._disowned:  # the method forked, and this is the child, which came back: no lock here can be trusted
            raise SystemExit
        job.seconds = time.monotonic() - started
        return [] if current.cancelled else frames

    def returned(self, job: Job, value: Any) -> list[wire.Buffer]:
        """The frames that answer a job whose method returned *value*."""
        try:
            segments = codec.dumps_reply(job.call.method, value)
        except NotPicklable as e:
            return self._error(job.call.id, wire.BAD_REPLY, e.message)
        job.size_out = wire.size_of(segments)
        job.failed = False
        return self._reply(job, segments)

    def raised(self, job: Job, error: BaseException) -> list[wire.Buffer]:
        """The frames that answer a job whose method raised."""
        segments = codec.dumps_error(error, self.name)
        job.size_out = wire.size_of(segments)
        return wire.error(job.call.id, len(self._running) - 1, wire.RAISED, segments)

    def _go_on(self, job: Job, *, own_thread: bool) -> None:
        """See a job to its end whose method has only begun."""
        later, job.later = job.later, None
        _results().go_on(self, job, later, own_thread=own_thread)

    def coroutines(self) -> Coroutines:
        """The event loop on which coroutines run."""
        with self._lock:
            if self._coroutines is None:
                self._coroutines = _results().Coroutines(self)
            return self._coroutines

    def _count(self, job: Job) -> None:
        """Learn from a run and count it, when its caller no longer waits for us."""
        if job.seconds >= 0:
            job.method.took(job.seconds)
            self.stats.record(job.call.method, job.seconds, job.size_out, job.size_in, job.failed)

    def _reply(self, job: Job, segments: list[wire.Buffer]) -> list[wire.Buffer]:
        call = job.call
        size = job.size_out
        if size > self._limits.payload:
            text = f"a reply of {size} bytes; at most {self._limits.payload} are sent"
            return self._error(call.id, wire.TOO_LARGE, text)
        if size <= BULK or call.flags & wire.DIRECT:
            return wire.reply(call.id, len(self._running) - 1, segments)
        self._log_size(call.method, size)
        token = int.from_bytes(os.urandom(8), "big") | 1
        self.park(job.peer, call.id, token, segments)
        return [wire.parked(call.id, len(self._running) - 1, token, size)]

    def park(self, peer: Caller, id: int, token: int, what: Parked) -> None:
        """Keep the result of call *id* until it is fetched by *token*."""
        peer.parked[token] = (id, what)
        self._parked[token] = peer

    def move(self, job: Job, peer: Caller, id: int) -> None:
        """A job whose result was fetched goes on as call *id* of *peer*."""
        self._running.pop((job.peer.fd, job.call.id), None)
        self._end(job)
        with peer.lock:
            peer.jobs[id] = self._running[peer.fd, id] = job.current
            gone = peer.closed
        if gone:  # since it asked: who let go of the connection has not seen this job
            job.current._cancel()
        job.peer, job.call = peer, job.call._replace(id=id, flags=job.call.flags | wire.DIRECT)

    def _error(self, id: int, code: int, text: str) -> list[wire.Buffer]:
        return wire.error(id, len(self._running) - 1, code, codec.refusal(text))

    def _end(self, job: Job) -> None:
        """After its answer was queued."""
        if job.incoming:
            _results().release(job)
        job.peer.jobs.pop(job.call.id, None)
        if job.peer.goodbye and not job.peer.jobs:
            self._ended.set()
            job.peer.connection.end_sending()

    def _leave_queue(self, queue: Queue) -> None:
        """Let the next call of a serial service run."""
        job = queue.leave()
        if job is not None:
            self._begin(job)
            self._poller.wake()

    def finish(self, job: Job, frames: list[wire.Buffer]) -> None:
        """Answer a call from a thread that has not the turn."""
        if job.later is not None:
            self._go_on(job, own_thread=True)
            return
        self._running.pop((job.peer.fd, job.call.id), None)
        if frames:
            if wire.size_of(frames) > BULK:
                self._send_big(job.peer, frames)
            else:
                job.peer.connection.send(frames)
            job.peer.check_queue()
        self._end(job)
        if job.method.queue is not None:
            self._leave_queue(job.method.queue)
        self._count(job)

    def _send_big(self, peer: Caller, frames: list[wire.Buffer]) -> None:
        """Send a big reply, waiting as long as the other side takes some of it now and then."""
        if not peer.connection.send_waiting(frames, _NEVER, self._limits.stall):
            peer.connection.shutdown()  # its reader drops it

    def _send_parked(self, peer: Caller, event: wire.Fetch) -> None:
        owner = self._parked.get(event.token)
        if owner is None or owner.identity != peer.identity:
            self._refuse(peer, event.id, wire.GONE, "the reply is not there any more")
            peer.connection.flush()
            return
        entry = owner.parked.get(event.token)
        if entry is None:
            return
        id, what = entry
        if callable(what):
            self._drop_parked(owner, id)
            what(peer, event.id)
            return
        self._send_big(peer, wire.reply(event.id, self.in_flight, what))
        peer.check_queue()
        self._drop_parked(owner, id)

    def _drop_parked(self, peer: Caller, id: int) -> None:
        for token, (call, _) in list(peer.parked.items()):
            if call == id:
                del peer.parked[token]
                self._parked.pop(token, None)

    def _log_size(self, method: str, size: int) -> None:
        now = time.monotonic()
        if size > self._limits.log_payload and now - self._logged > self._limits.log_every:
            self._logged = now
            logger.warning("%s: a reply of %.1f MiB", method, size / 2**20)

    # Connections' beginnings and ends.

    def _welcome(self, peer: Caller) -> None:
        """After the handshake: check who it is, greet, and serve."""
        try:
            peer.identity = peer_identity(peer.connection.tls, self.credentials.identity.cluster)
        except WireError as e:
            peer.connection.send([wire.goodbye(0, str(e))])
            self._discard(peer)
            logger.info("%s: %s", self.name, e)
            return
        with self._lock:
            closed, old = self._closed, peer.generation < self._generation
            if not closed:  # else nobody would ever read it
                self._peers[peer.fd] = peer
        if closed:
            peer.connection.send([wire.goodbye(0, f"{self.name} is closing")])
            self._discard(peer)
            return
        peer.connection.send([wire.hello(self._limits, self.name)])
        try:
            for event in peer.connection.decrypt():
                self._handle(peer, event)
        except (Lost, WireError):
            self._drop(peer)
            return
        peer.give_reader(False)
        if old:
            self._say_goodbye(peer, f"{self.name} has a new identity")
        self._untidy = True
        self._poller.wake()

    def _say_goodbye(self, peer: Caller, reason: str) -> None:
        with peer.lock:
            if peer.goodbye or peer.closed:
                return
            peer.goodbye = True
        peer.connection.send([wire.goodbye(peer.last, reason)])
        if not peer.jobs:
            peer.connection.end_sending()

    def _doom(self, peer: Caller, reason: str) -> None:
        """End a connection whose other side breaks the rules, and tell it why."""
        logger.warning("%s: closing the connection of %s: %s", self.name, peer.identity, reason)
        self._say_goodbye(peer, reason)
        peer.doomed = time.monotonic()
        self._untidy = True
        peer.connection.end_sending()

    def _drop(self, peer: Caller) -> None:
        """Let go of a connection that has ended; its calls are cancelled."""
        with peer.lock:
            if peer.closed:
                return
            peer.closed = True
        with self._lock:
            if self._peers.get(peer.fd) is peer:
                del self._peers[peer.fd]
        for current in list(peer.jobs.values()):
            current._cancel()
        for token in list(peer.parked):
            self._parked.pop(token, None)
        peer.parked.clear()
        peer.streams.clear()
        self._poller.remove(peer.fd)
        self._discard(peer)
        self._ended.set()
        if self._closed:
            self._poller.wake()  # whoever has the turn may end with the last connection

    def _discard(self, peer: Caller) -> None:
        peer.closed = True
        peer.connection.end_sending()
        peer.connection.close()

    def _disown(self) -> None:
        """In a forked child: everything here is the parent's."""
        self._disowned = self._closed = True
        for peer in self._peers.values():
            peer.closed = True
            peer.connection.disown()
        self._peers.clear()
        self._poller.disown()


_AT_ONCE = frozenset({type(None), int, float, str, bytes, bool, list, tuple, dict, set})  # nearly all results


def _may_take_time(result: Any) -> bool:
    cls = type(result)
    return hasattr(cls, "__next__") or hasattr(cls, "__anext__") or hasattr(cls, "__await__")


def _results() -> Any:
    """`bigm.rpc.results`, which agents never need: named like this it stays out of their zip."""
    return importlib.import_module("bigm.rpc.results")


class _Run:
    """A job as a task for a thread of its own."""

    __slots__ = ("job", "server")

    def __init__(self, server: Server, job: Job) -> None:
        self.server = server
        self.job = job

    def __call__(self) -> None:
        self.server.finish(self.job, self.server._run(self.job))


_servers: weakref.WeakSet[Server] = weakref.WeakSet()


def _after_fork() -> None:
    for server in list(_servers):
        server._disown()


os.register_at_fork(after_in_child=_after_fork)
