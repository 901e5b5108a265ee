"""The variables of all machines, read at one time. What machines keep is in `bigm.variables`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bigm import variables
from bigm.errors import BigmError
from bigm.groups import submit_each
from bigm.lifecycle import State
from bigm.machine import Machine
from bigm.timeouts import Timeouts


@dataclass(frozen=True)
class Variables:
    """What the variables of a cluster's machines were when they were read.

    Args:
        machines: by the machine's id and the variable's name, over all workers of the machine: the sum of numbers; of
            anything else the value, or with several workers the tuple of their values. A `bigm.variables.Failed` stands
            for what could not be had, and says why.
        total: by name the sum over all machines of what can be summed.
        workers: by the machine's id, for each worker its values by name.
        errors: by the machine's id, why it could not be asked; it counts nowhere else.
    """

    machines: dict[str, dict[str, Any]]
    total: dict[str, Any]
    workers: dict[str, list[dict[str, Any]]]
    errors: dict[str, BigmError]


def read_variables(machines: Sequence[Machine], timeouts: Timeouts) -> Variables:
    """Read the variables of those of *machines* that are RUNNING, all at once."""
    calls = {
        machine.id: submit_each(machine.options(timeout=timeouts.variables), "Supervisor.variables", (), {})
        for machine in machines
        if machine.state is State.RUNNING
    }
    workers: dict[str, list[dict[str, Any]]] = {}
    errors: dict[str, BigmError] = {}
    for machine, each in calls.items():
        try:
            workers[machine] = [call.result() for call in each]
        except BigmError as error:
            errors[machine] = error
    values = {machine: variables.of_workers(each) for machine, each in workers.items()}
    return Variables(values, variables.totals(values), workers, errors)
