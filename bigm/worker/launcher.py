"""The process of a worker: speaks with its agent, imports the program, serves, and ends with its agent.

The main thread imports the program, as Python would, and then sleeps. A second thread listens to the agent, so that
connections are answered and the agent's death is noticed however long the import takes. Nothing here returns: the
process ends by `_Process.end`, so that no thread of the user's can keep it alive.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import NoReturn, Optional

import bigm
from bigm.bootstrap.control import WorkerEnd
from bigm.bootstrap.records import WorkerSpec
from bigm.errors import ProgramError
from bigm.rpc import codec
from bigm.rpc.identity import Identity
from bigm.rpc.tls import Credentials
from bigm.worker import program
from bigm.worker.worker import Worker

_PR_SET_PDEATHSIG = 1
_PR_SET_PTRACER = 0x59616D61


def main(fd: int) -> NoReturn:
    """Be a worker.

    Args:
        fd: descriptor of the control channel to the agent, inherited from it.
    """
    channel = WorkerEnd(fd)
    spec = channel.receive()
    if not isinstance(spec, WorkerSpec):  # the agent died while it started us
        os._exit(1)
    _Process(channel, spec).run()


class _Process:
    """A worker and what it needs to know of its agent.

    Args:
        channel: the control channel, after its first message.
        spec: that message.
    """

    def __init__(self, channel: WorkerEnd, spec: WorkerSpec) -> None:
        self._channel = channel
        self._spec = spec
        credentials = Credentials(Identity.parse(spec.identity), spec.ca, spec.cert, spec.key)
        self._worker = Worker(credentials, procs=spec.procs, timeouts=spec.timeouts, route=spec.route)
        self._worker.supervisor.bundle = spec.bundle
        codec.Reader.home = self._worker.home  # in whatever thread: there is no other in this process

    def run(self) -> NoReturn:
        """Import the program and serve."""
        faulthandler.enable()  # a segmentation fault says where, in the machine's log
        signal.signal(signal.SIGTERM, self._told_to_end)
        signal.signal(signal.SIGINT, _ignore)  # Ctrl-C is the driver's; a handler, unlike SIG_IGN, is not inherited
        threading.Thread(target=self._listen, name="bigm-control", daemon=True).start()
        _dress(self._spec)
        program.become_machine(self._serve)
        bigm.start = program.start  # else its lookup would import the driver's half
        try:
            _check_python(self._spec.minor)
            program.import_main(self._spec.main)
        except ProgramError as error:
            self._channel.failed(str(error))
            self.end(1)
        self._serve()

    def end(self, code: int) -> NoReturn:
        """End the process, as a Python program ends, but for waiting for its threads."""
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):  # None, closed, or of a reader that is gone
                pass
        os._exit(code)

    def _serve(self) -> NoReturn:
        """Say that the program is imported, and sleep for good."""
        _tie_to_agent()
        self._worker.imported()
        self._channel.serving()
        try:
            while True:
                signal.pause()
        finally:  # a signal handler of the user's raised
            self.end(1)

    def _listen(self) -> None:
        """Take connections from the agent, and end with it."""
        try:
            while True:
                message = self._channel.receive(self._spec.heartbeat_lost)
                if message is None:
                    break
                if isinstance(message, socket.socket):
                    self._worker.adopt(message)
            reason = "its agent is gone"
        except TimeoutError:
            reason = f"its agent was not heard of for {self._spec.heartbeat_lost:g} s"
        try:
            os.set_blocking(2, False)  # nobody may be left to read it
            os.write(2, f"{self._worker.name} ends: {reason}\n".encode())
        except OSError:
            pass  # full, or closed by the program
        _end_group()

    def _told_to_end(self, signum: int, frame: Optional[FrameType]) -> None:
        self._worker.supervisor.teardown()
        self._worker.close()
        self.end(0)


def _check_python(minor: str) -> None:
    """Refuse another Python than the driver's: bytecode and extension modules of the bundle are for one minor version.

    Raises:
        ProgramError: this is another.
    """
    found = "{}.{}".format(*sys.version_info)
    if minor not in ("", found):
        raise ProgramError(
            f"the worker's Python is {found} ({sys.executable}), and the bundle is for {minor}",
            hint="`python` in the configuration names another interpreter",
        )


def _dress(spec: WorkerSpec) -> None:
    """Look like the program on the driver, but for its standard input, which is empty."""
    sys.argv[:] = spec.argv
    sys.path[:] = spec.sys_path


def _tie_to_agent() -> None:
    """Let the kernel end us with our agent even while a method holds the GIL, and let the agent's profiler look in.

    Before the first method can run, although ctypes costs 1.3 ms: a method that never lets go of the GIL would not see
    the end of the control channel.
    """
    if sys.platform != "linux":
        return
    import ctypes

    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    libc.prctl(_PR_SET_PTRACER, ctypes.c_ulong(os.getppid()))  # EINVAL where Yama is not in force


def _end_group() -> NoReturn:
    """End at once, with the processes of our group; those which left it are the business of the agent's guard."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _ignore(signum: int, frame: Optional[FrameType]) -> None:
    pass
