"""Stage 0: a program on standard input becomes an agent, for its driver and nobody else."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from machines import TINY_WORKER, Machine, Place
from test_port import HELLO

from bigm.authority import Authority
from bigm.bootstrap.agentzip import agent_digest, agent_zip, boot_program
from bigm.bootstrap.enrol import open_agent
from bigm.bootstrap.records import SERVING
from bigm.errors import IdentityError, ProtocolError, Unreachable, WireError
from interpreters import find_python
from waiting import eventually

PYTHON_39 = find_python("3.9")  # the oldest an agent may find
OLDEST = pytest.param(PYTHON_39, marks=pytest.mark.skipif(not PYTHON_39, reason="no Python 3.9 here"), id="3.9")


@pytest.fixture
def place():
    with Place() as place:
        yield place


class Booted(Machine):
    """A machine started through boot: its program comes on standard input, which then ends."""

    def __init__(self, place: Place, python: str, **fields) -> None:
        fields = {"parent_pipe": False, "local": False, "agent_digest": agent_digest(), **fields}
        launch, bootstrap = place.launch(**fields)
        command = f"lambda spec, fd: [spec.python, '-u', {str(TINY_WORKER)!r}, str(fd)]"
        program = boot_program(launch).replace("listener, end)", f"listener, end, {command})")
        place.machines.append(self)
        super().__init__(place, "m0", launch, bootstrap, [python, "-I", "-S", "-"], program)

    def end(self) -> None:
        self.client.call("Agent.release")
        self.ended()


@pytest.mark.parametrize("python", [pytest.param(sys.executable, id="own"), OLDEST])
def test_boot_becomes_an_agent_that_runs_workers(place, python):
    machine = Booted(place, python)
    machine.enrol(agent=agent_zip())
    assert machine.info.executable == python
    machine.client.call("Agent.keepalive", (60.0,))
    assert machine.start_workers().call("Tiny.whoami")[0].endswith("/worker/0")
    machine.until(SERVING)
    with open(f"{machine.info.folder}/agent.zip", "rb") as file:
        assert file.read(2) == b"PK"
    machine.end()
    assert not os.path.exists(machine.info.folder)
    assert machine.said() == ""


def test_boot_waits_for_its_driver_however_others_try(place):
    machine = Booted(place, sys.executable)
    half = [machine.connect(5.0) for _ in range(5)]
    for connection in half:
        connection.sendall(HELLO[:50])
    stranger = Authority(place.authority.cluster)
    wrong = [
        (stranger.driver(), agent_zip(), WireError),  # another authority
        (place.authority.machine("m1"), agent_zip(), WireError),  # of the cluster, but not the driver
        (place.driver, agent_zip()[:-1], ProtocolError),  # another digest
    ]
    for driver, agent, error in wrong:
        with pytest.raises(error):
            open_agent(
                machine.connect,
                driver,
                machine.credentials,
                machine.bootstrap,
                name="m0",
                agent=agent,
                dial_timeout=5.0,
            )
    machine.enrol(agent=agent_zip())
    machine.end()
    for connection in half:
        connection.close()
    assert "refused an agent" in machine.said()


def test_a_driver_that_pins_another_launch_sends_nothing(place):
    machine = Booted(place, sys.executable)
    other = place.authority.bootstrap(machine.launch.launch)
    with pytest.raises((IdentityError, Unreachable)):
        open_agent(machine.connect, place.driver, machine.credentials, other, name="m0", agent=agent_zip())
    machine.enrol(agent=agent_zip())
    machine.end()


def test_boot_that_nobody_dials_ends_after_its_first_lease(place):
    machine = Booted(place, sys.executable, first_lease=0.2)
    assert machine.ended() == -signal.SIGALRM


@pytest.mark.slow
def test_an_agent_that_came_by_boot_keeps_boots_deadline(place):
    """The time to be leased in does not begin anew with the agent."""
    machine = Booted(place, sys.executable, first_lease=6.0)
    machine.enrol(agent=agent_zip())
    assert machine.ended() == 0
    eventually(lambda: not os.path.exists(machine.info.folder))
