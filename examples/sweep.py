"""Try parameters of a model on all cores of a few machines, and say which are best: scikit-learn by the executor.

    bigm run examples/sweep.py                                     30 pairs of C and gamma, five folds each
    bigm run examples/sweep.py kernel=linear,poly C=0.1,1 -- --folds 10
    bigm run examples/sweep.py -- --joblib                         the same by scikit-learn's own GridSearchCV

The model is a support vector classifier that reads handwritten digits, of which scikit-learn brings 1797. Each fit is a
task of `cluster.executor()`. It may be run twice, and lost machines are replaced, so one that dies costs time alone.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import logging
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import bigm

try:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV, ParameterGrid, StratifiedKFold
    from sklearn.svm import SVC
except ModuleNotFoundError:
    sys.exit("sweep fits models of scikit-learn, which is not installed here: pip install 'bigm[examples]'")

log = logging.getLogger("sweep")

GRID = {"C": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0], "gamma": [0.0001, 0.0003, 0.001, 0.003, 0.01]}
TOP = 5  # results that are shown
RETRIES = 2  # machines that may be lost with one fit before that fails

Parameters = dict[str, Any]
Result = tuple[Parameters, list[float]]  # parameters, and the score of each fold


def score(data: Any, parameters: Parameters, fold: int) -> float:
    """Fit a model without one fold of the digits, and judge it by that fold. Runs on machines."""
    images, digits, folds = data
    train, test = folds[fold]
    model = SVC(**parameters).fit(images[train], digits[train])
    return float(model.score(images[test], digits[test]))


def sweep(cluster: bigm.Cluster, grid: dict[str, list[Any]], folds: int) -> list[Result]:
    """The scores of all parameters in *grid*."""
    images, digits = load_digits(return_X_y=True)
    data = cluster.share((images, digits, list(StratifiedKFold(folds).split(images, digits))))
    results: list[Result] = [(parameters, []) for parameters in ParameterGrid(grid)]
    with cluster.executor(retries=RETRIES, replace=True) as pool:
        fits = {
            pool.submit(score, data, result[0], fold): result for fold in range(folds) for result in results
        }  # all parameters on the first fold, then on the next: the best are soon known
        try:
            for fit in said(fits):
                fits[fit][1].append(fit.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def said(fits: dict[concurrent.futures.Future[float], Result]) -> Iterator[concurrent.futures.Future[float]]:
    """*fits* as they are done, while it is said how far that is."""
    shown = time.monotonic()
    for done, fit in enumerate(concurrent.futures.as_completed(fits), 1):
        yield fit
        if time.monotonic() - shown > 1 or done == len(fits):
            shown = time.monotonic()
            log.info("%d of %d fits; best so far: %s", done, len(fits), shape(best_first(fits.values())[0]))


def search(cluster: bigm.Cluster, grid: dict[str, list[Any]], folds: int) -> list[Result]:
    """The same by GridSearchCV, which hands its fits to joblib, and that to the executor."""
    import joblib

    import bigm.joblib  # noqa: F401  # lets joblib know "bigm"

    search = GridSearchCV(SVC(), grid, cv=StratifiedKFold(folds), refit=False)
    with cluster.executor(retries=RETRIES, replace=True) as pool, joblib.parallel_config("bigm", executor=pool):
        found = search.fit(*load_digits(return_X_y=True)).cv_results_
    scores = zip(*(found[f"split{fold}_test_score"].tolist() for fold in range(folds)), strict=True)
    return [(parameters, list(each)) for parameters, each in zip(found["params"], scores, strict=True)]


def best_first(results: Any) -> list[Result]:
    """Results that have scores, the best mean first."""
    return sorted((each for each in results if each[1]), key=lambda each: -statistics.fmean(each[1]))


def shape(result: Result) -> str:
    """A result as a line."""
    parameters, scores = result
    mean, spread = statistics.fmean(scores), statistics.pstdev(scores)
    return f"{mean:.4f} ± {spread:.4f}  " + " ".join(f"{name}={value}" for name, value in parameters.items())


def values(text: str) -> tuple[str, list[Any]]:
    """A command-line argument such as "C=0.1,1,10" or "kernel=rbf,poly"."""
    name, equals, rest = text.partition("=")
    known = SVC().get_params()
    if not equals or not rest:
        raise argparse.ArgumentTypeError(f"{text!r} is not like C=0.1,1,10")
    if name not in known:
        raise argparse.ArgumentTypeError(f"the model has no parameter {name!r}: it has {', '.join(known)}")
    return name, [literal(each) for each in rest.split(",")]


def literal(text: str) -> Any:
    """A number, True, None and the like; else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def several(text: str) -> int:
    """A command-line argument that is two or more."""
    value = int(text)
    if value < 2:
        raise ValueError
    return value


def main() -> None:
    """The driver's part."""
    parser = argparse.ArgumentParser(description="Find the best parameters of a model on a cluster.")
    parser.add_argument("grid", type=values, nargs="*", metavar="NAME=VALUE,...", help="values to try")
    parser.add_argument("--folds", type=several, default=5, help="parts of the data, each of which judges (default: 5)")
    parser.add_argument("--joblib", action="store_true", help="let scikit-learn's own grid search do it")
    args = parser.parse_args()
    grid = dict(args.grid) or GRID
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y/%m/%d %H:%M:%S", level="INFO")

    with bigm.start() as cluster:
        cluster.start(cluster.nmach or 5, procs="all")
        log.info("trying %d sets of parameters on %d folds", len(ParameterGrid(grid)), args.folds)
        try:
            results = (search if args.joblib else sweep)(cluster, grid, args.folds)
        except ValueError as error:
            sys.exit(f"sweep: {error}")

    for result in best_first(results)[:TOP]:
        print(shape(result))


if __name__ == "__main__":
    main()
