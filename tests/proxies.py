"""A proxy command as `ssh -W` is one: leads its standard input and output to a port, and ends with either."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import threading
from collections.abc import Callable


def proxy_command(host: str, port: object) -> str:
    """The command, for a shell."""
    return shlex.join([sys.executable, "-I", "-S", __file__]) + f" {host} {port}"


def _pump(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
    while data := read(1 << 16):
        write(data)
    os._exit(0)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    there = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    threading.Thread(target=_pump, args=(lambda size: os.read(0, size), there.sendall), daemon=True).start()
    _pump(there.recv, _write)
