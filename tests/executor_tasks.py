"""Functions for the tests of executors. A module of its own: machines import it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from bigm import current_call
from waiting import eventually

INITIALIZED = "no"


def mul(x: int, y: int) -> int:
    return x * y


def same(value: Any) -> Any:
    return value


def slowly(value: Any) -> Any:
    time.sleep(0.01)  # so that each worker has some while others are lost
    return value


def capture(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return (*args, kwargs)


def pid(_: object = None) -> int:
    return os.getpid()


def here(_: object = None) -> str:
    """The machine it runs on."""
    return threading.current_thread().name.split()[-1]


def until(path: Path, value: Any = None) -> Any:
    """Run until *path* exists."""
    eventually(path.exists, 60.0, f"{path} was never made")
    return value


def mark_and_wait(mark: Path, path: Path) -> int:
    """Say that it runs, and run until *path* exists."""
    note(mark)
    until(path)
    return os.getpid()


def note(path: Path, _: object = None) -> int:
    """Add a line to *path*: the process that runs this."""
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return os.getpid()


def noted(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def fail(text: str) -> NoReturn:
    raise ValueError(text)


def fail_after(path: Path) -> NoReturn:
    until(path)
    raise ValueError("after")


def fail_in_a_ring() -> NoReturn:
    """Raise an exception whose causes go round in a circle."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def leave(code: int) -> NoReturn:
    raise SystemExit(code)


def die_once(path: Path) -> int:
    """Kill this process, unless it was done before; the file at *path* tells."""
    if not path.exists():
        note(path)
        die()
    return os.getpid()


def die(_: object = None) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60.0)  # the signal comes first
    raise AssertionError


def append(items: list[int]) -> int:
    """Change its argument, and say how long it is then."""
    items.append(0)
    return len(items)


def lock() -> Any:
    return threading.Lock()


def initialize(value: str) -> None:
    global INITIALIZED
    assert INITIALIZED == "no", "it ran before"
    INITIALIZED = value


def initialized(_: object = None) -> str:
    return INITIALIZED


def cancelled_by(mark: Path) -> bool:
    note(mark)
    return current_call().wait_cancelled(60.0)


def stoppable(n: int, begun: Path, stopped: Path) -> int:
    """Run until nobody wants the result; but for 0, which is quick."""
    if n:
        note(begun)
        assert current_call().wait_cancelled(60.0)
        note(stopped)
    return n


class Made:
    """A result that can be weakly referenced."""

    def __init__(self, n: int = 0) -> None:
        self.n = n

    def method(self) -> int:
        return self.n


class Unhashable:
    """Can be called, and pickled, but not hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("nobody may compare it")

    def __call__(self, value: int) -> int:
        return value + 1


class Missing:
    """A callable that only the driver can rebuild."""

    def __init__(self) -> None:
        self.driver = os.getpid()

    def __reduce__(self) -> Any:
        return _find, (os.getpid(),)

    def __call__(self) -> None:
        pass


def _find(driver: int) -> Any:
    raise ModuleNotFoundError("No module named 'only_here'")
