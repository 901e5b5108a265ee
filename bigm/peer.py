"""A machine by its address: whom to call there, for a driver and for a service on a machine alike.

A machine has one or more workers, each with its own instances of the services. A `Peer` holds a client for each and
sends every call to the idlest: fewest calls in flight from here, plus the load that the worker's last reply carried, so
that several callers converge. Which workers there are is learnt from the machine's agent, at the first call.

Nothing here owns a machine: no lease, no end; its state is what `bigm.pings` finds out. `bigm.machine.Machine` adds the
former on the driver. This module travels: standard library alone.

Source: bigmachine bigmachine.go (Dial).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Optional, Protocol, Union

from bigm.calling import Calls
from bigm.errors import (
    BigmError,
    ConfigError,
    DeadlineExceeded,
    MachineStopped,
    Unreachable,
)
from bigm.lifecycle import Cause, Phase, State
from bigm.routes import parse_address, tcp_connect
from bigm.rpc import codec, interrupts
from bigm.rpc.calls import CallFuture
from bigm.rpc.client import Client
from bigm.rpc.codec import Home
from bigm.rpc.identity import MACHINE, WORKER, Identity
from bigm.rpc.stats import CallStats, MethodStats
from bigm.rpc.tls import Credentials
from bigm.timeouts import Timeouts, check_timeout

_OWN = ("Supervisor.", "Shares.")  # bigm's own calls


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
        locator, machine = parse_address(addr)
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
        Raises:
            ConfigError: the timeout is none.
        """
        check_timeout(timeout)
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
                return _first_of(missing)
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


def _first_of(futures: list[concurrent.futures.Future[None]]) -> concurrent.futures.Future[None]:
    """Done as soon as one of *futures* is."""
    if len(futures) == 1:
        return futures[0]
    first: concurrent.futures.Future[None] = concurrent.futures.Future()

    def done(_: concurrent.futures.Future[None]) -> None:
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            first.set_result(None)

    for future in futures:
        future.add_done_callback(done)
    return first


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
