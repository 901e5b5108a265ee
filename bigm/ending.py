"""The end of some machines, while their cluster goes on. The end of a cluster is `bigm.cluster`'s."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from bigm.board import Board
from bigm.costs import dollars, promptly, took
from bigm.errors import BigmError, ConfigError, CredentialsError, DeadlineExceeded, SystemFault
from bigm.lifecycle import Cause, Phase, State
from bigm.machine import Machine, several
from bigm.systems.base import ENDED, System
from bigm.timeouts import Timeouts

_PATIENCE = 20.0  # seconds for a system to say what is left: where there is no network, that is no reason to hang


@dataclass(frozen=True)
class Leftover:
    """A machine that could not be ended, and why. Its lease ends it, at the latest its lifetime."""

    machine: Machine
    error: BigmError


def owned_machines(machines: Iterable[Machine], known: Iterable[Machine], name: str) -> list[Machine]:
    """*machines* as a list, if cluster *name*, which started those in *known*, may end all of them."""
    wanted, known = several("cluster.shutdown", machines), set(known)
    for machine in wanted:
        if machine not in known:
            what = f"machine {machine.addr}" if isinstance(machine, Machine) else f"{machine!r:.200}"
            raise ConfigError(f"{what} was not started by cluster {name}", hint="whoever started it can shut it down")
    return wanted


def end(machines: list[Machine], board: Board, limits: Timeouts, timeout: float | None) -> list[Leftover]:
    """End *machines*, all at once, and wait until they have ended.

    Args:
        machines: of one cluster.
        board: notified when their state has changed.
        limits: its timeouts.
        timeout: seconds to wait at most; None: as long as the steps of an end may take.
    Returns:
        those that have not ended, and why.
    """
    begun = time.monotonic()
    living = [machine for machine in machines if machine._phase < Phase.ENDED]
    _await_executors(living, board, limits.tasks if timeout is None else min(limits.tasks, timeout))
    for machine in living:
        machine._end(Cause.SHUTDOWN)
    left = limits.ending() if timeout is None else max(0.0, timeout - (time.monotonic() - begun))
    with board:
        board.wait_for(lambda: all(machine._phase is Phase.ENDED for machine in living), left)
    return [
        Leftover(machine, _why_left(machine, time.monotonic() - begun)) for machine in machines if _is_left(machine)
    ]


def prove(system: System, seconds: float, cost: float | None, *, ran: bool = True) -> tuple[list[str] | None, str]:
    """Ask whoever bills for the machines of a cluster that has ended: what costs money must not be left to trust.

    Args:
        system: closed.
        seconds: that the cluster lived.
        cost: US dollars that it has cost, about, or None.
        ran: it had machines.
    Returns:
        the instances that are still there, or None where nobody can tell, and the sentence for the user; "" where
        there were none, and the error of their start has said already why nobody is asked.
    """

    def ask() -> list[str] | SystemFault:
        try:
            return [instance.id for instance in system.describe() if instance.state != ENDED]
        except SystemFault as error:
            return error

    left = promptly(ask, _PATIENCE)
    if isinstance(left, CredentialsError) and not ran:
        return None, ""
    if left is None or isinstance(left, SystemFault):
        why = left or f"there was no answer within {_PATIENCE:g} s"
        return None, f"{system.name} could not be asked whether machines are left: {why}; `bigm gc` looks again"
    count = f"{len(left)} machine{'s'[: len(left) != 1]} left"
    text = ", ".join([count, took(seconds), *([] if cost is None else [dollars(cost)])])
    return left, f"{text}; still there: {', '.join(left)}" if left else text


def _await_executors(machines: list[Machine], board: Board, timeout: float) -> None:
    """Let executors have what they run there ended."""
    users = [(user, machine) for machine in machines for user in list(machine._users)]
    for user, machine in users:
        user.drain(machine)
    if users:
        with board:
            board.wait_for(
                lambda: not any(machine.state is not State.STOPPED and user.uses(machine) for user, machine in users),
                timeout,
            )


def _is_left(machine: Machine) -> bool:
    return machine._left is not None or machine._phase is not Phase.ENDED


def _why_left(machine: Machine, seconds: float) -> BigmError:
    return machine._left or DeadlineExceeded(
        f"machine {machine.addr} had not ended after {seconds:.3g} s", hint="it goes on ending, and its lease ends it"
    )
