"""The cluster as a service on one of its machines sees it: what `setup` is given.

This module travels: standard library alone.

Source: bigmachine bigmachine.go (B on a machine: Dial).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NoReturn, Optional, Union

from bigm.clock import Clock
from bigm.errors import NotPicklable
from bigm.groups import Groups
from bigm.peer import Link, Peer, address
from bigm.pings import Pings


class Peers(Groups):
    """The cluster as a service on one of its machines sees it: the object given to `setup`.

    Args:
        machine: this machine's id.
        proc: which of its workers this is, from 0.
        procs: how many it has.
        link: how to reach the others.
    Attributes:
        addr: this machine's own address.
        name: the cluster's name.
    """

    def __init__(self, machine: str, proc: int, procs: int, link: Link) -> None:
        self.machine = machine
        self.proc = proc
        self.procs = procs
        self.addr = ""
        self.name = ""
        self._link = link
        self._timer = _LateClock(f"bigm-peers {machine}")
        self._lock = threading.Lock()
        self._peers: dict[str, Peer] = {}

    def __repr__(self) -> str:
        return f"<Peers of {self.machine}, worker {self.proc} of {self.procs}: {len(self._peers)} dialled>"

    def place(self, addr: str, name: str) -> None:
        """Take in what only the driver knows: this machine's address, and the cluster's name."""
        self.addr = addr
        self.name = name

    def __reduce__(self) -> NoReturn:
        raise NotPicklable("the cluster is here as this machine sees it; send its machines, or their addresses")

    def dial(self, machine: Union[str, Peer]) -> Peer:
        """The handle of a machine, always the same object for one address. Nothing is sent before the first call.

        Args:
            machine: its address, or a handle of it.
        Raises:
            ConfigError: it is neither, or the machine belongs to another cluster.
        """
        addr = address(machine, self._link)
        with self._lock:
            if addr not in self._peers:
                peer = self._peers[addr] = Peer(addr, self._link)
                Pings(peer, self._timer, lasting=False)
            return self._peers[addr]

    def close(self) -> None:
        """Let go of all connections."""
        with self._lock:
            peers, self._peers = self._peers, {}
        self._timer.close()
        for peer in peers.values():
            peer.close()


class _LateClock:
    """A clock whose thread is started when first needed: most services call no other machine."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._clock: Optional[Clock] = None
        self._closed = False

    def after(self, delay: float, function: Callable[[], None]) -> None:
        """As that of the clock, but for a closed one's, which is none."""
        with self._lock:
            if self._closed:
                return
            if self._clock is None:
                self._clock = Clock(self._name)
            self._clock.after(delay, function)

    def close(self) -> None:
        """Call nothing any more."""
        with self._lock:
            self._closed = True
            clock = self._clock
        if clock is not None:
            clock.close()
