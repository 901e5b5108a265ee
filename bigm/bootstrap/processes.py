"""Workers as processes: started, listened to, ended, and their deaths explained. All on the loop's thread.

A worker is started in a session of its own, with its control channel as the one descriptor it inherits, and its
standard output and error as pipes that the agent reads. Its death is told by SIGCHLD, at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Callable, Optional

from bigm.bootstrap import descendants, samples
from bigm.bootstrap.agent import Agent, Workers, program_text
from bigm.bootstrap.control import FAILED, AgentEnd
from bigm.bootstrap.loop import Loop
from bigm.bootstrap.records import EXITED, SERVING, STARTING, WorkerSample, WorkerSpec, WorkerStatus
from bigm.causes import Cause
from bigm.errors import ConfigError

_READ = 64 << 10  # bytes of output read at once
_SPEC_TIMEOUT = 10.0  # seconds a worker may take to read its instructions, which nearly always fit into the channel
_LOOP_TIMEOUT = 30.0  # seconds the loop may take to start a machine's workers
_WORKER_OOM_SCORE = 500  # of 1000: when memory is short the kernel is to take a worker, not who explains its death


def worker_command(spec: WorkerSpec, fd: int) -> list[str]:
    """The command that runs a worker whose control channel is descriptor *fd*.

    `-u`, because what a dying worker has in its buffers is never seen.
    """
    return [spec.python, "-u", "-c", program_text("bigm.worker.launcher", f"main({fd})", spec.root)]


Command = Callable[[WorkerSpec, int], list[str]]


class Processes(Workers):
    """The workers of one machine.

    Args:
        loop: calls us.
        mark: value of BIGM_MACHINE in their environment.
        folder: the machine's own.
        command: makes the command line from specification and descriptor.
    """

    def __init__(self, loop: Loop, mark: str, folder: str, *, command: Command = worker_command) -> None:
        self._loop = loop
        self._mark = mark
        self._folder = folder
        self._command = command
        self._workers: dict[int, _Process] = {}
        self._guard: Optional[descendants.Guard] = None
        self._ending = ""  # why workers are being ended, in words
        self._oom_kills = samples.oom_kills()
        self._agent: Agent
        loop.on_signal(signal.SIGCHLD, self._collect)

    def __repr__(self) -> str:
        return f"<Processes {[worker.status.state for worker in self._workers.values()]}>"

    def attach(self, agent: Agent) -> None:
        self._agent = agent

    def start(self, specs: Sequence[WorkerSpec]) -> list[WorkerStatus]:
        statuses: list[WorkerStatus] = self._loop.do(lambda: [self._start(spec) for spec in specs], _LOOP_TIMEOUT)
        return statuses

    def hand_over(self, proc: int, connection: socket.socket) -> bool:
        worker = self._workers.get(proc)
        with connection:
            return worker is not None and worker.status.state != EXITED and worker.control.hand_over(connection)

    def end(self, grace: float) -> None:
        self._loop.soon(lambda: self._end(grace))

    def sample(self) -> tuple[WorkerSample, ...]:
        living = [worker for worker in list(self._workers.values()) if worker.status.state != EXITED]
        return tuple(WorkerSample(worker.spec.proc, *samples.process(worker.pid)) for worker in living)

    def close(self) -> None:
        """Kill whatever may be left, then the guard. The loop has stopped."""
        self._kill()
        if self._guard is not None:
            self._guard.close()

    def _start(self, spec: WorkerSpec) -> WorkerStatus:
        if self._guard is None:
            descendants.become_subreaper()
            self._guard = descendants.Guard(self._mark, self._folder)
        self._ending = ""
        worker = _Process(spec, self._command, self._environment(spec))
        self._workers[spec.proc] = worker
        for fd, stream in ((worker.stdout, "o"), (worker.stderr, "e")):
            self._loop.watch(fd, _bind(self._read, worker, fd, stream))
        self._loop.watch(worker.control.fileno(), lambda: self._hear(worker))
        self._publish(worker, worker.status)
        try:
            worker.control.start(spec, _SPEC_TIMEOUT)
        except TimeoutError as error:
            self._agent.say(str(error))
            worker.kill()
        self._loop.after(spec.heartbeat, lambda: self._beat(worker, 1))
        return worker.status

    def _environment(self, spec: WorkerSpec) -> Mapping[str, str]:
        environment = {**os.environ, **spec.env} if spec.inherit_env else dict(spec.env)
        environment[descendants.MARK] = self._mark
        return environment

    def _read(self, worker: _Process, fd: int, stream: str) -> None:
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            return
        if data:
            self._agent.wrote(f"w{worker.spec.proc}", stream, data)
            return
        self._loop.unwatch(fd)
        os.close(fd)
        worker.flowing -= 1
        if not worker.flowing and self._workers[worker.spec.proc] is worker:  # and none was started after it
            self._agent.worker_drained(worker.spec.proc)

    def _hear(self, worker: _Process) -> None:
        if worker.deaf:
            return
        said, open_ = worker.control.heard()
        for state, text in said:
            if state == SERVING:
                self._publish(worker, worker.status._replace(state=SERVING))
            elif state == FAILED:
                self._publish(worker, worker.status._replace(error=text))
        if not open_:
            worker.deaf = True
            self._loop.unwatch(worker.control.fileno())

    def _beat(self, worker: _Process, number: int) -> None:
        if worker.status.state != EXITED:
            worker.control.beat(number)
            self._loop.after(worker.spec.heartbeat, lambda: self._beat(worker, number + 1))

    def _collect(self) -> None:
        """Take note of every child that ended: workers, and orphans of theirs that became ours."""
        while True:
            try:
                pid, code = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for worker in self._workers.values():
                if worker.pid == pid and worker.status.state != EXITED:
                    self._died(worker, code)

    def _died(self, worker: _Process, code: int) -> None:
        self._hear(worker)  # what it said last, before it says nothing more
        if not worker.deaf:
            worker.deaf = True
            self._loop.unwatch(worker.control.fileno())
        worker.control.close()
        descendants.kill_group(worker.pid)  # its children hold its pipes open
        number = os.WTERMSIG(code) if os.WIFSIGNALED(code) else None
        exit_code = None if number else os.WEXITSTATUS(code)
        oom = number == signal.SIGKILL and not self._ending and self._oom_rose()
        status = worker.status._replace(state=EXITED, exit_code=exit_code, signal=number, oom=oom)
        cause, text = explain(status, self._ending)
        self._publish(worker, status._replace(cause=str(cause), text=text))
        if self._ending and not self._living():
            self._kill()  # no need to wait for the grace to pass

    def _oom_rose(self) -> bool:
        before, self._oom_kills = self._oom_kills, samples.oom_kills()
        return self._oom_kills > before

    def _publish(self, worker: _Process, status: WorkerStatus) -> None:
        worker.status = status
        self._agent.worker_changed(status)

    def _end(self, grace: float) -> None:
        self._ending = "killed by the agent, as its machine was ending"
        if grace <= 0 or not self._living():
            self._kill()
            return
        self._ending = "ended by the agent"
        for worker in self._living():
            worker.ask()
        self._loop.after(grace, self._kill_if_ending)

    def _kill_if_ending(self) -> None:
        if self._living() and self._ending:
            self._ending = "killed by the agent: it did not end in the time it was given"
            self._kill()

    def _kill(self) -> None:
        if self._guard is not None:
            groups = {worker.pid for worker in self._living()}
            descendants.kill(self._mark, groups, keep={self._guard.pid})

    def _living(self) -> list[_Process]:
        return [worker for worker in self._workers.values() if worker.status.state != EXITED]


def explain(status: WorkerStatus, ending: str) -> tuple[Cause, str]:
    """Why a worker is gone, as a word and in words.

    Args:
        status: its last one, with exit code or signal.
        ending: what the agent did to it, or "".
    """
    who = f"worker {status.proc} (pid {status.pid})"
    if status.error:
        return Cause.IMPORT, f"{who} could not import the program: {status.error.strip().splitlines()[-1]}"
    if ending:
        return Cause.SHUTDOWN, f"{who} was {ending}"
    if status.oom:
        return Cause.MEMORY, f"{who} was killed by the kernel: it ran out of memory"
    if status.signal is not None:
        return Cause.SIGNAL, f"{who} was killed by signal {status.signal} ({_signal_name(status.signal)})"
    return Cause.EXIT, f"{who} exited with code {status.exit_code}"


class _Process:
    """One worker's process and its descriptors."""

    def __init__(self, spec: WorkerSpec, command: Command, environment: Mapping[str, str]) -> None:
        self.spec = spec
        self.deaf = False  # its end of the control channel is closed
        self.flowing = 2  # of its two output pipes, how many are open
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            try:
                channel, channel_end = socket.socketpair()
                ours.callback(channel.close)
                theirs.callback(channel_end.close)
                out, out_end = _pipe(ours, theirs)
                err, err_end = _pipe(ours, theirs)
                process = subprocess.Popen(
                    command(spec, channel_end.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=out_end,
                    stderr=err_end,
                    pass_fds=(channel_end.fileno(),),
                    env=environment,
                    cwd=spec.cwd or None,
                    start_new_session=True,
                )
            except OSError as error:
                what = error.filename if error.filename else spec.python
                raise ConfigError(f"cannot start worker {spec.proc}: {what}: {error.strerror}") from error
            ours.pop_all()  # kept
        process.returncode = 0  # collected by SIGCHLD, never by subprocess
        self.pid = process.pid
        self.control = AgentEnd(channel)
        self.stdout, self.stderr = out, err
        os.set_blocking(out, False)
        os.set_blocking(err, False)
        self.status = WorkerStatus(spec.proc, self.pid, STARTING)
        _offer_to_oom_killer(self.pid)

    def ask(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass  # it ended by itself just now; SIGCHLD tells


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe whose reading end is ours and whose writing end theirs."""
    read, write = os.pipe()
    ours.callback(os.close, read)
    theirs.callback(os.close, write)
    return read, write


def _offer_to_oom_killer(pid: int) -> None:
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w") as score:
            score.write(str(_WORKER_OOM_SCORE))
    except OSError:
        pass  # no /proc, or it has ended already


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _bind(read: Callable[[_Process, int, str], None], worker: _Process, fd: int, stream: str) -> Callable[[], None]:
    return lambda: read(worker, fd, stream)
