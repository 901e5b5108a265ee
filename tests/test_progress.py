from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import bigm
from bigm import State
from bigm.lifecycle import Phase
from bigm.progress import Wait
from bigm.systems.base import Capabilities
from cluster_services import Counter
from priced import Priced


def machine(phase: Phase) -> Any:
    """A machine, as far as a wait looks at it."""
    return SimpleNamespace(id="m0", _phase=phase, state=phase.state, error=None)


def test_a_wait_says_how_many_machines_are_at_which_step() -> None:
    phases = [Phase.SERVING, Phase.ENROLLING, Phase.SETTING_UP, Phase.ENROLLING, Phase.SHIPPING, Phase.REGISTERING]
    bundles: Any = SimpleNamespace(status=lambda: "3 of 30 MiB")
    wait = Wait([machine(phase) for phase in phases], State.RUNNING, bundles)
    assert not wait.over()
    said = "1 of 6 machines RUNNING · 2 booting · 1 shipping · 2 setting up services · 3 of 30 MiB"
    assert said == wait.status()


@pytest.mark.parametrize(
    ("phase", "state", "said"),
    [
        (Phase.SPAWNING, State.RUNNING, "1 machine RUNNING after 0.0 s"),
        (Phase.SERVING, State.RUNNING, ""),
        (Phase.UNSTARTED, State.STARTING, ""),
    ],
)
def test_a_wait_that_had_to_wait_says_when_machines_are_running(phase: Phase, state: State, said: str) -> None:
    nothing: Any = SimpleNamespace(status=lambda: "")
    assert said == Wait([machine(phase)], state, nothing).outcome()


def test_machines_elsewhere_are_said_to_be_running_once(capfd: pytest.CaptureFixture[str]) -> None:
    class Elsewhere(Priced):
        """Here, and said to be elsewhere."""

        def __init__(self) -> None:
            super().__init__()
            self.capabilities = Capabilities(in_place=True, local=True, prices=True)

    system = Elsewhere()
    with bigm.start(system) as cluster:
        machines = cluster.start(2, services={"C": Counter()})
        system.capabilities = Capabilities(in_place=True, prices=True)
        cluster.wait(machines, timeout=60.0)
        cluster.wait(machines, timeout=60.0)
        system.capabilities = Capabilities(in_place=True, local=True, prices=True)
    assert 1 == capfd.readouterr().err.count("2 machines RUNNING after ")
