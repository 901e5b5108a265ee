"""Steps that are taken for many machines at a time, by one thread that waits for nobody.

An errand is a generator. It yields what it waits for (the answer to a call, some time, a condition) and is resumed when
that is there. A thousand machines are so no thousand threads, what one errand changes no other sees half done, and the
steps of one machine stand in their order, in one function.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from bigm.clock import Clock
from bigm.errors import BigmError, DeadlineExceeded, MachineStopped, WireError
from bigm.lifecycle import State
from bigm.machine import Machine
from bigm.notes import Notes
from bigm.rpc.calls import CallFuture

_AGAIN = 0.2  # seconds before a call is made again whose connection was lost

T = TypeVar("T")


class Call(NamedTuple):
    """A call to the machine's agent, whose result is waited for. `timeout` is in seconds; None: as long as it takes."""

    method: str
    args: tuple[Any, ...]
    timeout: float | None


class Pause(NamedTuple):
    """Seconds to wait."""

    seconds: float


class Work(NamedTuple):
    """Something that blocks, done by another thread; its result is waited for."""

    do: Callable[[], Any]


class Until(NamedTuple):
    """Something to wait for that other errands bring about."""

    ready: Callable[[], object]


Steps = Generator["Call | Pause | Work | Until", Any, T]
Over = Callable[[Any, "BigmError | None"], None]


def call(method: str, *args: Any, stall: float, bounded: bool = True) -> Steps[Any]:
    """Call the machine's agent, and again where the connection was lost. Only for what may be asked twice.

    Args:
        method: "Agent.have".
        args: its arguments.
        stall: seconds for which connections may be lost, and, when *bounded*, that an answer may take.
        bounded: False for what takes as long as it takes: its machine's lease bounds it.
    """
    until = time.monotonic() + stall
    while True:
        try:
            return (yield Call(method, args, stall if bounded else None))
        except (DeadlineExceeded, MachineStopped):
            raise
        except WireError:
            if time.monotonic() > until:
                raise
        yield Pause(_AGAIN)


@dataclass(eq=False)
class _Errand:
    machine: Machine
    steps: Steps[Any]
    over: Over


class Errands:
    """The thread, which is started when there is something to do.

    Args:
        name: what it is called.
        clock: calls what is due.
        submit: has a function called by a thread that may block.
        after_each: called by the thread after each thing it did.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        submit: Callable[[Callable[[], None]], None],
        after_each: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._clock = clock
        self._submit = submit
        self._after_each = after_each
        self._parked: list[tuple[_Errand, Callable[[], object]]] = []
        self._notes = Notes(name, self._look_round)

    def __repr__(self) -> str:
        return f"<Errands {self._name}: {len(self._parked)} wait for others>"

    def begin(self, machine: Machine, steps: Steps[Any], over: Over) -> None:
        """Take *steps* for a machine. Any thread.

        Args:
            machine: whose agent is called; when it stops, the errand ends with `MachineStopped`.
            steps: the generator.
            over: called by the thread with what the steps returned, or with the error that ended them.
        """
        self._notes.start()
        self.note(self._resume, _Errand(machine, steps, over), None)

    def note(self, function: Callable[..., None], *args: Any) -> None:
        """Have the thread call *function*, once there was something to do. Any thread; does not wait."""
        self._notes.leave(function, *args)

    def close(self) -> None:
        """Let all errands be as they are."""
        self._notes.close()

    def _look_round(self) -> None:
        """After each note."""
        self._after_each()
        waiting, self._parked = self._parked, []
        for errand, ready in waiting:
            if errand.machine.state is State.STOPPED or ready():
                self.note(self._resume, errand, None)
            else:
                self._parked.append((errand, ready))

    def _resume(self, errand: _Errand, value: Any, error: Exception | None = None) -> None:
        """Take the next step, with the answer to the one before."""
        machine = errand.machine
        if machine.state is State.STOPPED and error is None:
            error = MachineStopped(f"machine {machine.addr} stopped meanwhile")
        try:
            step = errand.steps.send(value) if error is None else errand.steps.throw(error)
        except StopIteration as end:
            errand.over(end.value, None)
        except BigmError as failure:
            errand.over(None, failure)
        except Exception as failure:  # noqa: BLE001 - raised over there, or a bug of ours: no machine may hang for it
            unexpected = BigmError(f"machine {machine.addr}: {type(failure).__name__}: {failure}")
            unexpected.__cause__ = failure
            errand.over(None, unexpected)
        else:
            self._take(errand, step)

    def _take(self, errand: _Errand, step: Call | Pause | Work | Until) -> None:
        if isinstance(step, Call):
            done = functools.partial(self.note, self._answered, errand)
            errand.machine._agent.submit_internal(step.method, step.args, timeout=step.timeout, done=done)
        elif isinstance(step, Pause):
            self._clock.after(step.seconds, functools.partial(self.note, self._resume, errand, None))
        elif isinstance(step, Work):
            self._submit(functools.partial(self._work, errand, step))
        else:
            self._parked.append((errand, step.ready))

    def _work(self, errand: _Errand, step: Work) -> None:
        """In another thread."""
        try:
            value = step.do()
        except Exception as error:  # noqa: BLE001 - as above
            self.note(self._resume, errand, None, error)
        else:
            self.note(self._resume, errand, value)

    def _answered(self, errand: _Errand, reply: CallFuture) -> None:
        try:
            value = reply.result()
        except Exception as error:  # noqa: BLE001 - whatever it is, the errand is told
            self._resume(errand, None, error)
        else:
            self._resume(errand, value)
