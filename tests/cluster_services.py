"""Services for the tests of clusters. A module of its own: machines import it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any

import bigm


class Counter:
    """Keeps a number, and tells where."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, n: int = 1) -> int:
        self.value += n
        return self.value

    def pid(self) -> int:
        return os.getpid()

    def echo(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return (*args, kwargs)

    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def until_cancelled(self, seconds: float) -> bool:
        return bigm.current_call().wait_cancelled(seconds)

    def fail(self, text: str) -> None:
        raise ValueError(text)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def env(self, name: str) -> str | None:
        return os.environ.get(name)

    def argv(self) -> list[str]:
        return sys.argv

    def cwd(self) -> str:
        return os.getcwd()


class Mortal(Counter):
    """Ends in various ways."""

    def exit(self, code: int) -> None:
        os._exit(code)

    def kill(self, number: int) -> None:
        os.kill(os.getpid(), number)
        time.sleep(60.0)

    def kill_agent(self) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60.0)

    def crash(self) -> None:
        ctypes.string_at(0)

    def daemon(self) -> None:
        """Leave a process behind that has a session and a group of its own."""
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return
        os.setsid()
        if os.fork():
            os._exit(0)
        os.execvp("sleep", ["sleep", "120"])

    def hold_gil(self, seconds: float) -> None:
        ctypes.PyDLL(None).usleep(ctypes.c_uint(int(seconds * 1e6)))


class SetUp:
    """Knows the cluster."""

    def __init__(self) -> None:
        self.cluster: Any = None
        self.torn_down = False

    def setup(self, cluster: Any) -> None:
        self.cluster = cluster

    def teardown(self) -> None:
        print("torn down", flush=True)

    def place(self) -> tuple[str, str, int, int, str]:
        cluster = self.cluster
        return cluster.machine, cluster.addr, cluster.proc, cluster.procs, cluster.name

    def ask(self, addr: str, method: str, *args: Any) -> Any:
        return self.cluster.dial(addr).call(method, *args)

    def ask_idempotent(self, addr: str, method: str, *args: Any) -> Any:
        return self.cluster.dial(addr).options(idempotent=True).call(method, *args)

    def ask_all(self, addr: str, count: int) -> set[int]:
        """Calls to the same machine at once; which processes answered."""
        peer = self.cluster.dial(addr)
        assert peer is self.cluster.dial(addr)
        calls = [peer.submit("S.slow_pid", 0.2) for _ in range(count)]
        return {call.result(30.0) for call in calls}

    def slow_pid(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()


class BadSetup:
    def setup(self, cluster: Any) -> None:
        raise RuntimeError("no database here")


class SlowSetup:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def setup(self, cluster: Any) -> None:
        time.sleep(self.seconds)

    def answer(self) -> int:
        return 42


class Unpicklable:
    def __init__(self) -> None:
        self.config = {"lock": threading.Lock()}


class OnlyHere:
    """Cannot be rebuilt on a machine."""

    def __reduce__(self) -> Any:
        return _refuse, (os.getpid(),)


def _refuse(driver: int) -> OnlyHere:
    if os.getpid() != driver:
        raise RuntimeError("this belongs to the driver")
    return OnlyHere()
