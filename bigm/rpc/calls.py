"""Calls on their way, seen from the caller: one that a thread waits for, a future, an awaited one.

A reader *settles* a call with an outcome that is still bytes; whoever waits for the call decodes it.
"""

from __future__ import annotations

import abc
import concurrent.futures
import queue
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from bigm.rpc import interrupts, wire

if TYPE_CHECKING:
    import asyncio

    from bigm.rpc.channel import Channel
    from bigm.rpc.client import Client
    from bigm.rpc.sources import Sources
    from bigm.rpc.streams import Stream

NEVER = float("inf")
Outcome = Union[wire.Reply, wire.Error, wire.Parked, "Stream", BaseException]


class _Keeper(threading.local):
    """What the last pickles of this thread refer to without holding it."""

    kept: Optional[list[object]] = None


_keeper = _Keeper()


def keep(what: object) -> None:
    """Keep *what*, which is being pickled as a reference, alive until the call that is made of the pickle has ended."""
    _keeper.kept = [*(_keeper.kept or ()), what]


def take_kept() -> Optional[list[object]]:
    """What has to be kept alive as long as what this thread has just pickled is of use."""
    kept, _keeper.kept = _keeper.kept, None
    return kept


class Pending(abc.ABC):
    """A call that is not settled yet.

    Args:
        method: "Service.method".
        segments: its arguments.
        deadline: monotonic time, or NEVER.
        idempotent: whether it may be sent again when it may have run already.
        token: for fetching a parked reply: under which token; 0 for a real call.

    Attributes:
        direct: whether it goes over a connection for big payloads and streams whatever its size.
        sources: the streams among its arguments, or None.
    """

    __slots__ = (
        "channel",
        "deadline",
        "direct",
        "gate",
        "id",
        "idempotent",
        "keeps",
        "method",
        "outcome",
        "position",
        "segments",
        "sends",
        "size",
        "sources",
        "started",
        "token",
    )

    def __init__(
        self, method: str, segments: Sequence[wire.Buffer], deadline: float, idempotent: bool, token: int = 0
    ) -> None:
        self.method = method
        self.segments = segments
        self.deadline = deadline
        self.idempotent = idempotent
        self.token = token
        self.direct = token != 0
        self.sources: Optional[Sources] = None
        self.size = wire.size_of(segments)
        self.started = time.monotonic()
        self.sends = 0
        self.id = 0
        self.position = 0
        self.channel: Optional[Channel] = None
        self.outcome: Optional[Outcome] = None
        self.keeps = take_kept() if _keeper.kept is not None else None
        self.gate: Optional[threading.Lock] = None  # where a WaitingCall's thread sleeps

    @abc.abstractmethod
    def settle(self, outcome: Outcome) -> None:
        """Take the outcome; only once, by whoever took the call out of its channel."""

    def frame(self, id: int, flags: int) -> list[wire.Buffer]:
        """The call as buffers to send."""
        if self.token:
            return [wire.fetch(id, self.token)]
        timeout = NEVER if self.deadline == NEVER else max(0.0, self.deadline - time.monotonic())
        if self.sources is not None:
            flags |= wire.STREAMS
        return wire.call(id, self.method, timeout, self.segments, flags=flags)


class WaitingCall(Pending):
    """A call that one thread waits for, which may be asked to read the connection for all."""

    __slots__ = ()

    def settle(self, outcome: Outcome) -> None:
        self.outcome, self.keeps = outcome, None
        self.wake()

    def wake(self) -> None:
        """Let the waiting thread look again."""
        gate = self.gate
        if gate is not None:
            try:
                gate.release()
            except RuntimeError:  # it was woken already
                pass


