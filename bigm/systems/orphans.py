"""Machines on this computer, by their processes and folders: which a driver holds, and the end of the others.

One whose driver has died ends by itself: with the pipe that its driver held, with its lease, or by its guard when the
agent was killed. What is found besides those that a driver holds is what could not: an agent that is stopped, processes
whose agent and guard were both killed, a folder that is left of a computer that was switched off. Needs no word from a
driver, only labels: an agent has its instance on its command line (`label`), what it starts has the mark in its
environment, and the folder has the instance in its name.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bigm.bootstrap.descendants import MARK
from bigm.errors import BootError, SystemFault
from bigm.systems.base import ENDED, Instance

_AGENT = ["-I", "-S", "-c"]  # how Python is started for agents, of whatever system
_LABEL = "bigm-agent"
_PREFIX = "bigm-"
_ASKED = 6.0  # seconds for an agent that was told to end: its workers have 3 of them
_GUARDED = 12.0  # seconds for a guard to end what its agent has left
_ROUNDS = 20  # of killing what is left; each new round means something forked meanwhile
_PAUSE = 0.1  # seconds between two rounds


def label(instance: str) -> list[str]:
    """What the command line of an agent ends with: whose it is, and by which process it was started."""
    return [_LABEL, instance, str(os.getpid())]


def make_folder(instance: str) -> str:
    """A folder for a machine, which has the instance in its name."""
    return tempfile.mkdtemp(prefix=f"{_PREFIX}{instance}-")


def find() -> list[Instance]:
    """The machines of this user on this computer, and what is left of those whose driver has died."""
    folders = _folders()  # before the processes: a machine has a process before it has a folder
    processes = _Processes()
    held = [*processes.agents, *(guard.instance for guard in processes.guards.values())]
    found = [agent.describe(folders.get(id)) for id, agent in processes.agents.items()]
    if processes.unguarded:
        again = _Processes().unguarded  # a guard that ended while we looked around had nothing left to guard
        found += [_group(word, members) for word, members in processes.unguarded.items() if word in again]
    found += [_folder(id, paths) for id, paths in folders.items() if id not in held]
    return found


def remove(instances: Iterable[Instance]) -> dict[str, SystemFault | None]:
    """End what `find` found, side by side, and remove its folders."""
    import psutil  # type: ignore[import-untyped]  # it ships no types

    ids = [one.id for one in instances]
    processes = _Processes()
    _end([processes.agents[id].process for id in ids if id in processes.agents])
    psutil.wait_procs([guard.process for guard in processes.guards.values() if guard.instance in ids], _GUARDED)
    left = _kill(ids)
    folders = _folders()
    for path in [path for id in ids for path in folders.get(id, ())]:
        shutil.rmtree(path, ignore_errors=True)
    outcome: dict[str, SystemFault | None] = dict.fromkeys(ids)
    for id, members in left.items():
        numbers = ", ".join(str(process.pid) for process in members)
        outcome[id] = BootError(f"processes of {id} on this computer do not end: {numbers}")
    return outcome


class _Agent:
    """An agent's process, by its label."""

    def __init__(self, process: Any, instance: str, driver: int) -> None:
        self.process = process
        self.instance = instance
        self._driver = driver

    @property
    def orphan(self) -> bool:
        """Whether the process that started it has ended. One of the same number that began later is another."""
        import psutil

        try:
            driver = psutil.Process(self._driver)
            return bool(driver.status() == psutil.STATUS_ZOMBIE or driver.create_time() > self.process.create_time())
        except psutil.Error:
            return True

    def describe(self, folders: list[Path] | None) -> Instance:
        """As `find` tells it."""
        orphan = self.orphan
        return Instance(
            id=self.instance,
            reason=f"its driver, process {self._driver}, has ended" if orphan else f"of process {self._driver}",
            held=not orphan,
            launch=self.instance.rpartition("-")[0],
            cluster=_cluster(self.instance),
            host=socket.gethostname(),
            since=self.process.create_time(),
            kept=_size(folders or []),
        )


class _Guard:
    """The guard of a machine: it lives as long as the agent, and a moment longer."""

    def __init__(self, process: Any, folder: str) -> None:
        self.process = process
        self.instance = _instance(Path(folder))


