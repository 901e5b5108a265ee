from __future__ import annotations

import concurrent.futures
import re
import subprocess
import sys

import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC

import bigm
import sweep
from example_programs import EXAMPLES, refuses, run_example

GRID = {"C": [0.1, 10.0], "gamma": [0.001, 0.1]}
ARGUMENTS = ["C=0.1,10.0", "gamma=0.001,0.1", "--folds", "3"]


@pytest.fixture(scope="module")
def alone() -> list[tuple[dict[str, float], list[float]]]:
    """What scikit-learn finds by itself, in this process."""
    search = GridSearchCV(SVC(), GRID, cv=StratifiedKFold(3)).fit(*load_digits(return_X_y=True))
    scores = zip(*(search.cv_results_[f"split{fold}_test_score"] for fold in range(3)))
    return [(parameters, list(each)) for parameters, each in zip(search.cv_results_["params"], scores)]


@pytest.mark.parametrize("way", [sweep.sweep, sweep.search])
def test_it_finds_what_scikit_learn_finds_by_itself(way, cluster: bigm.Cluster, alone):
    cluster.start(2)
    found = way(cluster, GRID, 3)
    assert [(parameters, sorted(scores)) for parameters, scores in alone] == [
        (parameters, sorted(scores)) for parameters, scores in found
    ]


@pytest.mark.parametrize(("system", "options"), [("local", ["--joblib"]), ("inprocess", [])])
def test_the_best_parameters_are_printed_first(system: str, options: list[str], alone):
    shown = run_example("sweep", *ARGUMENTS, *options, system=system)
    assert [sweep.shape(result) for result in sweep.best_first(alone)] == shown.stdout.splitlines()
    assert "trying 4 sets of parameters on 3 folds" in shown.stderr
    assert options or "12 of 12 fits; best so far: " in shown.stderr


def test_a_machine_that_dies_costs_no_result(cluster: bigm.Cluster, faults, alone, monkeypatch):
    machines = cluster.start(2)
    said = sweep.said

    def killing(fits):
        for done, fit in enumerate(said(fits)):
            if done == 2:
                faults.kill(machines[0])
            yield fit

    monkeypatch.setattr(sweep, "said", killing)
    found = sweep.best_first(sweep.sweep(cluster, GRID, 3))
    assert [sweep.shape(result) for result in sweep.best_first(alone)] == [sweep.shape(result) for result in found]


def test_a_fit_that_fails_ends_the_sweep_with_its_reason():
    shown = run_example("sweep", "C=-1,1", "--folds", "2", system="inprocess", code=1)
    assert re.search(r"^sweep: The 'C' parameter of SVC must be a float", shown.stderr, re.MULTILINE)
    assert "Traceback" not in shown.stderr
    assert "" == shown.stdout


def test_fits_are_not_begun_behind_one_that_failed(cluster: bigm.Cluster, monkeypatch):
    seen: list[concurrent.futures.Future[float]] = []

    def failing(fits):
        seen.extend(fits)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(sweep, "said", failing)
    cluster.start(1)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(cluster, sweep.GRID, 5)
    concurrent.futures.wait(seen, 10)
    assert len([fit for fit in seen if fit.cancelled()]) > 100


def test_mistakes_are_told_before_anything_is_started():
    assert "'C' is not like C=0.1,1,10" in refuses("sweep", "C")
    assert "the model has no parameter 'c': it has C, " in refuses("sweep", "c=1")
    assert "invalid several value: '1'" in refuses("sweep", "--folds", "1")


def test_it_says_how_to_get_scikit_learn_when_it_is_missing():
    program = str(EXAMPLES / "sweep.py")
    code = f"import runpy, sys; sys.modules['sklearn'] = None; runpy.run_path({program!r}, run_name='__main__')"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (1, "") == (shown.returncode, shown.stdout)
    assert "pip install 'bigm[examples]'" in shown.stderr
