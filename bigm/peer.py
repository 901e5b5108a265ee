"""Calls to a machine by its address: what a driver and a service on a machine can both do with one.

A machine has one or more workers, each with its own instances of the services. A `Peer` holds a client for each and
sends every call to the idlest: fewest calls in flight from here, plus the load that the worker's last reply carried, so
that several callers converge. Which workers there are is learnt from the machine's agent, at the first call.

Nothing here owns a machine: no lease, no end; its state is what `bigm.pings` finds out. `bigm.machine.Machine` adds the
former on the driver. This module travels: standard library alone.

Source: bigmachine machine.go (Call, RetryCall) and bigmachine.go (Dial).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import difflib
import functools
import io
import random
import socket
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional, Protocol, TypeVar, Union

from bigm.errors import (
    BigmError,
    CallError,
    ConfigError,
    DeadlineExceeded,
    MachineStopped,
    MayHaveRun,
    NoSuchMethod,
    Unreachable,
    WorkerDied,
)
from bigm.groups import gather
from bigm.lifecycle import Cause, Phase, State
from bigm.rpc import codec, interrupts
from bigm.rpc.calls import CallFuture, notify_cancelled
from bigm.rpc.client import Client
from bigm.rpc.codec import Home
from bigm.rpc.identity import MACHINE, WORKER, Identity
from bigm.rpc.stats import CallStats, MethodStats
from bigm.rpc.tls import Credentials
from bigm.timeouts import Timeouts

if TYPE_CHECKING:
    from bigm.rpc.streams import Stream

T = TypeVar("T")

_OWN = ("Supervisor.", "Shares.")  # bigm's own calls
_RUN = "Functions.run"
_RETRY_FIRST = 0.05  # seconds before the first further attempt of retry_call; doubled from there
_RETRY_MOST = 5.0


def tcp_connect(locator: str, timeout: float) -> socket.socket:
    """Connect to *locator*, "host:port", within *timeout* seconds."""
    host, _, port = locator.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout)


@dataclass(frozen=True)
class Link:
    """How this process reaches the machines of its cluster, and as whom.

    Args:
        credentials: of this process.
        connect: from a locator and seconds to a connected socket.
        timeouts: of this cluster.
        home: whose the handles of machines become that calls bring back.
    """

    credentials: Credentials
    connect: Callable[[str, float], socket.socket] = tcp_connect
    timeouts: Timeouts = field(default_factory=Timeouts)
    home: Optional[Home] = None


class Calls:
    """The ways to call a machine, with the options that these calls carry. See `Peer`."""

    _timeout: Optional[float] = None
    _idempotent: bool = False

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a service's method and wait for what it returns.

        Args:
            method: "Service.method".
            args: the method's own arguments, as are *kwargs*; all are pickled.
        Returns:
            what the method returned, pickled there and rebuilt here.
        Raises:
            Exception: the method's own, as itself, with the remote traceback as its `__cause__`.
            ServiceError: the method's own, when it cannot be rebuilt here.
            CallError: the call was refused before the method started; fix the call.
            Unreachable: certainly did not start; trying again can help, as `retry_call` does.
            MayHaveRun: the connection was lost while it ran; only the caller knows whether trying again is safe.
            DeadlineExceeded: the timeout passed; may have run.
            MachineStopped: the machine ended, with its cause; may have run.
        """
        client, timeout = self._route(self._timeout)
        return client.call(method, args, kwargs, timeout=timeout, idempotent=self._idempotent)

    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """The same without waiting: a future, whose `cancel` reaches the machine."""
        opened = self._opened()
        if not opened.done():
            return _Deferred(opened, functools.partial(self.submit, method, *args, **kwargs), self._where())
        client, timeout = self._route(self._timeout)
        return client.submit(method, args, kwargs, timeout=timeout, idempotent=self._idempotent)

    async def acall(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """The same for `await`; cancelling the task reaches the machine."""
        await self._aopened()
        client, timeout = self._route(self._timeout)
        return await client.acall(method, args, kwargs, timeout=timeout, idempotent=self._idempotent)

    def stream(self, method: str, /, *args: Any, **kwargs: Any) -> Stream:
        """Call a method that returns an iterator; its items come one by one, each as soon as it is there.

        `call` gives the same where the method streams; this spares it a round trip, and wants a stream. Of what has
        not been read at most 4 MiB and one item more are in memory, here and there together. The timeout is the
        whole stream's.

        Args:
            method: as for `call`, as are the others.
        Returns:
            a `Stream`, for `for` and for `async for`; letting go of it, or leaving its `with` block, ends the method.
        Raises:
            CallError: the method returned no iterator; it has run.
            Exception: as for `call`, here or from the iteration, behind the items before it.
        """
        client, timeout = self._route(self._timeout)
        result = client.call(method, args, kwargs, timeout=timeout, idempotent=self._idempotent, direct=True)
        return _as_stream(method, result)

    def astream(self, method: str, /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """The same for `async for`: the method is called when the first item is asked for."""
        return _LaterStream(functools.partial(self._astream, method, args, kwargs))

    async def _astream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Stream:
        await self._aopened()
        client, timeout = self._route(self._timeout)
        result = await client.acall(method, args, kwargs, timeout=timeout, idempotent=self._idempotent, direct=True)
        return _as_stream(method, result)

    def read(self, method: str, /, *args: Any, **kwargs: Any) -> io.RawIOBase:
        """Call a method that yields bytes or returns a binary file; read these as a raw file.

        Put `io.BufferedReader` around it for lines and peeking. Where the method takes an `offset` (bytes from the
        beginning), the file is seekable, and a connection lost in the middle is survived: the method is called again
        from there on.

        Args:
            method: as for `call`, as are the others.
        Raises:
            CallError: the method returned no iterator, or one of something else than bytes.
            Exception: as for `call`, here or from reading.
        """
        from bigm.rpc.bytestreams import RemoteFile

        def open(offset: Optional[int]) -> Stream:
            return self.stream(method, *args, **(kwargs if offset is None else {**kwargs, "offset": offset}))

        return RemoteFile(open, kwargs.get("offset", 0))

    def write(self, method: str, file: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method with a file, which it reads from a binary file of its own while this one is sent.

        Where the method takes an `offset` (bytes from the beginning; it must then write what it reads to there), a
        connection lost in the middle is survived: it is called again behind what it has certainly read, if *file* can
        go there.

        Args:
            method: as for `call`, as are the others; its first argument is the file.
            file: a binary file, an iterator of bytes, or a function that makes one, called anew for each attempt.
        Returns:
            what the method returns.
        Raises:
            CallError: *file* is none of these.
            Exception: as for `call`.
        """
        from bigm.rpc.bytestreams import Upload

        upload = Upload(file)
        while True:
            again = {"offset": kwargs.get("offset", 0) + upload.done} if upload.done else {}
            try:
                return self.call(method, upload, *args, **{**kwargs, **again})
            except (Unreachable, MayHaveRun):
                if not upload.resume():
                    raise

    def retry_call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call again, after growing pauses, as long as the call certainly did not start or is idempotent.

        Args:
            method: as for `call`, as are the others.
        Raises:
            Unreachable: the machine was not reached within the timeout (`Timeouts.retry` where none is given).
            Exception: anything else `call` raises, at once.
        """
        deadline = time.monotonic() + (self._timeouts().retry if self._timeout is None else self._timeout)
        pause = _RETRY_FIRST
        while True:
            try:
                return self.call(method, *args, **kwargs)
            except (Unreachable, WorkerDied) as error:
                if isinstance(error, WorkerDied) and not self._idempotent:
                    raise
                pause = min(pause * 2, _RETRY_MOST)
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))  # not all callers at the same moment

    def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Run a function there and wait for what it returns.

        `submit("Functions.run", function, ...)` gives a future, `acall("Functions.run", function, ...)` awaits. For
        many functions, or to let bigm choose the machine, see `Cluster.executor`.

        Args:
            function: any callable that pickles; a function goes by its import path, so that the machine's own is run.
            args: its own arguments, as are *kwargs*; all are pickled.
        Returns:
            what it returned, pickled there and rebuilt here.
        Raises:
            ConfigError: *function* cannot be called. The caller's fault.
            NotPicklable: *function* or an argument cannot be pickled, or cannot be rebuilt there; says which.
            Exception: the function's own, as itself, and all others that `call` raises.
        """
        if not callable(function):
            raise ConfigError(
                f"cannot run {function!r}, which is no function", hint="give the function itself, then its arguments"
            )
        result: T = self.call(_RUN, function, *args, **kwargs)
        return result

    def broadcast(self, method: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call the method on every worker of the machine at once; waits for all of them.

        Args:
            method: as for `call`, as are the others.
        Returns:
            what each returned, in the order of the workers.
        Raises:
            GroupError: one or more failed.
        """
        return gather(self._submit_each(method, args, kwargs))

    def service(self, name: str, cls: type[T]) -> T:
        """A handle on which *cls*'s public methods are called as if the service were local.

        `handle.sample(n)` calls, `handle.sample.submit(n)` gives a future, `await handle.sample.acall(n)` awaits, and
        `for x in handle.walk(n)` reads the stream of a generator method, as do `handle.walk.stream` and `.astream`.
        Type checkers see *cls* itself, which says nothing of the others; `submit("PI.sample", n)` is the same.

        Args:
            name: the service's name, as it was given to `Cluster.start`.
            cls: its class.
        """
        handle: T = _Handle(self, name, cls)  # type: ignore[assignment]  # that is the point of it
        return handle

    def _route(self, timeout: Optional[float]) -> tuple[Client, Optional[float]]:
        """The client to call by, and what is left of *timeout* once there is one."""
        raise NotImplementedError

    def _route_all(self, timeout: Optional[float]) -> tuple[tuple[Client, ...], Optional[float]]:
        """The same for a client of each worker."""
        raise NotImplementedError

    def _submit_each(
        self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> list[concurrent.futures.Future[Any]]:
        """One call to each worker, in their order. Waits until they can be called."""
        clients, timeout = self._route_all(self._timeout)
        return [client.submit(method, args, kwargs, timeout=timeout, idempotent=self._idempotent) for client in clients]

    async def _aopened(self) -> None:
        while not (opened := self._opened()).done():
            import asyncio  # whoever awaits has it already; a worker's start must not pay for it

            await asyncio.shield(asyncio.wrap_future(opened))

    def _opened(self) -> concurrent.futures.Future[None]:
        """Done as soon as `_route` need not wait."""
        raise NotImplementedError

    def _where(self) -> str:
        """Which machine is called."""
        raise NotImplementedError

    def _timeouts(self) -> Timeouts:
        raise NotImplementedError


class Watcher(Protocol):
    """Who looks after the state of a machine that is not owned. See `bigm.pings`."""

    def wake(self) -> None:
        """Somebody wants to know."""

    def doubt(self, client: Client) -> None:
        """Calls of *client* were lost: find out whether the machine has ended. Quick; any thread."""


class Peer(Calls):
    """A machine, by address. Dials when first needed, and again when a connection is lost.

    It can be an argument, a result or part of either: in whatever process of its cluster it arrives it is that
    process's own handle of the machine, which dials with that process's certificate.

    Args:
        addr: "locator/machine": where to dial and whom to expect there.
        link: how to dial it.
    """

    owned = False
    _asleep = False  # it is to be pinged once it is called
    _down: Mapping[int, concurrent.futures.Future[None]] = {}  # workers that died, and what is done when they are back
    _watcher: Optional[Watcher] = None

    def __init__(self, addr: str, link: Link) -> None:
        locator, slash, machine = addr.rpartition("/")
        if not (locator and slash and machine):
            raise ConfigError(f"{addr!r} is no machine's address", hint="it looks like 127.0.0.1:42409/m0")
        self.addr = addr
        self.id = machine
        self.stats = CallStats()
        self.error: Optional[BigmError] = None
        self.cause: Optional[Cause] = None
        self._phase = Phase.UNSTARTED
        self._link = link
        self._doubt: Optional[Callable[[Client], None]] = None
        self._locator = locator
        self._lock = threading.Lock()
        self._clients: tuple[Client, ...] = ()
        self._gate: Optional[concurrent.futures.Future[None]] = None
        self._agent = self._client(Identity(link.credentials.identity.cluster, MACHINE, machine), f"agent of {machine}")

    def __repr__(self) -> str:
        return f"<Peer {self.addr}: {len(self._clients)} workers, {self.in_flight} calls in flight>"

    def __reduce__(self) -> tuple[Callable[[str, str], Peer], tuple[str, str]]:
        return arrived, (self._link.credentials.identity.cluster, self.addr)

    @property
    def state(self) -> State:
        """RUNNING while its agent answers pings, STARTING before it first did, STOPPED for good once it has ended.

        Nothing waits for this. Asking, and calling, have it pinged from then on; what is called no more and not asked
        for is pinged no more. A machine that ends is noticed at once where its computer says so, else after the time
        of a lease.
        """
        if self._watcher is not None:
            self._watcher.wake()
        return self._phase.state

    @property
    def procs(self) -> int:
        """Workers it has; 0 while that is not known."""
        return len(self._clients)

    @property
    def in_flight(self) -> int:
        """Calls from here that it has not answered yet."""
        return sum(client.in_flight for client in self._clients)

    def options(
        self, *, timeout: Optional[float] = None, idempotent: bool = False, proc: Optional[int] = None
    ) -> Calls:
        """The same machine, to which calls carry these options.

        Args:
            timeout: seconds for each call, from when it is made to when it is answered; None: no limit of its own.
            idempotent: running it twice does no harm, so a lost connection makes bigm send it again.
            proc: the worker to call, from 0; None: the idlest.
        """
        return _Options(self, timeout, idempotent, proc)

    def ping(self, timeout: Optional[float] = None) -> float:
        """Ask the agent, which answers however busy the workers are; the seconds that took.

        Args:
            timeout: seconds to wait at most; None: `Timeouts.ping`.
        Raises:
            WireError: it did not answer.
        """
        started = time.monotonic()
        self._agent.call("Agent.ping", timeout=timeout or self._link.timeouts.ping, idempotent=True)
        return time.monotonic() - started

    def statistics(self) -> dict[str, MethodStats]:
        """Counts, errors, bytes and latencies of the calls to services made from here, by method."""
        return {name: stats for name, stats in self.stats.snapshot().items() if not name.startswith(_OWN)}

    def close(self, error: Optional[BaseException] = None) -> None:
        """Let go of all connections. Calls in flight and later ones raise *error*, or `Unreachable`."""
        error = error or Unreachable(f"the connection to {self.addr} was closed here")
        for client in (*self._clients, self._agent):
            client.close(error)

    def _client(self, identity: Identity, name: str) -> Client:
        # An agent answers whatever its workers do, so its handshake has a limit. A worker may hold its GIL for longer
        # than any: there the call's own timeout is the only one.
        limits = self._link.timeouts
        to_agent = identity.role == MACHINE
        return Client(
            lambda timeout: self._link.connect(self._locator, min(timeout, limits.dial)),
            self._link.credentials,
            identity,
            name=name,
            dial_timeout=limits.dial if to_agent else None,
            stats=None if to_agent else self.stats,
            doubt=None if to_agent else self._doubt,
            home=self._link.home,
        )

    def _add_workers(self, procs: int) -> tuple[Client, ...]:
        cluster = self._link.credentials.identity.cluster
        return tuple(
            self._client(Identity(cluster, WORKER, self.id, proc), self._worker_name(proc, procs))
            for proc in range(procs)
        )

    def _add_worker(self, proc: int) -> Client:
        cluster = self._link.credentials.identity.cluster
        return self._client(Identity(cluster, WORKER, self.id, proc), self._worker_name(proc, self.procs))

    def _worker_name(self, proc: int, procs: int) -> str:
        return self.id if procs == 1 else f"{self.id} worker {proc}"

    def _route(self, timeout: Optional[float], proc: Optional[int] = None) -> tuple[Client, Optional[float]]:
        if self._asleep and self._watcher is not None:
            self._watcher.wake()
        clients = self._clients
        if not clients:
            timeout = self._await_open(timeout)
            clients = self._clients or self._refuse()
        if self._down:
            return self._route_around(timeout, proc)
        if proc is None:
            return (clients[0] if len(clients) == 1 else min(clients, key=_pressure)), timeout
        if not 0 <= proc < len(clients):
            raise self._no_worker(proc)
        return clients[proc], timeout

    def _route_around(self, timeout: Optional[float], proc: Optional[int]) -> tuple[Client, Optional[float]]:
        """As `_route`, while workers are started anew: by those that are there, else by the first to be back."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            missing = self._missing(proc)
            clients = self._clients or self._refuse()
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not missing:
                down = self._down
                able = [clients[proc]] if proc is not None else [c for i, c in enumerate(clients) if i not in down]
                if able:
                    return min(able, key=_pressure), left
                continue
            concurrent.futures.wait(missing, left, concurrent.futures.FIRST_COMPLETED)
            if left == 0.0:
                raise DeadlineExceeded(f"call to {self.id}: no worker was started anew within {timeout:g} s")

    def _missing(self, proc: Optional[int]) -> list[concurrent.futures.Future[None]]:
        """What to wait for, to call worker *proc*, or any; nothing when that can be done now."""
        down = self._down
        if proc is not None:
            if self._clients and not 0 <= proc < len(self._clients):
                raise self._no_worker(proc)
            return [down[proc]] if proc in down else []
        return list(down.values()) if down and len(down) == len(self._clients) else []

    def _no_worker(self, proc: int) -> ConfigError:
        return ConfigError(f"machine {self.id} has no worker {proc!r}", hint=f"it has {len(self._clients)}, from 0")

    def _route_all(self, timeout: Optional[float]) -> tuple[tuple[Client, ...], Optional[float]]:
        if self._asleep and self._watcher is not None:
            self._watcher.wake()
        if not self._clients:
            timeout = self._await_open(timeout)
        for proc in list(self._down):
            timeout = self._route_around(timeout, proc)[1]
        return self._clients or self._refuse(), timeout

    def _await_open(self, timeout: Optional[float]) -> Optional[float]:
        """Wait until there are workers to call; what is left of *timeout*."""
        started = time.monotonic()
        opened = self._opened()
        try:
            interrupts.in_slices(lambda slice: concurrent.futures.wait([opened], slice).done, timeout)
            opened.result(0.0)
        except concurrent.futures.TimeoutError:
            if opened.done():
                raise  # its own error, not the end of our patience
            raise DeadlineExceeded(f"call to {self.id}: it was not ready to be called within {timeout:g} s") from None
        return None if timeout is None else max(0.0, timeout - (time.monotonic() - started))

    def _refuse(self) -> tuple[Client, ...]:
        if self._phase.state is State.STOPPED:
            raise self._stopped()
        raise Unreachable(f"machine {self.addr} has no workers yet")

    def _opened(self, proc: Optional[int] = None) -> concurrent.futures.Future[None]:
        gate = self._gate
        if self._down:
            missing = self._missing(proc)
            if missing:
                return missing[0]
        if gate is not None:
            return gate
        with self._lock:
            if self._gate is not None:
                return self._gate
            gate = self._gate = concurrent.futures.Future()
        self._agent.submit_internal(
            "Agent.info", (), timeout=self._link.timeouts.dial, done=functools.partial(self._learn_workers, gate)
        )
        return gate

    def _learn_workers(self, gate: concurrent.futures.Future[None], reply: CallFuture) -> None:
        clients: tuple[Client, ...] = ()
        failure: Optional[BigmError] = None
        try:
            clients = self._add_workers(reply.result().procs) or self._refuse()
        except BigmError as error:
            failure = error
        with self._lock:
            if gate.done():
                return  # the machine was found to have stopped meanwhile
            self._clients = clients
            if failure is not None:
                self._gate = None  # the next call asks again
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            if failure is not None:
                gate.set_exception(failure)
            else:
                gate.set_result(None)

    def _where(self) -> str:
        return self.id

    # --- what is known of its life

    def _watched_by(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._doubt = watcher.doubt
        self._asleep = True

    def _enter(self, phase: Phase, cause: Optional[Cause] = None, error: Optional[BigmError] = None) -> None:
        if phase.state is State.STOPPED and self._phase.state is not State.STOPPED:
            self.cause, self.error = cause, error
        self._phase = phase

    def _announce(self) -> None:
        """Wake whoever waits for a state."""

    def _fail(self) -> None:
        """Fail calls in flight and to come."""
        with self._lock:
            clients, self._clients = self._clients, ()
            down, self._down = self._down, {}
        for client in clients:
            client.close(self._stopped())
        for gate in down.values():
            gate.set_result(None)
        self._release_waiting()

    def _release_waiting(self) -> None:
        with self._lock:
            gate = self._gate = self._gate or concurrent.futures.Future()
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            gate.set_result(None)

    def _stopped(self) -> MachineStopped:
        """A new error for each call that fails: each gathers a traceback of its own."""
        cause = self.cause or Cause.SHUTDOWN
        if isinstance(self.error, MachineStopped):
            return MachineStopped(self.error.message, cause=self.error.cause, hint=self.error.hint)
        error = MachineStopped(f"machine {self.addr} stopped: {cause.sentence}", cause=cause)
        error.__cause__ = self.error
        return error

    def _timeouts(self) -> Timeouts:
        return self._link.timeouts


open_clusters: weakref.WeakValueDictionary[str, Home] = weakref.WeakValueDictionary()  # of this driver


def arrived(cluster: str, addr: str) -> Peer:
    """What a handle becomes where it is unpickled: the handle of whoever unpickles it.

    Args:
        cluster: the id of the cluster it belongs to.
        addr: the machine's address.
    Raises:
        ConfigError: that cluster is none of this process, or has ended.
    """
    home = codec.reader.home
    if home is None or not home.worker:  # a driver may have several
        home = open_clusters.get(cluster)
    if home is None or home.cluster != cluster:
        raise ConfigError(
            f"machine {addr} belongs to cluster {cluster}, which is not open here",
            hint="only the driver and the machines of that cluster can call it",
        )
    peer: Peer = home.dial(addr)
    return peer


def address(machine: Union[str, Peer], link: Link) -> str:
    """The address of *machine*, which may be one already.

    Raises:
        ConfigError: it is neither an address nor a handle, or that of a machine of another cluster.
    """
    if isinstance(machine, str):
        return machine
    if not isinstance(machine, Peer):
        raise ConfigError(f"cannot dial {machine!r:.200}", hint="give a machine, or its address")
    here, there = link.credentials.identity.cluster, machine._link.credentials.identity.cluster
    if here != there:
        raise ConfigError(
            f"cannot dial machine {machine.addr}: it belongs to cluster {there}, and this is {here}",
            hint="clusters do not trust one another; call it by its own cluster's handle",
        )
    return machine.addr


def _pressure(client: Client) -> float:
    return client.in_flight + client.load


class _Options(Calls):
    """A view of a peer whose calls carry options."""

    def __init__(self, peer: Peer, timeout: Optional[float], idempotent: bool, proc: Optional[int]) -> None:
        self._peer = peer
        self._timeout = timeout
        self._idempotent = idempotent
        self._proc = proc

    def __repr__(self) -> str:
        return f"<{self._peer!r} timeout={self._timeout} idempotent={self._idempotent} proc={self._proc}>"

    def _route(self, timeout: Optional[float]) -> tuple[Client, Optional[float]]:
        return self._peer._route(timeout, self._proc)

    def _route_all(self, timeout: Optional[float]) -> tuple[tuple[Client, ...], Optional[float]]:
        if self._proc is None:
            return self._peer._route_all(timeout)
        client, timeout = self._route(timeout)
        return (client,), timeout

    def _opened(self) -> concurrent.futures.Future[None]:
        return self._peer._opened(self._proc)

    def _where(self) -> str:
        return self._peer._where()

    def _timeouts(self) -> Timeouts:
        return self._peer._timeouts()


class _Handle:
    """A service on a machine: its methods as attributes."""

    def __init__(self, calls: Calls, name: str, cls: type) -> None:
        self._calls = calls
        self._name = name
        self._cls = cls

    def __repr__(self) -> str:
        return f"<service {self._name} ({self._cls.__qualname__}) on {self._calls!r}>"

    def __reduce__(self) -> tuple[type[_Handle], tuple[Calls, str, type]]:
        return _Handle, (self._calls, self._name, self._cls)

    def __getattr__(self, method: str) -> _Method:
        function = getattr(self._cls, method, None)
        if method.startswith("_") or not callable(function):
            public = [name for name in dir(self._cls) if name[0] != "_" and callable(getattr(self._cls, name, None))]
            near = difflib.get_close_matches(method, public, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(public) or 'none'}"
            error = NoSuchMethod(f"service {self._name} ({self._cls.__qualname__}) has no method {method!r}", hint=hint)
            raise AttributeError(str(error)) from error  # what hasattr and friends expect
        found = _Method(self._calls, f"{self._name}.{method}", function)
        setattr(self, method, found)  # the next use finds it without coming here
        return found


class _Method:
    """One method of a service on a machine."""

    def __init__(self, calls: Calls, name: str, function: Callable[..., Any]) -> None:
        self._calls = calls
        self._name = name
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    def __repr__(self) -> str:
        return f"<method {self._name} on {self._calls!r}>"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._calls.call(self._name, *args, **kwargs)

    def submit(self, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        return self._calls.submit(self._name, *args, **kwargs)

    def acall(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return self._calls.acall(self._name, *args, **kwargs)

    def stream(self, /, *args: Any, **kwargs: Any) -> Stream:
        return self._calls.stream(self._name, *args, **kwargs)

    def astream(self, /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        return self._calls.astream(self._name, *args, **kwargs)


def _as_stream(method: str, result: Any) -> Stream:
    if hasattr(result, "next_bytes"):  # its class is not imported where nothing was streamed
        stream: Stream = result
        return stream
    raise CallError(
        f"{method} returned {type(result).__name__}, which is no stream",
        hint="stream and read want a method that returns an iterator; call takes any",
    )


class _LaterStream:
    """A stream that a coroutine is about to open."""

    def __init__(self, open: Callable[[], Coroutine[Any, Any, Stream]]) -> None:
        self._open = open
        self._stream: Optional[Stream] = None

    def __aiter__(self) -> _LaterStream:
        return self

    async def __anext__(self) -> Any:
        if self._stream is None:
            self._stream = await self._open()
        return await self._stream.__anext__()

    async def aclose(self) -> None:
        if self._stream is not None:
            self._stream.close()


class _Deferred(concurrent.futures.Future[Any]):
    """The future of a call that waits for its machine: once that can be called, it becomes the call's own future."""

    def __init__(
        self, opened: concurrent.futures.Future[None], submit: Callable[[], concurrent.futures.Future[Any]], where: str
    ) -> None:
        super().__init__()
        self.where = where
        self._unwanted = False
        self._inner: Optional[concurrent.futures.Future[Any]] = None
        self._submit = submit
        waiting = [
            self
        ]  # taken out when its time comes: a future holds its callbacks for ever, and this would its result
        opened.add_done_callback(lambda opened: waiting.pop()._start(opened))

    def cancel(self) -> bool:
        with self._condition:
            inner = self._inner
            if inner is None and not self.done():
                if not super().cancel():
                    self._unwanted = True  # it is being submitted this moment
                notify_cancelled(self)
                return True
        return super().cancel() if inner is None else inner.cancel()

    def result(self, timeout: Optional[float] = None) -> Any:
        try:
            interrupts.in_slices(lambda slice: concurrent.futures.wait([self], slice).done, timeout)
            return super().result(0.0)
        except KeyboardInterrupt:  # as for `call`: who interrupts the waiting wants no answer
            self.cancel()
            raise

    def _start(self, opened: concurrent.futures.Future[None]) -> None:
        with self._condition:
            if self.cancelled() or not self.set_running_or_notify_cancel():
                return
        error = opened.exception()
        if error is not None:
            self.set_exception(error)
            return
        try:
            inner = self._submit()
            with self._condition:
                self._inner, unwanted = inner, self._unwanted
            if unwanted:
                inner.cancel()
        except Exception as failure:  # noqa: BLE001  # whatever pickling the arguments raises is the future's to tell
            self.set_exception(failure)
        else:
            inner.add_done_callback(self._finish)

    def _finish(self, inner: concurrent.futures.Future[Any]) -> None:
        if inner.cancelled():
            self.set_exception(concurrent.futures.CancelledError())
        elif inner.exception() is not None:
            self.set_exception(inner.exception())
        else:
            self.set_result(inner.result())
