"""A wait for machines: whether it is over, and what a terminal shows until it is."""

from __future__ import annotations

import time

from bigm.bundles import Bundles
from bigm.costs import took
from bigm.errors import DeadlineExceeded
from bigm.launching import machines as counted
from bigm.lifecycle import Phase, State
from bigm.machine import Machine, check_state

# What keeps a machine from RUNNING, in the order of its life.
_STEPS = {
    Phase.LAUNCHING: "launching",
    Phase.ENROLLING: "booting",
    Phase.SHIPPING: "shipping",
    Phase.SPAWNING: "starting workers",
    Phase.REGISTERING: "setting up services",
    Phase.SETTING_UP: "setting up services",
}


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
        self._waiting = [machine for machine in machines if machine.state < state]
        self._begun = time.monotonic()
        self._has_waited = bool(self._waiting)
        self._state = state
        self._bundles = bundles

    def over(self) -> bool:
        """Whether all are, or one has failed."""
        self._waiting = [machine for machine in self._waiting if machine.state < self._state]
        return not self._waiting or any(machine.error for machine in self._machines)

    def status(self) -> str:
        """How far it is: "2 of 5 machines RUNNING · 2 booting · 1 shipping"."""
        count, waiting = len(self._machines), self._waiting
        phases = [machine._phase for machine in waiting]
        steps = dict.fromkeys(_STEPS.values(), 0)
        for phase in phases:
            if phase in _STEPS:
                steps[_STEPS[phase]] += 1
        words = [f"{number} {step}" for step, number in steps.items() if number]
        return " · ".join(
            filter(None, [f"{count - len(waiting)} of {counted(count)} {self._state}", *words, self._bundles.status()])
        )

    def outcome(self) -> str:
        """What there is to say after it, where there was something to wait for; else ""."""
        if not self._has_waited or self._state is not State.RUNNING:
            return ""
        return f"{counted(len(self._machines))} RUNNING after {took(time.monotonic() - self._begun)}"

    def check(self, over: bool, timeout: float | None) -> None:
        """Raise what there is to be raised after it."""
        for machine in self._machines:
            if machine.error is not None:
                raise machine.error
        if not over:
            late = ", ".join(f"{machine.id} is {machine.state}" for machine in self._waiting)
            raise DeadlineExceeded(f"not all machines were {self._state} within {timeout:g} s: {late}")
