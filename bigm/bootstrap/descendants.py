"""Ends every process a machine has started, however it tried to leave.

A service may fork, put itself in a session of its own, fork twice. Three nets catch such processes: the agent is the
subreaper of all its descendants, so they stay in its tree; every worker starts with a mark in its environment, which
its children inherit; and where there is no /proc (macOS) the workers' process groups are ended, which is less.

The guard is for the death of the agent itself: a shell of 300 KB that waits for the end of a pipe only the agent
holds, and then kills what bears the mark. It is a shell because it must cost nothing: an idle machine's memory counts.
Workers end by themselves then; what escapes is a daemon that has also thrown its environment away.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Optional

MARK = "BIGM_MACHINE"
_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS = 50  # of looking for what is left; each new round means something forked meanwhile
_PAUSE = 0.02  # seconds between two rounds, for the kernel to end what was killed

_GUARD = """
read -r _
n=0
while [ $((n += 1)) -lt 100 ]; do
    found=$(grep -lsF -e "$0" /proc/[0-9]*/environ)
    [ -n "$found" ] || break
    for path in $found; do path=${path#/proc/}; kill -9 "${path%/environ}" 2>/dev/null; done
    sleep 0.1
done
[ -z "$1" ] || rm -rf "$1"
"""


def become_subreaper() -> None:
    """Let orphans among our descendants become our children. Linux only; elsewhere they become init's."""
    if sys.platform == "linux":
        import ctypes  # costs 4 ms, after the port is open

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def machine_mark(word: str) -> str:
    """The mark of this machine: its own word behind the mark it was itself started under, if any.

    A machine that starts machines (a service may be a driver) is ended with all of them: the outer machine finds its
    word in the inner ones' marks.
    """
    outer = os.environ.get(MARK, "")
    return f"{outer},{word}" if outer else word


def find(mark: str) -> set[int]:
    """Process ids of what bears our word in its environment or descends from us, ourselves and the ended left out."""
    word = mark.rpartition(",")[2].encode()
    parents: dict[int, int] = {}
    found: set[int] = set()
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                state, parent = stat.read().rpartition(b")")[2].split()[:2]
            if state in (b"Z", b"X"):
                continue
            parents[int(name)] = int(parent)
            with open(f"/proc/{name}/environ", "rb") as environ:
                if word in environ.read():
                    found.add(int(name))
        except OSError:
            continue  # it ended meanwhile, or is another user's
    for pid in parents:
        if os.getpid() in _ancestors(pid, parents):
            found.add(pid)
    return found - {os.getpid()}


def kill_group(group: int) -> None:
    """Kill what is left of a process group."""
    _kill(-group)


def kill(mark: str, groups: set[int], keep: set[int]) -> None:
    """Kill what `find` finds, again and again until nothing is found; and the process groups *groups*.

    Args:
        mark: this machine's mark.
        groups: process groups of workers that may still live.
        keep: process ids to spare.
    """
    for group in groups:
        kill_group(group)
    for _ in range(_ROUNDS):
        left = find(mark) - keep
        if not left:
            return
        for pid in left:
            _kill(pid)
        time.sleep(_PAUSE)


class Guard:
    """The process that outlives the agent by a moment. Needs /proc; elsewhere it does nothing.

    Args:
        mark: this machine's mark.
        folder: removed at the end too, as the agent would have; or "".
    """

    def __init__(self, mark: str, folder: str) -> None:
        self.pid = 0
        self._pipe: Optional[int] = None
        shell = shutil.which("sh")
        if not os.path.isdir("/proc/self") or shell is None:
            return
        read, self._pipe = os.pipe()
        environ = {name: value for name, value in os.environ.items() if name != MARK}
        command = [shell, "-c", _GUARD, mark.rpartition(",")[2], folder]
        null = subprocess.DEVNULL
        process = subprocess.Popen(
            command, stdin=read, stdout=null, stderr=null, env=environ, cwd="/", start_new_session=True
        )
        process.returncode = 0  # the agent collects its children itself
        os.close(read)
        self.pid = process.pid

    def close(self) -> None:
        """End the guard: nothing is left to kill."""
        if self._pipe is not None:
            _kill(self.pid)
            os.close(self._pipe)
            self._pipe = None


def _ancestors(pid: int, parents: dict[int, int]) -> list[int]:
    chain: list[int] = []
    while pid in parents and len(chain) < 10_000:
        pid = parents[pid]
        chain.append(pid)
    return chain


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # ended meanwhile; or it changed its user, which a machine that is not root cannot undo
