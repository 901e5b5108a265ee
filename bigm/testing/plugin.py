"""The plugin of pytest: clusters for tests, with a clock to turn, faults, and a seed that repeats them.

    def test_words_are_counted_although_a_machine_dies(cluster, faults):
        machines = cluster.start(3, services={"Words": Words()})
        ...

pytest imports this at each start where bigm is installed, so nothing of bigm's is imported before a fixture is used.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from bigm.cluster import Cluster
    from bigm.manualclock import ManualClock
    from bigm.testing.faults import Faults

IN_PROCESS = "inprocess"
_OURS = ("cluster", "start_cluster", "faults")  # fixtures whose tests are told the seed when they fail
_FAULTS: pytest.StashKey[list[Faults]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say what can be chosen."""
    group = parser.getgroup("bigm", "programs that form machines")
    group.addoption(
        "--bigm-system",
        metavar="NAME",
        default=IN_PROCESS,
        help=f"where the machines come from (default: {IN_PROCESS})",
    )
    group.addoption(
        "--bigm-seed", metavar="SEED", default="", help="what faults are drawn from (default: a new one each time)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Draw the seed, so that processes of one session share it; refuse a system that there is not."""
    if not config.option.bigm_seed:
        config.option.bigm_seed = str(random.SystemRandom().randrange(1 << 32))
    if config.option.bigm_system != IN_PROCESS:
        from bigm.errors import ConfigError
        from bigm.systems.base import find_system

        try:
            find_system(config.option.bigm_system)
        except ConfigError as error:
            raise pytest.UsageError(f"--bigm-system: {error}") from None


def pytest_report_header(config: pytest.Config) -> str:
    """One line."""
    return f"bigm: system {config.option.bigm_system}, seed {config.option.bigm_seed}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:  # and pytest.TestReport: a generator's value
    """Say with a failure how to repeat it, and what was done to its machines."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed and set(_OURS) & set(getattr(item, "fixturenames", ())):
        report.sections.append(("bigm", _told(item)))
    return report  # type: ignore[return-value]


def _told(item: pytest.Item) -> str:
    seed, system = item.config.option.bigm_seed, item.config.option.bigm_system
    lines = [f"to repeat it: --bigm-seed {seed}" + f" --bigm-system {system}" * (system != IN_PROCESS)]
    for faults in item.stash.get(_FAULTS, []):
        lines += ["what was done to its machines:", *(f"  {line}" for line in faults.history or ["nothing"])]
    return "\n".join(lines)


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> ManualClock:
    """The clock that leases and lifetimes of `cluster`'s machines count by: it stands still until it is turned."""
    if request.config.option.bigm_system != IN_PROCESS:
        pytest.skip("a clock that is turned needs machines in process")
    from bigm.manualclock import ManualClock

    return ManualClock()


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """What goes wrong between `cluster` and its machines.

    What it draws follows from `--bigm-seed` and the test's name. On systems that cannot do what is asked for the test
    is skipped, with that reason.
    """
    from bigm.testing.faults import Faults

    def refuse(sentence: str) -> None:
        pytest.skip(f"{sentence}: --bigm-system is {request.config.option.bigm_system}")

    made = Faults(f"{request.config.option.bigm_seed}/{request.node.nodeid}", refuse=refuse)
    request.node.stash.setdefault(_FAULTS, []).append(made)
    return made


@pytest.fixture
def start_cluster(request: pytest.FixtureRequest, _bigm_home: Path) -> Iterator[Callable[..., Cluster]]:
    """Opens clusters that end with the test: `start_cluster(clock=..., faults=..., name=..., timeouts=...)`.

    `clock` and `faults` are for this cluster alone. All else is as for `bigm.start`; the system is `--bigm-system`.
    """
    chosen = request.config.option.bigm_system
    with contextlib.ExitStack() as ends:

        def start(*, clock: ManualClock | None = None, faults: Faults | None = None, **settings: object) -> Cluster:
            import bigm

            system: object = chosen
            if chosen == IN_PROCESS:
                system = _in_process(clock, faults)
            elif clock is not None:
                pytest.skip("a clock that is turned needs machines in process")
            cluster = ends.enter_context(bigm.start(system, **settings))  # type: ignore[arg-type]
            if faults is not None:
                faults.watch(cluster)
                ends.callback(faults.calm)
            return cluster

        yield start


@pytest.fixture
def cluster(request: pytest.FixtureRequest, start_cluster: Callable[..., Cluster]) -> Cluster:
    """A cluster that ends with the test, with its `clock` and `faults` where the test takes these too."""
    taken = [name for name in ("clock", "faults") if name in request.fixturenames]
    return start_cluster(**{name: request.getfixturevalue(name) for name in taken})


@pytest.fixture
def _bigm_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs of tests are kept where pytest keeps its files, and the user's settings are not seen."""
    folder = tmp_path_factory.getbasetemp() / "bigm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIGM_HOME", str(folder))
        yield folder


def _in_process(clock: ManualClock | None, faults: Faults | None) -> object:
    from bigm.systems.inprocess import InProcess

    return InProcess(network=faults) if clock is None else InProcess(clock=clock, network=faults)
