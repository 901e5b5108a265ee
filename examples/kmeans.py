"""Find clusters of points with k-means (Lloyd's algorithm) on every core of a few machines.

    bigm run examples/kmeans.py                               a million points, five processes
    bigm run examples/kmeans.py --nmach 2 -- -n 100000 -k 4   fewer points, machines and clusters
    bigm run examples/kmeans.py -- --points points.npy        your own: an array with a row for each point

The points are shared: each machine is sent them once, not with each call. In each step every core adds up its part of
them, by the centre that is closest; what goes back and forth is centres and sums.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import bigm

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # each core has a worker of its own; read when numpy is imported
try:
    import numpy as np
except ModuleNotFoundError:
    sys.exit("kmeans computes with numpy, which is not installed here: pip install 'bigm[examples]'")

log = logging.getLogger("kmeans")

BLOCK = 8192  # points whose distances are in memory at a time: they stay in a core's own cache
SAMPLE = 1000  # points for each centre, among which the first centres are sought

Array = Any  # numpy's, with a row for each point, or centre


class KMeans:
    """The service: one core's part of a step."""

    def add_up(self, points: Array, first: int, last: int, centres: Array) -> tuple[Array, Array, float]:
        """Of the points from *first* to before *last*, by the closest of *centres*: sums, counts, squared distances."""
        sums, counts, far = np.zeros(centres.shape), np.zeros(len(centres), int), 0.0
        for begin in range(first, last, BLOCK):
            block = points[begin : min(begin + BLOCK, last)]
            # |p - c|² is |p|² - 2pc + |c|², and |p|² makes no difference to which centre is the closest.
            distances = (centres**2).sum(axis=1) - 2 * block @ centres.T
            closest = distances.argmin(axis=1)
            counts += np.bincount(closest, minlength=len(centres))
            for column, values in enumerate(block.T):
                sums[:, column] += np.bincount(closest, values, minlength=len(centres))
            far += float((block**2).sum() + distances.min(axis=1).sum())
        return sums, counts, far


def draw(n: int, k: int, dims: int, seed: int) -> Array:
    """*n* points around *k* centres."""
    random = np.random.default_rng(seed)
    return random.uniform(-10, 10, (k, dims))[random.integers(k, size=n)] + random.normal(size=(n, dims))


def begin(points: Array, k: int, seed: int) -> Array:
    """*k* of the points as first centres: each the likelier the farther it is from those before it (k-means++)."""
    random = np.random.default_rng(seed)
    sample = points[random.choice(len(points), min(len(points), SAMPLE * k), replace=False)]
    centres, far = [sample[0]], np.full(len(sample), np.inf)
    for _ in range(k - 1):
        far = np.minimum(far, ((sample - centres[-1]) ** 2).sum(axis=1))
        if not far.any():
            raise ValueError(f"there are only {len(centres)} different points among those for {k} centres")
        centres.append(sample[random.choice(len(sample), p=far / far.sum())])
    return np.array(centres)


def fit(
    machines: Sequence[bigm.Machine], points: object, n: int, centres: Array, steps: int, tolerance: float
) -> tuple[Array, Array]:
    """Move *centres* until none moves farther than *tolerance*, in at most *steps* steps; them, and the points of each.

    Args:
        points: *n* of them, or their shared handle.
    """
    cores = [machine for machine in machines for _ in range(machine.procs)]
    bounds = [n * core // len(cores) for core in range(len(cores) + 1)]
    for step in range(1, steps + 1):
        started = time.monotonic()
        calls = [
            machine.submit("KMeans.add_up", points, bounds[core], bounds[core + 1], centres)
            for core, machine in enumerate(cores)
        ]
        sums, counts, far = map(sum, zip(*[call.result() for call in calls], strict=True))
        some = counts > 0  # a centre without points stays where it is
        moved = centres.copy()
        moved[some] = sums[some] / counts[some, None]
        way = np.sqrt(((moved - centres) ** 2).sum(axis=1)).max()
        centres = moved
        seconds = time.monotonic() - started
        log.info("step %d: mean squared distance %.4f, moved %.4f, %.2f s", step, far / n, way, seconds)
        if way <= tolerance:
            break
    return centres, counts


def load(path: str) -> Array:
    """A command-line argument that names an array of points."""
    try:
        points = np.load(path, allow_pickle=False)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, EOFError):
        raise argparse.ArgumentTypeError(f"{path} is no array, as numpy.save writes it") from None
    if not isinstance(points, np.ndarray) or points.ndim != 2 or points.dtype.kind not in "iuf":
        raise argparse.ArgumentTypeError(f"{path} has no rows of numbers")
    if not np.isfinite(points).all():
        raise argparse.ArgumentTypeError(f"{path} has numbers that are not finite")
    return points.astype(float)


def positive(text: str) -> int:
    """A command-line argument that counts something."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def main() -> None:
    """The driver's part."""
    parser = argparse.ArgumentParser(description="Find clusters of points on a cluster.")
    parser.add_argument("-n", type=positive, default=10**6, help="how many points are drawn (default: 1e6)")
    parser.add_argument("-d", "--dims", type=positive, default=8, help="of how many dimensions (default: 8)")
    parser.add_argument("--points", type=load, metavar="FILE", help="an array of points to read instead (.npy)")
    parser.add_argument("-k", type=positive, default=5, help="how many clusters (default: 5)")
    parser.add_argument("--steps", type=positive, default=100, help="at most (default: 100)")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="a way that is no move (default: 0.0001)")
    parser.add_argument("--seed", type=int, default=1, help="what is drawn follows from it (default: 1)")
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y/%m/%d %H:%M:%S", level="INFO")

    try:
        points = draw(args.n, args.k, args.dims, args.seed) if args.points is None else args.points
        centres = begin(points, args.k, args.seed)
    except ValueError as error:
        parser.error(str(error))

    with bigm.start() as cluster:
        machines = cluster.start(cluster.nmach or 5, services={"KMeans": KMeans()}, procs="all")
        cluster.wait(machines)
        log.info("%s points of %d dimensions, %.0f MB", f"{len(points):,}", points.shape[1], points.nbytes / 1e6)
        shared = cluster.share(points)
        centres, counts = fit(machines, shared, len(points), centres, args.steps, args.tolerance)

    for count, centre in sorted(zip(counts, centres.tolist(), strict=True), reverse=True):
        print(f"{count:9,} points around", *(f"{x:6.2f}" for x in centre))


if __name__ == "__main__":
    main()
