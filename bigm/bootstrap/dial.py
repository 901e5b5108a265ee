"""How a machine's agent and the driver's keeper reach an agent: by address and port, or by a unix socket."""

from __future__ import annotations

import socket


def connect(address: str, timeout: float) -> socket.socket:
    """Connect to "host:port", or to a unix socket when *address* is a path."""
    if address.startswith("/"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout)
