"""The state of a machine that is not owned, found out by asking its agent, which answers however busy its workers are.

Whoever owns a machine is told of its end; whoever only calls it has to ask. Three things are told apart:

* Calls were lost. The agent is asked whether a worker died or the machine is ending, until it says so, or the time for
  a verdict is over: then nothing is known, and the calls fail with their own errors.
* Nobody listens where the agent has answered before, or another machine does: it is gone, at once.
* Nothing is heard. A network may be slow, a computer may sleep: it is gone after the time of a lease.

What nobody calls nor asks about is not pinged, and no ping has a thread: machines may know thousands of others.

This module travels: standard library alone.

Source: bigmachine machine.go (loop), which pings machines that it does not own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from bigm.bootstrap.records import Info
from bigm.errors import IdentityError, MachineStopped
from bigm.lifecycle import Cause, Phase, State
from bigm.peer import Peer
from bigm.rpc.calls import CallFuture
from bigm.rpc.client import Client

_AGAIN_FIRST = 0.05  # seconds after which an agent that could not be reached is asked again; doubled from there
_AGAIN_MOST = 0.5


M = TypeVar("M", bound=Peer)


class Timer(Protocol):
    """What calls when something is due."""

    def after(self, delay: float, function: Callable[[], None]) -> None:
        """Call *function*, which is quick, in *delay* seconds."""


class Pings(Generic[M]):
    """Tells the state of one machine: RUNNING while its agent answers, STOPPED when it has ended.

    Args:
        machine: the machine.
        timer: calls when the next ping is due.
        lasting: ping it even when nobody has called it, or asked for its state, for as long as a lease.
    """

    def __init__(self, machine: M, timer: Timer, *, lasting: bool) -> None:
        self.machine = machine
        self._timer = timer
        self._lasting = lasting
        self._limits = machine._link.timeouts
        self._lock = threading.Lock()
        self._asking = False
        self._wanted = 0.0  # when somebody last called, or asked
        self._heard = 0.0  # when it last answered, or began to be asked
        self._met = False  # it has answered
        self._deaths = 0  # of its workers, as far as is known
        self._doubts: dict[Client, float] = {}  # clients with calls that were lost, and until when a verdict is awaited
        machine._enter(Phase.ENROLLING)
        machine._watched_by(self)
        if lasting:
            self.wake()

    def __repr__(self) -> str:
        return f"<Pings to {self.machine.addr}: {'asking' if self._asking else 'asleep'}, {len(self._doubts)} doubts>"

    def wake(self) -> None:
        """Somebody calls it, or wants to know: ping it from now on."""
        self._wanted = time.monotonic()
        if self._asking:
            return
        with self._lock:
            if self._asking or self._over:
                return
            self._asking = True
            self._heard = time.monotonic()
        self.machine._asleep = False
        self._ping()

    def doubt(self, client: Client) -> None:
        """Calls of *client* were lost: let them wait until the agent has said whether its worker died. Any thread."""
        with self._lock:
            first = not self._doubts
            self._doubts.setdefault(client, time.monotonic() + self._limits.verdict)
        if self._over:
            self._stop_doubts()
        elif first:
            self._inquire(_AGAIN_FIRST)

    def close(self, why: str) -> None:
        """Ping it no more, and fail its calls: *why* says that it is nothing of the machine's."""
        self._stop(Cause.SHUTDOWN, MachineStopped(f"machine {self.machine.addr} cannot be called any more: {why}"))
        self.machine.close()

    @property
    def _over(self) -> bool:
        return self.machine._phase.state is State.STOPPED

    # --- pings

    def _ping(self) -> None:
        agent = self.machine._agent
        agent.submit_internal("Agent.ping", (), timeout=self._limits.ping, done=self._answered)

    def _answered(self, reply: CallFuture) -> None:
        """Take in the answer to a ping. On the I/O thread."""
        if self._over:
            return
        error = reply.exception()
        pause = self._limits.renewal
        if error is None:
            self._hear()
        elif self._is_gone(error) or time.monotonic() - self._heard > self._limits.lease:
            self._stop(Cause.AGENT_LOST, self._lost(error))
            return
        elif self._met:
            pause = min(pause, _AGAIN_MOST)  # how it fails next tells more
        if not self._falls_asleep():
            self._timer.after(pause, self._ping)

    def _hear(self) -> None:
        self._heard, self._met = time.monotonic(), True
        if self.machine._phase.state is not State.RUNNING:
            self.machine._enter(Phase.SERVING)
            self.machine._announce()

    def _falls_asleep(self) -> bool:
        if self._lasting or self.machine.in_flight or time.monotonic() - self._wanted < self._limits.lease:
            return False
        with self._lock:
            self._asking = False
        self.machine._asleep = True
        return True

    # --- doubts

    def _inquire(self, pause: float) -> None:
        """Have the agent say what it finds out until the verdict is due: it waits for its own news."""
        wait = self._limits.verdict

        def informed(reply: CallFuture) -> None:
            self._informed(reply, pause)

        self.machine._agent.submit_internal(
            "Agent.info", (wait, self._deaths), timeout=wait + self._limits.ping, done=informed
        )

    def _informed(self, reply: CallFuture, pause: float) -> None:
        """Take in what the agent says when calls were lost. On the I/O thread."""
        error = reply.exception()
        if error is not None:
            if self._is_gone(error):
                self._stop(Cause.AGENT_LOST, self._lost(error))
                return
        else:
            info: Info = reply.result()
            self._hear()
            if info.cause:
                text = f"machine {self.machine.addr} stopped: {info.text}"
                self._stop(Cause(info.cause), MachineStopped(text, cause=info.cause))
                return
            if info.deaths > self._deaths:  # a worker that is started anew: its calls are lost, and that is all
                self._deaths = info.deaths
                self._resolve(float("inf"))
        self._resolve(time.monotonic())
        if self._doubts:
            self._timer.after(pause, lambda: self._inquire(min(2 * pause, _AGAIN_MOST)))

    def _resolve(self, now: float) -> None:
        """Nothing is known of the calls whose time for a verdict is over."""
        with self._lock:
            due = [client for client, until in self._doubts.items() if until <= now]
            for client in due:
                del self._doubts[client]
        for client in due:
            client.resolve()

    # --- the end

    def _is_gone(self, error: BaseException) -> bool:
        """Whether *error* proves that the machine ended: somebody else is there, or nobody, where it was before."""
        return self._met and (
            isinstance(error, IdentityError) or isinstance(error.__cause__, (IdentityError, ConnectionRefusedError))
        )

    def _lost(self, error: BaseException) -> MachineStopped:
        text = f"machine {self.machine.addr} stopped: {Cause.AGENT_LOST.sentence}: {error}"
        return MachineStopped(text, cause=Cause.AGENT_LOST)

    def _stop(self, cause: Cause, error: MachineStopped) -> None:
        with self._lock:
            if self._over:
                return
            self.machine._enter(Phase.ENDED, cause, error)
            self._asking = False
        self.machine._announce()
        self.machine._fail()
        self._stop_doubts()

    def _stop_doubts(self) -> None:
        with self._lock:
            doubts, self._doubts = self._doubts, {}
        for client in doubts:
            client.close(self.machine._stopped())
