"""A wait for machines: whether it is over, and what a terminal shows until it is."""

from __future__ import annotations

from bigm.bundles import Bundles
from bigm.errors import DeadlineExceeded
from bigm.launching import machines as counted
from bigm.lifecycle import State
from bigm.machine import Machine, check_state


class Wait:
    """A wait for *machines* to be at *state* or beyond.

    Args:
        machines: which.
        state: what is waited for.
        bundles: tell what is on its way to them.
    """

    def __init__(self, machines: list[Machine], state: State, bundles: Bundles) -> None:
        check_state(state)
        self._machines = machines
        self._waiting = machines
        self._state = state
        self._bundles = bundles

    def over(self) -> bool:
        """Whether all are, or one has failed."""
        self._waiting = [machine for machine in self._waiting if machine.state < self._state]
        return not self._waiting or any(machine.error for machine in self._machines)

    def status(self) -> str:
        """How far it is."""
        count = len(self._machines)
        shipping = self._bundles.status()
        return f"{count - len(self._waiting)} of {counted(count)} {self._state}" + (shipping and f" · {shipping}")

    def check(self, over: bool, timeout: float | None) -> None:
        """Raise what there is to be raised after it."""
        for machine in self._machines:
            if machine.error is not None:
                raise machine.error
        if not over:
            late = ", ".join(f"{machine.id} is {machine.state}" for machine in self._waiting)
            raise DeadlineExceeded(f"not all machines were {self._state} within {timeout:g} s: {late}")
