from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import bigm
from bigm import costs
from bigm.bootstrap.records import Launch
from bigm.cli.ps import ps
from bigm.config import load
from bigm.costs import Budget, Ledger
from bigm.errors import CredentialsError
from bigm.runs import MachineInfo, Run, read_events, read_run
from bigm.session import exit_status
from bigm.systems.base import Capabilities, Instance, Launched, Spec
from cluster_services import Counter
from priced import Priced
from waiting import eventually

HOUR = 3600.0


class Turned:
    """A clock that is turned, and what is due by it."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def __call__(self) -> float:
        return self.time

    def after(self, delay: float, function: Callable[[], None]) -> None:
        self.due.append((self.time + delay, function))

    def turn(self, seconds: float) -> None:
        end = self.time + seconds
        while self.due and min(when for when, _ in self.due) <= end:
            when, function = min(self.due, key=lambda item: item[0])
            self.due.remove((when, function))
            self.time = when
            function()
        self.time = end


def test_a_machine_costs_its_price_by_the_hour_until_it_has_ended() -> None:
    clock = Turned()
    ledger = Ledger(clock)
    assert ledger.total() is None
    ledger.began("i-1", 0.10, "a")
    ledger.began("i-2", 0.40, "b")
    ledger.began("i-3", None, "b")
    clock.turn(HOUR)
    ledger.ended("i-1")
    ledger.ended("i-3")
    clock.turn(HOUR)
    ledger.ended("i-1")
    assert (0.10, 0.80) == (ledger.total("a"), ledger.total("b"))
    assert pytest.approx(0.90) == ledger.total()
    assert 0.40 == ledger.rate()


def test_a_budget_warns_at_four_fifths_and_ends_once() -> None:
    clock, said = Turned(), list[tuple[float, str]]()
    ledger = Ledger(clock)
    budget = Budget(
        10.0,
        ledger,
        after=clock.after,
        warn=lambda text: said.append((clock.time, f"warned: {text}")),
        over=lambda text: said.append((clock.time, f"over: {text}")),
    )
    ledger.began("i-1", 1.0)
    budget.look()
    clock.turn(4 * HOUR)
    ledger.began("i-2", 3.0)  # at 4 dollars: 8 are reached one hour later, 10 after another half
    budget.look()
    assert not budget.reached
    clock.turn(2 * HOUR)
    assert [
        (1000.0 + 5 * HOUR, "warned: the run has cost about $8.00 of its $10.00; at that its machines are ended"),
        (1000.0 + 5.5 * HOUR, "over: the run has cost about $10.00 of its $10.00"),
    ] == [(pytest.approx(when, abs=1.0), text) for when, text in said]
    assert budget.reached
    clock.turn(100 * HOUR)
    assert 2 == len(said)


def test_a_run_without_a_limit_is_never_looked_at() -> None:
    clock = Turned()
    budget = Budget(None, Ledger(clock), after=clock.after, warn=pytest.fail, over=pytest.fail)
    budget.look()
    assert ([], False) == (clock.due, budget.reached)


@pytest.mark.parametrize(
    ("amount", "text"), [(1234.5, "$1,234.50"), (0.031, "$0.03"), (0.0042, "$0.004"), (0.0, "$0.00"), (1e-7, "$0.00")]
)
def test_an_amount_has_the_digits_that_matter(amount: float, text: str) -> None:
    assert text == costs.dollars(amount)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.14, "3.1 s"), (42.4, "42 s"), (252.0, "4 min 12 s"), (59.9, "1 min 0 s"), (11100.0, "3 h 5 min")],
)
def test_a_time_has_the_units_that_matter(seconds: float, text: str) -> None:
    assert text == costs.took(seconds)


def test_what_takes_too_long_or_fails_has_no_answer() -> None:
    late = threading.Event()
    assert costs.promptly(lambda: late.wait(30.0), 0.01) is None
    late.set()
    assert costs.promptly(lambda: int("x"), 5.0) is None
    assert 5 == costs.promptly(lambda: 5, 5.0)


class Offering(Priced):
    """Tells what it will cost."""

    def offer(self, spec: Spec) -> str:
        return "m0.tiny, spot"

    def estimate(self, n: int, spec: Spec) -> float | None:
        return None if self.price is None else n * self.price


def test_a_start_says_what_it_costs_and_an_end_that_nothing_is_left(capfd: pytest.CaptureFixture[str]) -> None:
    with bigm.start(Offering(price=360.0)) as cluster:
        machines = cluster.start(2, services={"C": Counter()})
        cluster.wait(machines, timeout=60.0)
        eventually(lambda: (cluster._session.costs.total(cluster.id) or 0.0) > 0.011)
        folder = cluster._session.run.folder
    said = capfd.readouterr().err
    assert "starting 2 machines on priced: m0.tiny, spot, about $720.00 an hour\n" in said
    last = said.splitlines()[-1]
    assert last.startswith("bigm: 0 machines left, ")
    assert "$" in last
    [event] = [event for event in read_events(folder) if event["event"] == "left" and event["cluster"] == cluster.name]
    assert [] == event["instances"]
    assert event["cost"] > 0.011


@pytest.mark.parametrize("trouble", ["unknown", "slow", "broken"])
def test_a_price_that_is_not_known_holds_up_no_launch(
    trouble: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigm.launching._PRICED", 0.1)
    asked = threading.Event()

    class Troubled(Priced):
        def estimate(self, n: int, spec: Spec) -> float | None:
            if trouble == "slow":
                asked.wait(30.0)
            if trouble == "broken":
                raise RuntimeError("no prices today")
            return None

    with bigm.start(Troubled(price=None)) as cluster:
        assert 1 == len(cluster.start(1, services={"C": Counter()}))
        asked.set()
    said = capfd.readouterr().err
    assert "starting 1 machine on priced\n" in said
    assert "0 machines left, " in said
    assert "$" not in said


def test_what_is_left_is_named_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    class Stuck(Offering):
        def describe(self, ids: Any = None) -> list[Instance]:
            return [*super().describe(ids), Instance("i-0stuck", state="running")]

    with bigm.start(Stuck()) as cluster:
        cluster.start(1, services={"C": Counter()})
    assert "1 machine left, " in (said := capfd.readouterr().err)
    assert said.endswith("still there: i-0stuck\n")


@pytest.mark.parametrize(("ran", "asks"), [(False, False), (True, True)])
def test_credentials_that_let_nothing_be_started_are_told_of_once(
    capfd: pytest.CaptureFixture[str], ran: bool, asks: bool
) -> None:
    class Locked(Priced):
        valid = ran

        def launch(self, n: int, spec: Spec, boot: Launch, launch_id: str) -> Launched:
            if not self.valid:
                raise CredentialsError("there are none")
            return super().launch(n, spec, boot, launch_id)

        def describe(self, ids: Any = None) -> list[Instance]:
            if not self.valid:
                raise CredentialsError("there are none")
            return super().describe(ids)

    system = Locked()
    with contextlib.suppress(CredentialsError), bigm.start(system) as cluster:
        cluster.start(1, services={"C": Counter()})
        system.valid = False
    assert asks is ("priced could not be asked whether machines are left: there are none" in capfd.readouterr().err)


def test_a_run_that_has_cost_what_it_may_ends_its_machines_and_starts_no_more(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with bigm.start(Offering(price=360.0), max_cost=1.0) as cluster:  # ten cents a second
        other = cluster._session.costs.total() or 0.0
        cluster._budget.limit = 1.0 + other  # the tests of a process are one run
        [machine] = cluster.start(1, services={"C": Counter()})
        with pytest.raises(bigm.MachineStopped, match=r"maximum cost: the run has cost about \$") as caught:
            machine.call("C.sleep", 60.0)
        assert ("cost", 79) == (caught.value.cause, exit_status(caught.value))
        with pytest.raises(bigm.MachineStopped, match="no machine is started any more: the run has cost about") as late:
            cluster.start(1, services={"C": Counter()})
        assert 79 == exit_status(late.value)
    said = capfd.readouterr().err
    assert "; at that its machines are ended\n" in said
    assert ": ending 1 machine\n" in said
    assert 1 == said.count("of its $") - said.count("; at that")  # of many machines, too, it is said once


def test_a_limit_that_cannot_be_kept_is_refused_before_anything_is_launched() -> None:
    class Elsewhere(Priced):
        capabilities = Capabilities(in_place=True, prices=True)

    system = Elsewhere(price=None)
    with bigm.start(system, max_cost="$5") as cluster:
        with pytest.raises(bigm.ConfigError, match=r"may cost \$5.00, and what machines on priced cost is not known"):
            cluster.start(1, services={"C": Counter()})
    assert [] == system.specs


@pytest.mark.parametrize("wrong", ["0", "-1", "much", "inf", "nan", True])
def test_a_limit_is_an_amount_of_dollars(wrong: Any) -> None:
    with pytest.raises(bigm.ConfigError, match="max_cost must be US dollars"):
        bigm.start("inprocess", max_cost=wrong)


def test_a_machine_that_does_not_end_at_its_age_is_ended_by_its_driver() -> None:
    class Ageless(Priced):
        def launch(self, n: int, spec: Spec, boot: Any, launch_id: str) -> Any:
            return super().launch(n, spec, boot._replace(lifetime=HOUR), launch_id)

    with bigm.start(Ageless(), timeouts={"lifetime": 3.0}) as cluster:
        [machine] = cluster.start(1, services={"C": Counter()})
        with pytest.raises(bigm.MachineStopped, match="its lifetime of 3 s is over") as caught:
            machine.call("C.sleep", 60.0)
        assert ("lifetime", 79) == (caught.value.cause, exit_status(caught.value))


def test_what_a_run_has_cost_is_told_while_it_lives_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with bigm.start(Offering(price=360.0)) as cluster:
        [machine] = cluster.start(1, services={"C": Counter()})
        machine.wait(timeout=30.0)
        run = cluster._session.run
        label = cluster._stewards[0].label
        ps(str(run.folder), everything=False, as_json=True)
        [told] = json.loads(capsys.readouterr().out)
        [mine] = [one for one in told["machines"] if one["machine"] == label]
        assert 0.0 < mine["cost"] <= told["cost"]
        ps(str(run.folder), everything=False, as_json=False)
        assert {"COST", "TYPE", "ZONE"} <= set(capsys.readouterr().out.split())
    another = Run.create(load(), "costly.py")
    another.finish(0, "", 1.5)
    assert 1.5 == read_run(another.folder.parent, another.id).cost


def test_what_a_machine_costs_is_not_told_where_nobody_knows() -> None:
    assert MachineInfo("m0", since=10.0).cost(20.0) is None
    assert 1.0 == MachineInfo("m0", since=0.0, until=HOUR, price=1.0).cost(time.time())