class CallFuture(concurrent.futures.Future):  # type: ignore[type-arg]  # generic only from Python 3.9 on
    """A `concurrent.futures.Future` whose reply is decoded by whoever asks for the result.

    `cancel()` succeeds as long as there is no reply, and asks the machine to stop the method.
    """

    def __init__(self, client: Client, done: Optional[Callable[[CallFuture], None]] = None) -> None:
        super().__init__()
        self._client = client
        self._done = done
        self._raw: Optional[Outcome] = None
        self.call: Optional[Pending] = None

    @property
    def where(self) -> str:
        """Which worker is called."""
        return self._client.name

    def cancel(self) -> bool:
        cancels = False
        try:
            with interrupts.deferred():  # else Ctrl-C could come between the mark and the word to the machine
                with self._condition:
                    if self._state == "PENDING":
                        self._state, cancels = "CANCELLED", True
                        self._condition.notify_all()
                if cancels:
                    notify_cancelled(self)
                    if self.call is not None:
                        self._client._abandon(self.call)
        finally:
            if cancels:  # user code: not deferred
                self._invoke_callbacks()  # type: ignore[attr-defined]  # not in typeshed
        return self.cancelled()

    @property
    def of_user(self) -> bool:
        """Whether the user made this call, not bigm for its own ends."""
        return self._done is None

    def result(self, timeout: Optional[float] = None) -> Any:
        with interrupts.deferred():
            try:
                self._decode(timeout)
            except KeyboardInterrupt:  # as for `call`: who interrupts the waiting wants no answer
                self.cancel()
                raise
        return super().result(0.0)  # it was waited for

    def exception(self, timeout: Optional[float] = None) -> Optional[BaseException]:
        with interrupts.deferred():
            self._decode(timeout)
        return super().exception(0.0)

    def _decode(self, timeout: Optional[float]) -> None:
        if self._state == "PENDING":
            wait_done(self, timeout)
        with self._condition:
            raw, self._raw = self._raw, None
            if raw is None:
                return
            try:
                self._result = self._client._value(self._pending(), raw)
            except BaseException as e:  # noqa: BLE001  # it is the call's result
                self._exception = e

    def _pending(self) -> Pending:
        assert self.call is not None
        return self.call

    def _finish(self, outcome: Outcome) -> None:
        with self._condition:
            if self._state != "PENDING":
                return
            self._raw = outcome
            self._state = "FINISHED"
            for waiter in self._waiters:
                if isinstance(outcome, (wire.Error, BaseException)):
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            self._condition.notify_all()
        if self._done is not None:
            self._client._io.post(lambda: self._done(self) if self._done else None)
        if self._done_callbacks:  # type: ignore[attr-defined]  # not in typeshed
            run_callback(self._invoke_callbacks)  # type: ignore[attr-defined]


def notify_cancelled(future: concurrent.futures.Future[Any]) -> None:
    """Tell `wait` and `as_completed` that *future* was cancelled: they wait for the word of whoever was to run it."""
    with future._condition:
        if future._state == "CANCELLED":
            future.set_running_or_notify_cancel()


class _Gate:
    """Where a thread sleeps until a future is done. It is one of the future's waiters, as those of `wait` are.

    Ctrl-C can come at any moment of a condition's `wait`, also when it does not have its lock; a bare lock has no such
    moments.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: Optional[float]) -> bool:
        with interrupts.waiting():
            return self._lock.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))

    def add_result(self, future: concurrent.futures.Future[Any]) -> None:
        self._lock.release()  # a future is done once

    add_exception = add_cancelled = add_result


def wait_done(future: concurrent.futures.Future[Any], timeout: Optional[float]) -> None:
    """Wait until *future* is done, at most *timeout* seconds, without decoding anything; None: for ever."""
    gate = _Gate()
    with future._condition:  # which may be taken twice
        if future.done():
            return
        future._waiters.append(gate)  # type: ignore[arg-type]  # it is only ever told
    try:
        interrupts.in_slices(gate.wait, timeout)
    finally:
        with future._condition:
            future._waiters.remove(gate)  # type: ignore[arg-type]


class FutureCall(Pending):
    """A call behind a CallFuture."""

    __slots__ = ("future",)

    def __init__(
        self,
        future: CallFuture,
        method: str,
        segments: Sequence[wire.Buffer],
        deadline: float,
        idempotent: bool,
    ) -> None:
        super().__init__(method, segments, deadline, idempotent)
        self.future = future
        future.call = self

    def settle(self, outcome: Outcome) -> None:
        self.outcome, self.keeps = outcome, None
        self.future._finish(outcome)


class AwaitedCall(Pending):
    """A call that a coroutine awaits. Completions reach its loop in batches, with one wake-up each."""

    __slots__ = ("future", "inbox")

    def __init__(
        self,
        inbox: Inbox,
        method: str,
        segments: Sequence[wire.Buffer],
        deadline: float,
        idempotent: bool,
    ) -> None:
        super().__init__(method, segments, deadline, idempotent)
        self.inbox = inbox
        self.future: asyncio.Future[None] = inbox.loop.create_future()

    def settle(self, outcome: Outcome) -> None:
        self.outcome, self.keeps = outcome, None
        self.inbox.put(self)


class Inbox:
    """Settled calls on their way into one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self._settled: list[AwaitedCall] = []

    def put(self, call: AwaitedCall) -> None:
        """Have *call* settled by the loop, soon. For any thread."""
        with self._lock:
            self._settled.append(call)
            if len(self._settled) > 1:
                return  # the loop was woken for an earlier one and has not come yet
        try:
            self.loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: nobody awaits any more
            pass

    def _deliver(self) -> None:
        with self._lock:
            settled, self._settled = self._settled, []
        for call in settled:
            if not call.future.done():
                call.future.set_result(None)


_callbacks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
_callback_lock = threading.Lock()
_callback_threads: list[threading.Thread] = []


def run_callback(callback: Callable[[], None]) -> None:
    """Run a future's callbacks, which are user code, in a thread made for them."""
    with _callback_lock:
        if not _callback_threads:
            thread = threading.Thread(target=_run_callbacks, name="bigm-callbacks", daemon=True)
            _callback_threads.append(thread)
            thread.start()
    _callbacks.put(callback)


def _run_callbacks() -> None:
    while True:
        _callbacks.get()()
