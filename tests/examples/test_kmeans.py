from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bigm
import kmeans
from example_programs import EXAMPLES, refuses, run_example


def by_numpy(points: np.ndarray, centres: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm as a textbook has it."""
    for _ in range(steps):
        distances = np.linalg.norm(points[:, None, :] - centres[None, :, :], axis=2)
        closest = distances.argmin(axis=1)
        centres = np.array(
            [points[closest == i].mean(axis=0) if (closest == i).any() else c for i, c in enumerate(centres)]
        )
    return centres, np.bincount(closest, minlength=len(centres))


def started(cluster: bigm.Cluster, n: int) -> list[bigm.Machine]:
    machines = cluster.start(n, services={"KMeans": kmeans.KMeans()})
    cluster.wait(machines)
    return machines


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("share", [True, False])
def test_the_centres_are_those_of_numpy_in_one_process(cluster: bigm.Cluster, n: int, share: bool):
    """More blocks than one for each core, and a number of points that no number of cores divides."""
    points = kmeans.draw(50_021, 4, 3, seed=n)
    first = points[:4]
    machines = started(cluster, n)
    argument = cluster.share(points) if share else points
    centres, counts = kmeans.fit(machines, argument, len(points), first, steps=7, tolerance=-1.0)
    expected, sizes = by_numpy(points, first, 7)
    np.testing.assert_allclose(centres, expected, rtol=1e-9)
    assert sizes.tolist() == counts.tolist()


def test_it_stops_when_no_centre_moves(cluster: bigm.Cluster, caplog: pytest.LogCaptureFixture):
    points = kmeans.draw(1000, 3, 2, seed=1)
    with caplog.at_level("INFO"):
        centres, _ = kmeans.fit(started(cluster, 1), points, 1000, kmeans.begin(points, 3, 1), 100, 0.0)
    steps = [record.getMessage() for record in caplog.records]
    assert len(steps) < 100
    assert "moved 0.0000" in steps[-1]
    np.testing.assert_allclose(by_numpy(points, centres, 1)[0], centres)


def test_a_centre_without_points_stays_where_it_is(cluster: bigm.Cluster):
    points = np.ones((10, 2))
    far = np.array([[1.0, 1.0], [50.0, 50.0]])
    centres, counts = kmeans.fit(started(cluster, 2), points, 10, far, 3, 0.0)
    assert [[1.0, 1.0], [50.0, 50.0]] == centres.tolist()
    assert [10, 0] == counts.tolist()


@pytest.mark.parametrize("system", ["local", "inprocess"])
def test_it_finds_the_clusters_of_a_file(system: str, tmp_path: Path):
    random = np.random.default_rng(4)
    points = np.concatenate([random.normal(at, 0.1, (count, 2)) for at, count in [(0, 300), (5, 200), (-5, 100)]])
    np.save(tmp_path / "points.npy", points)
    shown = run_example("kmeans", "--points", tmp_path / "points.npy", "-k", "3", system=system)
    found = [re.split(r" points around\s+", line.strip()) for line in shown.stdout.splitlines()]
    assert ["300", "200", "100"] == [count for count, _ in found]
    centres = [[float(x) for x in centre.split()] for _, centre in found]
    np.testing.assert_allclose([[0, 0], [5, 5], [-5, -5]], centres, atol=0.05)
    assert "600 points of 2 dimensions" in shown.stderr


def test_a_machine_that_is_killed_fails_the_step_at_once(cluster: bigm.Cluster, faults):
    machines = started(cluster, 2)
    shared = cluster.share(kmeans.draw(1000, 2, 2, 1))
    faults.kill(machines[1])
    with pytest.raises(bigm.MachineStopped, match="m1"):
        kmeans.fit(machines, shared, 1000, np.zeros((2, 2)), 100, 0.0)


def test_mistakes_are_told_before_anything_is_started(tmp_path: Path):
    (tmp_path / "text").write_text("1 2 3")
    np.save(tmp_path / "flat.npy", np.arange(3))
    np.save(tmp_path / "nan.npy", np.array([[np.nan]]))
    assert "cannot read gone.npy: No such file or directory" in refuses("kmeans", "--points", "gone.npy")
    assert "text is no array, as numpy.save writes it" in refuses("kmeans", "--points", tmp_path / "text")
    assert "flat.npy has no rows of numbers" in refuses("kmeans", "--points", tmp_path / "flat.npy")
    assert "nan.npy has numbers that are not finite" in refuses("kmeans", "--points", tmp_path / "nan.npy")
    assert "invalid positive value: '0'" in refuses("kmeans", "-k", "0")
    assert "only 3 different points among those for 5 centres" in refuses("kmeans", "-n", "3")
    assert "non-negative" in refuses("kmeans", "--seed=-1")


def test_it_says_how_to_get_numpy_when_it_is_missing():
    program = str(EXAMPLES / "kmeans.py")
    code = f"import runpy, sys; sys.modules['numpy'] = None; runpy.run_path({program!r}, run_name='__main__')"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (1, "") == (shown.returncode, shown.stdout)
    assert "pip install 'bigm[examples]'" in shown.stderr
    assert "Traceback" not in shown.stderr
