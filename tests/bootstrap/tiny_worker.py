"""A worker for the agent's tests: the control channel, a server, and one service that dies in every way there is.

Run as `python -u tiny_worker.py FD`; the real one is `bigm.worker.launcher`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

from bigm.bootstrap.control import WorkerEnd
from bigm.bootstrap.records import WorkerSpec
from bigm.rpc.identity import Identity
from bigm.rpc.server import Server
from bigm.rpc.tls import Credentials

_PR_SET_PDEATHSIG = 1


class Tiny:
    """What tests ask of a worker."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec

    def whoami(self) -> tuple[str, int, tuple[str, ...], str, str]:
        return self._spec.identity, os.getpid(), self._spec.argv, os.getcwd(), os.environ.get("GREETING", "")

    def print(self, text: str, stream: str = "o") -> None:
        os.write(1 if stream == "o" else 2, text.encode())

    def flood(self, count: int) -> None:
        """Even lines to standard output, odd ones to standard error, in large writes."""
        lines = [b"line %d\n" % number for number in range(count)]
        for start in range(0, count, 1000):
            for stream in (1, 2):
                view = memoryview(b"".join(lines[start + stream - 1 : start + 1000 : 2]))
                while view:
                    view = view[os.write(stream, view) :]

    def exit(self, code: int) -> None:
        print("last words", flush=True)
        os._exit(code)

    def segfault(self) -> None:
        ctypes.string_at(0)

    def eat(self, limit: int) -> None:
        """Run out of memory the way RLIMIT_AS makes it: a MemoryError nobody catches."""
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            b"x" * (limit + 1)
        except MemoryError:
            os.write(2, b"MemoryError\n")
            os._exit(1)

    def devour(self) -> None:
        """Take all memory there is; the kernel ends this."""
        eaten = []
        while True:
            eaten.append(bytearray(os.urandom(1 << 20)) * 8)

    def daemons(self) -> list[int]:
        """Start a child, a daemon in a session of its own, a double-forked one, and one without its environment."""
        sleeper = "import time; time.sleep(600)"
        double = (
            "import os, sys, time\n"
            "if os.fork(): os._exit(0)\n"
            "os.setsid()\n"
            "if os.fork(): os._exit(0)\n"
            "sys.stdout.write(str(os.getpid())); sys.stdout.flush(); os.close(1)\n"
            "time.sleep(600)"
        )
        child = subprocess.Popen([sys.executable, "-c", sleeper])
        session = subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True)
        forked = subprocess.run([sys.executable, "-c", double], stdout=subprocess.PIPE, check=True).stdout
        bare = subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True, env={})
        return [child.pid, session.pid, int(forked), bare.pid]

    def hold_output_open(self) -> int:
        """Start a daemon that keeps this worker's output open and has lost its environment and its parent."""
        code = (
            "import os, sys, time\n"
            "if os.fork(): os._exit(0)\n"
            "os.setsid()\n"
            "fd = int(sys.argv[1])\n"
            "os.write(fd, str(os.getpid()).encode()); os.close(fd)\n"
            "time.sleep(600)"
        )
        read, write = os.pipe()
        subprocess.run([sys.executable, "-c", code, str(write)], pass_fds=(write,), env={}, check=True)
        return int(os.read(read, 20))

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def main() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    end = WorkerEnd(int(sys.argv[1]))
    spec = end.receive(30.0)
    if not isinstance(spec, WorkerSpec):
        sys.exit("no spec")
    if spec.main.value == "fails to import":
        end.failed("Traceback (most recent call last):\nModuleNotFoundError: No module named 'gone'")
        sys.exit(1)
    if spec.main.value == "ignores SIGTERM":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = Server(
        Credentials(Identity.parse(spec.identity), spec.ca, spec.cert, spec.key), name=f"worker {spec.proc}"
    )
    server.register("Tiny", Tiny(spec))

    def say_serving() -> None:
        if spec.main.value == "slow import":
            time.sleep(0.3)  # stands for an import that takes its time
        end.serving()

    threading.Thread(target=say_serving, name="import", daemon=True).start()
    while True:
        try:
            message = end.receive(spec.heartbeat_lost)
        except TimeoutError:
            os._exit(70)
        if message is None:
            os._exit(70)
        if isinstance(message, socket.socket):
            server.adopt(message)


if __name__ == "__main__":
    main()
