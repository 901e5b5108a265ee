"""The end of a machine that its system announces: told to the user, to the program, and to the services there."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable

from bigm.board import Countdown
from bigm.bootstrap.records import Report
from bigm.errors import BigmError
from bigm.lifecycle import Phase
from bigm.machine import Machine
from bigm.rpc.calls import CallFuture
from bigm.rpc.client import Client
from bigm.runs import Run
from bigm.systems.base import Instance, Timer
from bigm.terminal import Terminal


class Preemption:
    """What is announced for one machine.

    Args:
        machine: whose end it is.
        instance: what the system launched for it.
        label: what the machine is called in this run.
        run: keeps events.
        terminal: what the user sees.
        clock: held until all have heard of it.
        submit: does in another thread what blocks.
    """

    def __init__(
        self,
        machine: Machine,
        instance: Instance,
        label: str,
        *,
        run: Run,
        terminal: Terminal,
        clock: Timer,
        submit: Callable[[Callable[[], None]], None],
    ) -> None:
        self._machine = machine
        self._instance = instance
        self._label = label
        self._run = run
        self._terminal = terminal
        self._clock = clock
        self._submit = submit
        self._lock = threading.Lock()
        self._until: float | None = None  # monotonic
        self._advised = False

    def __repr__(self) -> str:
        return f"<Preemption of {self._label}{' announced' if self.is_announced else ''}>"

    @property
    def is_announced(self) -> bool:
        """Whether the machine will be taken away."""
        return self._until is not None

    def reported(self, report: Report) -> None:
        """Take in what the agent reports, on the I/O thread."""
        with self._lock:
            announces = report.notice is not None and self._until is None
            advises = bool(report.advice) and not self._advised
            self._advised |= advises
            if announces:
                self._until = time.monotonic() + (report.notice or 0.0)
        if advises:
            self._submit(functools.partial(self._pass_on, report.advice))
        if announces:
            self._submit(self._announce)

    def warn_services(self, clients: tuple[Client, ...], done: Callable[[], None] = lambda: None) -> None:
        """Have the services of these workers told, those that want to know."""

        def warned(reply: CallFuture) -> None:
            with contextlib.suppress(BigmError):  # it is gone already
                for text in reply.result():
                    self._terminal.warn(text)
            done()

        seconds = self._left()
        for client in clients:
            client.submit_internal("Supervisor.preempted", (seconds,), done=warned)

    def _pass_on(self, advice: str) -> None:
        """Advice ends nothing: what is to become of it is for people to decide."""
        self._run.event("rebalance", machine=self._label, notice=advice)
        self._terminal.warn(f"{self._label}: {advice}")

    def _announce(self) -> None:
        machine, seconds = self._machine, self._left()
        when = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
        self._run.event("preempted", machine=self._label, seconds=seconds, notice=f"it will be taken away at {when}")
        self._terminal.warn(f"{self._label}: the system will take it away in {seconds:.0f} s")
        clients = machine._clients if machine._phase is Phase.SERVING else ()
        token = ("notice", self._instance.id)
        waiting = Countdown(1 + len(clients), functools.partial(self._clock.release, token))
        self.warn_services(clients, waiting.one_less)
        for error in machine._preempted(seconds):
            self._terminal.warn(f"{self._label}: on_preempt failed: {type(error).__name__}: {error}")
        waiting.one_less()

    def _left(self) -> float:
        return 0.0 if self._until is None else max(0.0, self._until - time.monotonic())
