"""Estimate pi by throwing darts on every core of a few machines: bigm's hello world.

    bigm run examples/bigpi.py                                 five processes on this computer
    bigm run examples/bigpi.py --nmach 3 -- -n 100000000       three, and fewer darts

Source: bigmachine cmd/bigpi. Like it, this prints with time stamps; unlike it, it draws exactly the samples asked for
(the original drops the remainder of its divisions) and says how far off the estimate may be.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time

import bigm

try:
    import numpy as np
except ModuleNotFoundError:
    sys.exit("bigpi draws its samples with numpy, which is not installed here: pip install 'bigm[examples]'")

log = logging.getLogger("bigpi")

# Samples drawn at a time: two arrays of this many doubles stay in a core's own cache, and numpy's cost per call is
# spread over enough of them (docs/benchmarks.md compares sizes and generators).
BLOCK = 16384


class CirclePI:
    """The service: counts darts that hit the circle."""

    def sample(self, n: int) -> int:
        """Throw *n* darts at the square around a circle of radius 1; return how many hit the circle.

        One quarter of the square is enough, the others look the same.
        """
        random = np.random.Generator(np.random.SFC64())  # seeded by the operating system, differently in each call
        x, y = np.empty(BLOCK), np.empty(BLOCK)
        hits = 0
        for start in range(0, n, BLOCK):
            if n - start < BLOCK:
                x, y = x[: n - start], y[: n - start]
            random.random(out=x)
            random.random(out=y)
            x *= x
            y *= y
            x += y
            hits += int(np.count_nonzero(x <= 1.0))
        return hits


def shares(n: int, parts: int) -> list[int]:
    """Divide *n* samples among *parts* cores: as even as can be, and none lost."""
    return [n * (part + 1) // parts - n * part // parts for part in range(parts)]


def estimate(total: int, n: int) -> tuple[float, float]:
    """Pi from *total* hits among *n* samples, and two standard errors of it: 95 of 100 runs are closer than that."""
    rate = (total + 1) / (n + 2)  # Laplace's: a handful of samples that all hit is no proof
    return 4 * total / n, 2 * 4 * math.sqrt(rate * (1 - rate) / n)


def summary(total: int, n: int, machines: int, seconds: float) -> str:
    """The last line."""
    pi, error = estimate(total, n)
    digits = max(1, int(math.log10(n)))
    margin = f"{error:.{max(0, -math.floor(math.log10(error)))}f}"  # one significant digit
    rate = f"{n / seconds / 1e6:.0f} M samples/s"
    return f"π = {pi:.{digits}f}  (± {margin}, {machines} machine{'s'[: machines > 1]}, {seconds:.1f} s, {rate})"


def positive(text: str) -> int:
    """A command-line argument that counts something."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def main() -> None:
    """The driver's part."""
    parser = argparse.ArgumentParser(description="Estimate pi on a cluster.")
    parser.add_argument("-n", type=positive, default=10**9, metavar="SAMPLES", help="how many (default: 1e9)")
    n = parser.parse_args().n
    logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%Y/%m/%d %H:%M:%S", level="INFO")

    with bigm.start() as cluster:
        machines = cluster.start(cluster.nmach or 5, services={"PI": CirclePI()}, procs="all")
        log.info("waiting for machines to come online")
        for machine in machines:
            machine.wait(bigm.State.RUNNING)
            log.info("machine %s %s", machine.addr, machine.state)
        log.info("all machines are ready")

        cores = [machine for machine in machines for _ in range(machine.maxprocs)]
        log.info("distributing work among %d cores", len(cores))
        begin = time.monotonic()
        calls = [
            machine.submit("PI.sample", share) for machine, share in zip(cores, shares(n, len(cores)), strict=True)
        ]
        total = sum(call.result() for call in calls)
        seconds = time.monotonic() - begin

    log.info("total=%d nsamples=%d", total, n)
    log.info(summary(total, n, len(machines), seconds))


if __name__ == "__main__":
    main()
