"""The driver's half of enrolment where the network fails it. Who is believed: test_agent_process and test_boot."""

from __future__ import annotations

import select
import socket
import threading

import pytest
from machines import Machine, Place

from bigm.bootstrap.enrol import open_agent
from bigm.errors import IdentityError, Unreachable


@pytest.fixture
def place():
    with Place() as place:
        yield place


class Relay:
    """Passes a connection on until its direction has changed *turns* times, then cuts it. Later ones pass whole."""

    def __init__(self, machine: Machine, turns: int) -> None:
        self._machine = machine
        self._turns = turns
        self.cuts = 0

    def connect(self, timeout: float) -> socket.socket:
        if self.cuts or self._turns < 0:
            return self._machine.connect(timeout)
        near, far = socket.socketpair()
        server = self._machine.connect(timeout)
        threading.Thread(target=self._pass, args=(far, server), name="relay", daemon=True).start()
        return near

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        last, turns = server, -1
        with client, server:
            while True:
                for source in select.select([client, server], [], [], 10.0)[0]:
                    data = source.recv(65536)
                    turns += source is not last
                    last = source
                    if not data or turns >= self._turns:
                        self.cuts += 1
                        return
                    (server if source is client else client).sendall(data)


# What passes on the connection of the enrolment, in turn: ClientHello; the server's flight; the client's flight; the
# greeting; the call; the reply.


def test_a_reply_that_is_lost_is_settled_by_dialling_the_machine_under_its_name(place):
    machine = place.machine(enrol=False)
    relay = Relay(machine, turns=5)
    client, info = open_agent(relay.connect, place.driver, machine.credentials, machine.bootstrap, name="m0")
    assert relay.cuts == 1
    assert info.identity == machine.credentials.identity.uri
    assert client.call("Agent.keepalive", (60.0,)).granted == 60.0
    client.close()


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4])
def test_a_connection_that_is_lost_before_the_call_arrives_enrols_nothing_and_can_be_tried_again(place, turns):
    machine = place.machine(enrol=False)
    relay = Relay(machine, turns)
    try:
        client, _ = open_agent(relay.connect, place.driver, machine.credentials, machine.bootstrap, name="m0")
    except Unreachable:
        client, _ = open_agent(relay.connect, place.driver, machine.credentials, machine.bootstrap, name="m0")
    assert relay.cuts == 1
    assert client.call("Agent.info").identity == machine.credentials.identity.uri
    client.close()


def test_a_port_where_nobody_listens_is_unreachable(place):
    machine = place.machine(enrol=False)
    machine.close()
    with pytest.raises(Unreachable, match="refused"):
        machine.enrol()
    with pytest.raises(Unreachable, match="refused"):
        machine.enrol(agent=b"agent")


def test_a_machine_that_was_enrolled_under_another_name_is_not_taken(place):
    machine = place.machine("m0")
    other = place.authority.machine("m1")
    with pytest.raises(IdentityError):
        open_agent(machine.connect, place.driver, other, machine.bootstrap, name="m1")