class _Processes:
    """The processes of this user that have to do with machines, as they are now.

    Attributes:
        agents: by instance.
        guards: by the word that the processes of their machine are marked with.
        unguarded: marked processes with neither a guard nor an agent above them, by word. Empty where there is no
            /proc: there are no guards.
    """

    def __init__(self) -> None:
        self.agents: dict[str, _Agent] = {}
        self.guards: dict[str, _Guard] = {}
        marked: dict[str, list[Any]] = {}
        for process, line in _own():
            if line[1:4] == _AGENT and line[-3:-2] == [_LABEL]:
                self.agents[line[-2]] = _Agent(process, line[-2], int(line[-1]))
            elif len(line) == 5 and line[1] == "-c" and "/proc/[0-9]*/environ" in line[2]:  # `descendants.Guard`
                self.guards[line[3]] = _Guard(process, line[4])
            elif word := _word(process):
                marked.setdefault(word, []).append(process)
        self.unguarded = {
            word: members
            for word, members in marked.items()
            if word not in self.guards and not any(map(_is_below_agent, members))
        }


def _own() -> Iterator[tuple[Any, list[str]]]:
    """The processes of this user that are not ended, with their command lines. Some may end meanwhile."""
    import psutil

    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid() and process.status() != psutil.STATUS_ZOMBIE:
                yield process, process.cmdline()
        except psutil.Error:
            continue


def _word(process: Any) -> str:
    """The innermost word of the mark that a process bears, or ""."""
    import psutil

    if sys.platform != "linux":
        return ""
    try:
        return str(process.environ().get(MARK, "")).rpartition(",")[2]
    except (psutil.Error, OSError):
        return ""


def _is_below_agent(process: Any) -> bool:
    """Whether an agent, of whatever system, still answers for *process*."""
    import psutil

    try:
        return any(parent.cmdline()[1:4] == _AGENT for parent in process.parents())
    except psutil.Error:
        return True  # it ended, or its parent did: the next look will tell


def _group(word: str, members: list[Any]) -> Instance:
    """Processes of a machine whose agent is gone."""
    import psutil

    born = []
    for process in members:
        try:
            born.append(process.create_time())
        except psutil.Error:
            continue
    numbers = ", ".join(str(process.pid) for process in members)
    return Instance(
        id=word,
        reason=f"its agent is gone; left are processes {numbers}",
        cluster=_cluster(word),
        host=socket.gethostname(),
        since=min(born, default=0.0),
    )


def _folder(instance: str, paths: list[Path]) -> Instance:
    """A folder of a machine that is gone."""
    return Instance(
        id=instance,
        state=ENDED,
        reason=f"left is {', '.join(map(str, paths))}",
        cluster=_cluster(instance),
        host=socket.gethostname(),
        since=min(path.stat().st_mtime if path.exists() else 0.0 for path in paths),
        kept=_size(paths),
    )


def _end(agents: Sequence[Any]) -> None:
    """Tell agents to end, and see to it that they do. Their guards end what is left by one that is killed."""
    import psutil

    for agent in agents:
        _signal(agent, signal.SIGTERM)
        _signal(agent, signal.SIGCONT)  # it may be stopped
    _, left = psutil.wait_procs(agents, _ASKED)
    for agent in left:
        _signal(agent, signal.SIGKILL)
    psutil.wait_procs(left, _ASKED)


def _kill(ids: Sequence[str]) -> dict[str, list[Any]]:
    """Kill agents of these names, and what bears them as a word and nobody guards; what does not end, by name."""
    import psutil

    left: dict[str, list[Any]] = {}
    for _ in range(_ROUNDS):
        processes = _Processes()
        found = {id: [*processes.unguarded.get(id, ())] for id in ids}
        for id in filter(processes.agents.__contains__, ids):
            found[id].append(processes.agents[id].process)
        left = {id: members for id, members in found.items() if members}
        members = [process for each in left.values() for process in each]
        if not members:
            break
        for process in members:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(members, _PAUSE)
    return left


def _signal(process: Any, number: int) -> None:
    import psutil

    try:
        process.send_signal(number)
    except psutil.Error:
        pass  # ended meanwhile


def _folders() -> dict[str, list[Path]]:
    """The folders of machines in the folder for temporary files, by instance."""
    found: dict[str, list[Path]] = {}
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if _instance(path) and path.is_dir() and path.lstat().st_uid == os.getuid():
                found.setdefault(_instance(path), []).append(path)
        except OSError:
            continue  # removed meanwhile
    return found


def _instance(folder: Path) -> str:
    """The instance that `make_folder` has named a folder after, or ""."""
    match = re.fullmatch(rf"{_PREFIX}([0-9a-z]+-[0-9]+-[0-9]+)-[^-]+", folder.name)
    return match[1] if match else ""


def _cluster(label: str) -> str:
    """The cluster in the name of an instance, or in a mark."""
    cluster, dash, _ = label.partition("-")
    return cluster if dash else ""


def _size(folders: Iterable[Path]) -> int:
    """Bytes of disk that the files in *folders* occupy."""
    total = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                try:
                    total += os.lstat(os.path.join(place, name)).st_blocks * 512
                except OSError:
                    continue  # removed meanwhile
    return total
