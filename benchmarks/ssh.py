"""What ssh costs: until an agent listens on a host, and in each call; beside the same without bigm.

The host is a sshd on loopback (tests/sshd.py), so what is measured is processes and copies, not a network.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from measure import Row, alternate
from rpc_calls import CALL_BYTES, REPLY_BYTES

from bigm.authority import Authority
from bigm.bootstrap.records import Launch
from bigm.routes import unix_connect
from bigm.rpc.client import Client
from bigm.rpc.tls import client_context, server_context
from bigm.systems.ssh.system import Ssh

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import sshd
from launching import Launching

_CALLS = 2_000  # in one turn


def rows(repeats: int) -> list[Row]:
    """Measure."""
    if sshd.MISSING:
        return []
    with sshd.Rig() as rig, contextlib.ExitStack() as last:
        rig.add("alpha")
        system = Ssh(hosts="alpha*200", config=rig.config)
        last.callback(system.close)
        launching = Launching(system)
        [instance] = launching.launch(1).instances
        client, _ = launching.enrol(instance)
        last.callback(client.close)
        client.call("Agent.keepalive", (600.0,))
        authority = launching.authority
        with echo(rig, system, authority) as path:
            calls = alternate(
                {
                    "call": lambda: call(client),
                    "tls": lambda: echoed(path, authority, True),
                    "bytes": lambda: echoed(path, authority, False),
                },
                repeats,
            )
        starts = alternate({"boot": boots(system, launching.boot), "pass": lambda: passes(system)}, 2 * repeats)
    return [
        Row(
            "ssh: boot, from standard input to listening",
            f"{starts['boot'] * 1e3:.0f} ms",
            f"{starts['pass'] * 1e3:.0f} ms python3 -I -S -c pass",
            starts["boot"] / starts["pass"],
            3.0,
            2.0,
            note="over the same connection",
        ),
        Row(
            "ssh: null call through the forward",
            f"{calls['call'] * 1e6:.0f} us",
            f"{calls['tls'] * 1e6:.0f} us blocking TLS",
            calls["call"] / calls["tls"],
            1.5,
            1.3,
            note=f"an echo through the same forward; one without TLS {calls['bytes'] * 1e6:.0f} us",
        ),
    ]


def boots(system: Ssh, boot: Launch) -> Callable[[], float]:
    """Measures the start of one agent more, seconds."""
    numbers = iter(range(1000, 2000))

    def measure() -> float:
        host = system._hosts["alpha"]
        began = time.perf_counter()
        [resident] = host.start(1, boot, [next(numbers)])
        took = time.perf_counter() - began
        host.end([resident.index])
        return took

    return measure


def passes(system: Ssh) -> float:
    """The least that a Python there can do, seconds."""
    began = time.perf_counter()
    system._hosts["alpha"].master.run("python3 -I -S -c pass", "", 60.0)
    return time.perf_counter() - began


def call(client: Client) -> float:
    """The median of null calls to an agent, seconds."""
    return median(lambda: client.call("Agent.ping"))


def echoed(path: str, authority: Authority, tls: bool) -> float:
    """The median of an echo as long as a null call, through the same connection of ssh, seconds."""
    with contextlib.ExitStack() as stack:
        connection: socket.socket = stack.enter_context(unix_connect(path, 10.0))
        connection.sendall(b"t" if tls else b"b")
        if tls:
            connection = stack.enter_context(
                client_context(authority.driver()).wrap_socket(connection, server_hostname="echo")
            )

        def once() -> None:
            connection.sendall(bytes(CALL_BYTES))
            left = REPLY_BYTES
            while left:
                left -= len(connection.recv(left))

        return median(once)


def median(once: Callable[[], object]) -> float:
    """The median of what one takes, seconds."""
    taken = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        once()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


@contextlib.contextmanager
def echo(rig: sshd.Rig, system: Ssh, authority: Authority) -> Iterator[str]:
    """A socket here that leads to an echo on the host: another process, as an agent is."""
    there, here = str(rig["alpha"].tmp / "echo"), str(rig.folder / "echo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(there)
    listener.listen()
    context = server_context(authority.machine("m99"))
    pid = os.fork()
    while pid == 0:
        connection, _ = listener.accept()
        if connection.recv(1) == b"t":
            connection = context.wrap_socket(connection, server_side=True)
        with connection, contextlib.suppress(OSError):
            answer(connection)
    listener.close()
    system._hosts["alpha"].master.forward([(here, there)])
    try:
        yield here
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.unlink(there)


def answer(connection: socket.socket) -> None:
    """Answer each message with another, until there are no more."""
    while True:
        left = CALL_BYTES
        while left:
            data = connection.recv(left)
            if not data:
                return
            left -= len(data)
        connection.sendall(bytes(REPLY_BYTES))
