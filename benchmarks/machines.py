"""What machines on this computer cost: time until they answer, and memory while they idle."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from measure import Row, alternate

MACHINES = 5
PROGRAM = str(Path(__file__).with_name("five.py"))


@contextlib.contextmanager
def until_input_ends(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program that ends when its standard input does."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, *command], stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        process.stdin.close()
        if process.wait(60) != 0:
            raise RuntimeError(f"{command} ended with {process.returncode}")


def answered() -> float:
    """Seconds from the start of the program's process until all its machines have answered a call."""
    begin = time.monotonic()
    with until_input_ends(PROGRAM) as process:
        if process.stdout.readline() != "answered\n":
            raise RuntimeError("the machines did not answer")
        return time.monotonic() - begin


def interpreters() -> float:
    """Seconds for as many interpreters at once to do as little as a machine's process must."""
    begin = time.monotonic()
    processes = [subprocess.Popen([sys.executable, "-c", "import ssl"]) for _ in range(MACHINES)]
    for process in processes:
        process.wait(60)
    return time.monotonic() - begin


def memory() -> tuple[float, float]:
    """Bytes of an idle machine and of an idle bare interpreter, proportional set size: as many of each, all alive."""
    with contextlib.ExitStack() as stack:
        bare = [
            stack.enter_context(until_input_ends("-c", "import sys; print(flush=True); sys.stdin.read()"))
            for _ in range(MACHINES)
        ]
        driver = stack.enter_context(until_input_ends(PROGRAM))
        for process in [*bare, driver]:
            process.stdout.readline()
        machines = psutil.Process(driver.pid).children(recursive=True)
        return (
            sum(process.memory_full_info().pss for process in machines) / MACHINES,
            statistics.mean(psutil.Process(process.pid).memory_full_info().pss for process in bare),
        )


def rows(repeats: int) -> list[Row]:
    """Two rows: start and memory."""
    answered()  # the first start writes bytecode
    seconds = alternate({"ours": answered, "bare": interpreters}, 2 * repeats + 1)
    ours, bare = (statistics.median(column) for column in zip(*(memory() for _ in range(3)), strict=True))
    return [
        Row(
            what=f"{MACHINES} local machines RUNNING and answered, from process start",
            ours=f"{seconds['ours'] * 1e3:.0f} ms",
            limit=f"{seconds['bare'] * 1e3:.0f} ms ({MACHINES} python -c 'import ssl' at once)",
            ratio=seconds["ours"] / seconds["bare"],
            reach=6,
            aim=4,
        ),
        Row(
            what="memory of an idle local machine (agent and worker, PSS)",
            ours=f"{ours / 2**20:.1f} MiB",
            limit=f"{bare / 2**20:.1f} MiB (bare interpreter)",
            ratio=ours / bare,
            reach=6,
            aim=4.5,
        ),
    ]
