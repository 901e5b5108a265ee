"""The call that a thread or task is running, as its method sees it."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar
from typing import Callable, Optional

from bigm.rpc.identity import Identity


class CurrentCall:
    """The call that this thread or task is running; see `current_call`.

    Attributes:
        peer: who called.
        method: "Service.method".
        deadline: monotonic time after which nobody waits for the result, or None.
    """

    __slots__ = ("_cancelled", "_event", "_hooks", "deadline", "method", "peer")

    def __init__(self, peer: Identity, method: str, deadline: Optional[float]) -> None:
        self.peer = peer
        self.method = method
        self.deadline = deadline
        self._cancelled = False
        self._event: Optional[threading.Event] = None
        self._hooks: tuple[Callable[[], None], ...] = ()

    def __repr__(self) -> str:
        return f"<CurrentCall {self.method} from {self.peer.uri}>"

    @property
    def cancelled(self) -> bool:
        """Whether the caller has given up, or its deadline has passed."""
        return self._cancelled or (self.deadline is not None and time.monotonic() >= self.deadline)

    def wait_cancelled(self, timeout: Optional[float] = None) -> bool:
        """Wait until the caller gives up, at most *timeout* seconds; whether it has."""
        self._event = self._event or threading.Event()
        left = [
            t for t in (timeout, None if self.deadline is None else self.deadline - time.monotonic()) if t is not None
        ]
        if not self._cancelled:
            self._event.wait(max(0.0, min(left)) if left else None)
        return self.cancelled

    def _cancel(self) -> None:
        self._cancelled = True
        if self._event is not None:
            self._event.set()
        for hook in self._hooks:
            hook()

    def _on_cancel(self, hook: Callable[[], None]) -> None:
        """Have *hook* called when the caller gives up, at once if it has: perhaps twice, by any thread."""
        self._hooks += (hook,)
        if self._cancelled:
            hook()


running: ContextVar[Optional[CurrentCall]] = ContextVar("bigm_running", default=None)


def current_call() -> CurrentCall:
    """The call that this thread or task is running.

    Raises:
        RuntimeError: it is not running one.
    """
    call = running.get()
    if call is None:
        raise RuntimeError("current_call() was asked outside of a service's method")
    return call
