"""The keeper's process: renews the leases of machines elsewhere, and releases them when the driver dies.

A child of the driver, started `python -I -S`, with connections and a certificate of its own, which can renew and
release and nothing else. It is told what to keep by lines of JSON on standard input (`bigm.keeper` writes them) and
tells each renewal by a line on standard output, unless nobody reads. The end of standard input is the end of the
driver: everything still kept is released.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from typing import Any, Callable, NamedTuple, Optional

from bigm.bootstrap.piped import PREFIX, Commands
from bigm.routes import connect
from bigm.rpc.client import Client
from bigm.rpc.identity import MACHINE, Identity
from bigm.rpc.tls import Credentials
from bigm.timeouts import Timeouts

_RETRY = 1.0  # seconds until a renewal that failed is tried again, if that is sooner than the next one
_NEVER = 1e6
_RELEASE = 3.0  # seconds for all releases together


class Renewal(NamedTuple):
    """How one renewal went.

    Args:
        machine: whose lease.
        took: seconds until the answer.
        granted: seconds granted; 0 when it failed.
        healthy: what the machine says of its memory.
        text: what is wrong, or "".
    """

    machine: str
    took: float
    granted: float
    healthy: bool = True
    text: str = ""


class Keep:
    """Renews leases until told otherwise.

    Args:
        credentials: the keeper's.
        timeouts: of the cluster.
        tell: hears of each renewal; on the I/O thread, so it must be quick.
    """

    def __init__(self, credentials: Credentials, timeouts: Timeouts, tell: Callable[[Renewal], None]) -> None:
        self._credentials = credentials
        self._timeouts = timeouts
        self._tell = tell
        self._kept: dict[str, _Kept] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._commands = Commands()
        self._thread = threading.Thread(target=self._renew_all, name="bigm-keep", daemon=True)
        self._thread.start()

    def add(self, machine: str, address: str, lease: float) -> None:
        """Keep a machine from now on."""
        client = Client(
            lambda timeout: self._connect(address, timeout),
            self._credentials,
            Identity(self._credentials.identity.cluster, MACHINE, machine),
            name=f"agent of {machine}",
            dial_timeout=self._timeouts.dial,
        )
        self.remove(machine)
        with self._changed:
            self._kept[machine] = _Kept(machine, client, lease)
            self._changed.notify()

    def _connect(self, address: str, timeout: float) -> socket.socket:
        if address.startswith(PREFIX):
            return self._commands.dial(address[len(PREFIX) :], timeout)
        return connect(address, timeout)

    def remove(self, machine: str) -> None:
        """Keep a machine no longer, without ending it."""
        with self._changed:
            kept = self._kept.pop(machine, None)
        if kept is not None:
            kept.client.close()

    def release(self) -> None:
        """End all machines still kept; returns when they have said yes, or have had the time to."""
        with self._changed:
            self._closed = True
            kept = list(self._kept.values())
            self._changed.notify()
        answered = threading.Semaphore(0)
        for one in kept:
            one.client.submit_internal("Agent.release", timeout=_RELEASE, done=lambda _: answered.release())
        deadline = time.monotonic() + _RELEASE
        for _ in kept:
            answered.acquire(timeout=max(0.0, deadline - time.monotonic()))

    def _renew_all(self) -> None:
        while True:
            with self._changed:
                due = min((kept.due for kept in self._kept.values()), default=_NEVER)
                self._changed.wait(max(0.0, min(due - time.monotonic(), _NEVER)))
                if self._closed:
                    return
                now = time.monotonic()
                ready = [kept for kept in self._kept.values() if kept.due <= now and not kept.busy]
                for kept in ready:
                    kept.busy = True
                    kept.due = now + self._timeouts.renewal_interval(kept.lease, len(self._kept))
            for kept in ready:  # outside the lock, which the answers take
                self._renew(kept, now)

    def _renew(self, kept: _Kept, started: float) -> None:
        def done(future: Any) -> None:
            took = time.monotonic() - started
            error = future.exception()
            if error is None:
                lease = future.result()
                self._tell(Renewal(kept.machine, took, lease.granted, lease.healthy, lease.text))
            else:
                self._tell(Renewal(kept.machine, took, 0.0, text=str(error)))
            with self._changed:
                kept.busy = False
                if error is not None:
                    kept.due = min(kept.due, time.monotonic() + _RETRY)
                self._changed.notify()

        timeout = min(self._timeouts.keepalive, kept.lease)
        kept.client.submit_internal("Agent.keepalive", (kept.lease,), timeout=timeout, done=done)


class _Kept:
    def __init__(self, machine: str, client: Client, lease: float) -> None:
        self.machine = machine
        self.client = client
        self.lease = lease
        self.due = 0.0
        self.busy = False


def main() -> None:
    """Keep what standard input says, until it ends."""
    os.set_blocking(1, False)
    keep: Optional[Keep] = None
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "cluster" in message:
            keep = Keep(_credentials(message), Timeouts(**message["timeouts"]), _tell)
        elif keep is not None and "add" in message:
            keep.add(message["add"], message["address"], message["lease"])
        elif keep is not None and "remove" in message:
            keep.remove(message["remove"])
    if keep is not None:
        keep.release()
    os._exit(0)  # connections need no farewell: the machines are ending


def _credentials(message: dict[str, Any]) -> Credentials:
    ca, cert, key = (str(message[name]).encode("ascii") for name in ("ca", "cert", "key"))
    return Credentials(Identity.parse(message["identity"]), ca, cert, key)


def _tell(renewal: Renewal) -> None:
    try:
        os.write(1, json.dumps(renewal._asdict()).encode() + b"\n")
    except OSError:
        pass  # the driver is busy and its pipe is full, or it is gone: neither is our trouble
