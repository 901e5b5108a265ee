"""The process around an `Agent`: its port, its loop, its folder, and its end.

Started directly (`main`, by the local system: one line of JSON on standard input, one ready line of JSON on standard
output) or by boot, which hands over the port it has opened (`become`).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from typing import Optional

from bigm.bootstrap import descendants
from bigm.bootstrap.agent import Agent
from bigm.bootstrap.loop import Loop
from bigm.bootstrap.port import Port, listen
from bigm.bootstrap.processes import Command, Processes, worker_command
from bigm.bootstrap.records import Launch
from bigm.causes import Cause

_HELLO_DEADLINE = 10.0  # seconds a client has to send its ClientHello
_LAST_REPLIES = 1.0  # seconds for the last replies to leave
_STOP_GRACE = 3.0  # seconds between SIGTERM to us and SIGKILL to our workers
_OOM_SCORE = -500  # of -1000: who explains a death should not be the one who dies


def main(command: Command = worker_command) -> None:
    """Run an agent from the launch on standard input.

    Args:
        command: makes a worker's command line; tests have their own.
    """
    launch = Launch.from_json(sys.stdin.readline())
    try:
        listener = listen(launch.host, launch.port)
        print(json.dumps({"port": listener.getsockname()[1], "pid": os.getpid()}), flush=True)
    except OSError as error:  # there is no port, or no driver any more
        if launch.folder:
            shutil.rmtree(launch.folder, ignore_errors=True)
        sys.exit(f"the agent cannot listen on {launch.host}, port {launch.port or 'any'}: {error.strerror}")
    become(launch, listener, time.monotonic() + launch.first_lease, command)


def become(
    launch: Launch,
    listener: socket.socket,
    first_lease: float,
    command: Command = worker_command,
) -> None:
    """Be the agent until the machine ends. The ready line has been printed: clients wait in the backlog.

    Args:
        launch: what the machine was given.
        listener: its port.
        first_lease: monotonic clock's time by which it must be enrolled and leased.
    """
    folder = launch.folder or tempfile.mkdtemp(prefix="bigm-")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    _let_go_of_output()
    try:
        _Machine(launch, listener, first_lease, folder, command).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Machine:
    def __init__(
        self,
        launch: Launch,
        listener: socket.socket,
        first_lease: float,
        folder: str,
        command: Command,
    ) -> None:
        mark = descendants.machine_mark(f"{launch.cluster}-{secrets.token_hex(8)}")
        self._loop = Loop()
        self._armed: Optional[float] = None  # when the next tick is due
        self._workers = Processes(self._loop, mark, folder, command=command)
        self.agent = Agent(
            launch,
            self._workers,
            self._loop.stop,
            folder=folder,
            mark=mark,
            wake=lambda: self._loop.soon(self._tick),
            first_lease=first_lease - time.monotonic(),
        )
        self._port = Port(
            listener,
            self._loop,
            deadline=_HELLO_DEADLINE,
            to_agent=self.agent.server.adopt,
            to_worker=self._to_worker,
            say=self.agent.say,
        )
        self._loop.on_signal(signal.SIGTERM, self._told_to_end)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a terminal's; the driver has its own and decides
        if launch.parent_pipe:
            os.set_blocking(0, False)
            self._loop.watch(0, self._parent)

    def run(self) -> None:
        """Serve until the agent has finished."""
        _spare_from_oom_killer()
        self._tick()
        try:
            self._loop.run()
        finally:
            self._port.close()
            self._workers.close()
            self.agent.server.close(_LAST_REPLIES)
            self.agent.close()

    def _tick(self) -> None:
        due = self.agent.tick()
        now = time.monotonic()
        if self._armed is None or due < self._armed or self._armed <= now:
            self._armed = due
            self._loop.after(max(0.0, due - now), self._tick)

    def _to_worker(self, proc: int, connection: socket.socket) -> None:
        if not self._workers.hand_over(proc, connection):
            self.agent.say(f"a connection for worker {proc} was refused: it is gone, or leaves connections unread")

    def _parent(self) -> None:
        try:
            if os.read(0, 4096):
                return
        except BlockingIOError:
            return
        self._loop.unwatch(0)
        self.agent.end(Cause.DRIVER, "the driver ended")

    def _told_to_end(self) -> None:
        self.agent.end(Cause.SIGNAL, "the agent was told to end by SIGTERM", grace=_STOP_GRACE)


def _let_go_of_output() -> None:
    """Whoever read the ready line is not to wait for the end of our standard output."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.close(null)


def _spare_from_oom_killer() -> None:
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write(str(_OOM_SCORE))
    except OSError:
        pass  # needs privilege, or Linux
