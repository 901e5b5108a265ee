"""How a process on a machine reaches the others: by their locators, or by a socket there that leads to the driver.

A route is a word that the driver gives each worker:

    ""                        dial the locator, "host:port"
    "off", "off: why"         not at all
    "ssh:alpha#=/tmp/bigm-x"  a machine "ssh:alpha#3" is near: "/tmp/bigm-x/3/s"; the way to all others is
                              "/tmp/bigm-x/relay", which is told the locator in one line, and passes on what follows

TLS is put on top in any case: whoever passes bytes on can read none. This module travels: standard library alone.
"""

from __future__ import annotations

import socket

from bigm.errors import ConfigError, NotSupported

OFF = "off"
RELAY = "relay"  # the socket's name, in the folder of a route
SOCKET = "s"  # of a machine, in its folder; see `bigm.bootstrap.onhost`
LONGEST = 300  # bytes of the line that a relay is told


def parse_address(address: str) -> tuple[str, str]:
    """Locator and machine of "locator/machine": where to dial, and whom to expect there.

    Raises:
        ConfigError: it is none.
    """
    locator, slash, machine = address.rpartition("/")
    if not (locator and slash and machine):
        raise ConfigError(f"{address!r} is no machine's address", hint="it looks like 127.0.0.1:42409/m0")
    return locator, machine


def make_route(near: str, folder: str) -> str:
    """The route of workers on a host, where the locators of its machines begin with *near*."""
    return f"{near}={folder}"


def reach(route: str, locator: str, timeout: float) -> socket.socket:
    """Connect to the machine at *locator*, within *timeout* seconds.

    Raises:
        NotSupported: machines of this cluster do not reach one another; do not retry.
        OSError: refused, unreachable or too late.
    """
    if route.startswith(OFF):
        why = route[len(OFF) :].strip(": ") or "machines of this cluster are kept apart, as its settings say"
        raise NotSupported(f"cannot reach {locator} from here: {why}", hint="only the driver can")
    near, _, folder = route.rpartition("=")
    if not near:
        return tcp_connect(locator, timeout)
    number = locator[len(near) :]
    if locator.startswith(near) and number.isdecimal():
        return unix_connect(f"{folder}/{number}/{SOCKET}", timeout)
    relayed = unix_connect(f"{folder}/{RELAY}", timeout)
    relayed.sendall(locator.encode() + b"\n")
    return relayed


def connect(address: str, timeout: float) -> socket.socket:
    """Connect to "host:port", or to a unix socket when *address* is a path; otherwise as `tcp_connect`."""
    return unix_connect(address, timeout) if address.startswith("/") else tcp_connect(address, timeout)


def tcp_connect(locator: str, timeout: float) -> socket.socket:
    """Connect to *locator*, "host:port", within *timeout* seconds.

    Raises:
        OSError: refused, unreachable or too late.
        NotSupported: only the driver of that machine can reach it.
    """
    host, _, port = locator.rpartition(":")
    if not port.isdecimal():
        raise NotSupported(f"cannot reach {locator} from here: only its driver, and machines beside it, can")
    return socket.create_connection((host.strip("[]"), int(port)), timeout)


def unix_connect(path: str, timeout: float) -> socket.socket:
    """Connect to a unix socket within *timeout* seconds."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock
