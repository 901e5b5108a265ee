"""A server and its clients in this process, over real sockets and real mutual TLS."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from places import Certificates, Place

from bigm.rpc import interrupts
from bigm.rpc.wire import Limits

FOLDER = Path(__file__).parent


@pytest.fixture(autouse=True)
def _owned_interrupts() -> Iterator[None]:
    """As in a driver: calls of the main thread read for themselves."""
    interrupts.install()
    yield
    interrupts.uninstall()


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    return Certificates()


@pytest.fixture
def place(certificates: Certificates) -> Iterator[Callable[..., Place]]:
    """Make a `Place` that serves the objects given by name."""
    places: list[Place] = []

    def make(limits: Optional[Limits] = None, authorize: Any = None, **services: object) -> Place:
        places.append(Place(certificates, services, limits=limits, authorize=authorize))
        return places[-1]

    yield make
    for each in places:
        each.close()


@pytest.fixture
def program(certificates: Certificates) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run a program of this folder in a process of its own, with credentials and address pickled on its input."""
    processes: list[subprocess.Popen[str]] = []

    def run(source: str, *given: object) -> subprocess.Popen[str]:
        code = f"import sys, pickle; sys.path[:0] = {[str(FOLDER.parents[1]), str(FOLDER)]!r}\n"
        code += "given = pickle.loads(bytes.fromhex(sys.stdin.readline()))\n" + source
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],  # of os.fork beside threads
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(given).hex() + "\n")
        process.stdin.flush()
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()
