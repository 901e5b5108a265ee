"""The driver's side of the keeper: the small process that renews leases while the driver's own code holds the GIL.

A driver that sorts, pickles or matches a big regular expression answers nobody for seconds, sometimes a minute, and a
lease that it renews itself would be lost. The keeper (`bigm.bootstrap.keep`) is another process, so it is not held up;
and as it notices the driver's death at once, the machines of a killed driver end in a second, not after a lease.

It is for machines elsewhere: local ones notice their driver's death themselves. If it dies, it is started again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from bigm.bootstrap.agent import program_text
from bigm.bootstrap.keep import Renewal
from bigm.rpc.tls import Credentials
from bigm.timeouts import Timeouts

logger = logging.getLogger("bigm.keeper")

_PAUSE = 0.5  # seconds before a keeper that died is started again
_END = 5.0  # seconds for the process to end when it is closed


class Keeper:
    """Keeps the leases of one cluster's machines elsewhere.

    Args:
        credentials: of the role "keeper".
        timeouts: of the cluster.
        renewed: hears how each renewal went, on the keeper's own thread; misses some while the driver is busy.
    """

    def __init__(
        self, credentials: Credentials, timeouts: Timeouts, renewed: Callable[[Renewal], None] | None = None
    ) -> None:
        self._credentials = credentials
        self._timeouts = timeouts
        self._renewed = renewed
        self._kept: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._follow, name="bigm-keeper", daemon=True)
        self._thread.start()
        _keepers.add(self)

    def __repr__(self) -> str:
        return f"<Keeper pid={self.pid} keeps={len(self._kept)}>"

    @property
    def pid(self) -> int:
        """Of the keeper's process."""
        return self._process.pid

    def add(self, machine: str, address: str, lease: float) -> None:
        """Keep a machine from now on.

        Args:
            machine: its id; it is dialled under this name.
            address: "host:port", the path of a unix socket, or a command behind a "|" (`bigm.bootstrap.piped`).
            lease: seconds it is to live when it hears of nobody.
        """
        with self._lock:
            self._kept[machine] = (address, lease)
            self._send({"add": machine, "address": address, "lease": lease})

    def remove(self, machine: str) -> None:
        """Keep a machine no longer; it is not ended by this."""
        with self._lock:
            self._kept.pop(machine, None)
            self._send({"remove": machine})

    def close(self) -> None:
        """End the keeper. Machines that are still kept are released, which ends them."""
        self._closed.set()
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(_END)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program_text("bigm.bootstrap.keep", "main()")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C at the terminal must not end who is to release the machines
        )

    def _follow(self) -> None:
        """Tell the process what to keep, hear what it says, and start it again when it ends."""
        while True:
            process = self._process
            with self._lock:
                if self._closed.is_set():
                    return
                self._introduce()
            assert process.stdout is not None
            with process.stdout as lines:
                for line in lines:
                    self._hear(line)
            if self._closed.wait(_PAUSE):
                return
            code = process.wait()
            logger.warning("the keeper ended with code %s; starting it again", code)
            with self._lock:
                if self._closed.is_set():
                    return
                assert process.stdin is not None
                process.stdin.close()
                self._process = self._start()

    def _introduce(self) -> None:
        credentials = self._credentials
        pem = {name: getattr(credentials, name).decode("ascii") for name in ("ca", "cert", "key")}
        self._send(
            {
                "cluster": credentials.identity.cluster,
                "identity": credentials.identity.uri,
                "timeouts": dataclasses.asdict(self._timeouts),
                **pem,
            }
        )
        for machine, (address, lease) in self._kept.items():
            self._send({"add": machine, "address": address, "lease": lease})

    def _hear(self, line: bytes) -> None:
        try:
            renewal = Renewal(**json.loads(line))
        except (ValueError, TypeError):
            return  # half a line: the pipe was full because we were busy
        if self._renewed is not None:
            self._renewed(renewal)

    def _send(self, message: dict[str, Any]) -> None:
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        except (OSError, ValueError):
            pass  # it has ended; the next one is told everything again

    def _disown(self) -> None:
        """In a forked child: its copy of the pipe would hide the driver's death from the keeper."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._process.stdin.fileno(), inheritable=False)
            os.close(null)


_keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()


def _after_fork() -> None:
    for keeper in list(_keepers):
        keeper._disown()


os.register_at_fork(after_in_child=_after_fork)
