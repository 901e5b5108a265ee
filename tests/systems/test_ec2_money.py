"""What a run on EC2 says of its cost and of its machines' ends, from the terminal and in the program, on the rig."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bigm
from bigm.config import load
from bigm.runs import list_runs, read_events
from ec2rig import money
from ec2rig.driving import start_machines
from ec2rig.rig import Rig
from waiting import eventually

PROGRAM = """
import sys, time
import bigm

class Napping:
    def nap(self, seconds):
        print("napping", flush=True)
        time.sleep(seconds)
        return seconds

with bigm.start() as cluster:
    machines = cluster.start(cluster.nmach, services={"Napping": Napping()})
    cluster.wait(machines)
    print([machine.submit("Napping.nap", float(sys.argv[1])).result() for machine in machines])
"""


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Rig]:
    (tmp_path / "none.txt").touch()
    (tmp_path / "nap.py").write_text(PROGRAM)
    monkeypatch.setenv("BIGM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BIGM_BUNDLE_REQUIREMENTS", str(tmp_path / "none.txt"))
    monkeypatch.setenv("HOME", str(tmp_path))  # what pip asks for its version leaves a folder there
    monkeypatch.chdir(tmp_path)
    with Rig() as rig:
        rig.use(monkeypatch)
        yield rig
        eventually(rig.is_empty, 20.0, rig.describe)


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bigm", "run", "--system", "ec2", *words],
        env={**os.environ, "PYTHONPATH": str(Path(bigm.__file__).parents[1]), **variables},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_a_run_says_what_it_costs_before_and_after_and_that_nothing_is_left(rig: Rig) -> None:
    ran = run("--max-cost", "5", "--nmach", "2", "nap.py", "0.1")  # with a limit the price is waited for
    assert (0, "[0.1, 0.1]\n") == (ran.returncode, ran.stdout), ran.stderr + rig.describe()
    said = [line for line in ran.stderr.splitlines() if line.startswith("bigm: ")]
    assert "bigm: starting 2 machines on ec2: m7i-flex.large or alike, spot, about $0.08 an hour" == said[0]
    assert any(line.startswith("bigm: 2 machines RUNNING after ") for line in said), said
    assert said[-1].startswith("bigm: 0 machines left, ")
    assert "$" in said[-1]
    [info] = list_runs(load().runs_folder)
    one, _ = info.machines()
    assert ("m7i-flex.large", True, money.SPOT) == (one.type, one.spot, one.price)
    assert one.zone.startswith("eu-central-1")
    assert one.maxprocs >= 1
    assert one.memory > 2**28
    assert info.cost is not None
    assert 0.0 < info.cost < 0.01
    assert 1 == len(rig.calls("DescribeSpotPriceHistory"))
    assert [] == rig.calls("GetProducts")


def test_a_run_that_may_not_ask_for_prices_goes_on_without(rig: Rig) -> None:
    rig.fail("DescribeSpotPriceHistory", "UnauthorizedOperation", times=9)
    ran = run("--nmach", "1", "nap.py", "0.1")
    assert (0, "[0.1]\n") == (ran.returncode, ran.stdout), ran.stderr
    assert "bigm: starting 1 machine on ec2: m7i-flex.large or alike, spot\n" in ran.stderr
    assert "$" not in ran.stderr
    capped = run("--max-cost", "5", "--nmach", "1", "nap.py", "0.1")
    assert 2 == capped.returncode
    assert "the run may cost $5.00, and what machines on ec2 cost is not known" in capped.stderr


def test_a_run_that_reaches_its_maximum_cost_ends_with_79_and_leaves_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(money, "SPOT", 36.0)  # a cent a second
    ran = run("--max-cost", "0.10", "--nmach", "1", "nap.py", "60")
    assert 79 == ran.returncode, ran.stderr
    assert "; at that its machines are ended" in ran.stderr
    assert "of its $0.10: ending 1 machine\n" in ran.stderr
    assert "0 machines left, " in ran.stderr


def test_a_wrong_type_is_said_though_a_price_was_wanted(rig: Rig) -> None:
    ran = run("--max-cost", "5", "--nmach", "1", "nap.py", "60", BIGM_EC2_INSTANCE_TYPES="m7i.larg")
    assert 2 == ran.returncode
    assert "m7i.larg" in ran.stderr


def test_a_lifetime_ends_the_program_with_79(rig: Rig) -> None:
    ran = run("--max-lifetime", "20s", "--nmach", "1", "nap.py", "120")
    assert 79 == ran.returncode, ran.stderr
    assert "its lifetime of 20 s is over" in ran.stderr


def test_a_spot_notice_reaches_driver_program_and_service_and_then_the_end_says_why(rig: Rig) -> None:
    with bigm.start("ec2", name="spot") as cluster:
        [machine] = start_machines(cluster, 1)
        heard: list[float] = []
        machine.on_preempt(lambda _, seconds: heard.append(seconds))
        folder, label = cluster._session.run.folder, cluster._stewards[0].label

        def events(name: str) -> list[dict[str, Any]]:
            return [one for one in read_events(folder) if one["event"] == name and one.get("machine") == label]

        [id] = rig.running()
        rig.metadata[id].advise_rebalance()
        eventually(lambda: events("rebalance"), 20.0, rig.describe)
        rig.metadata[id].interrupt(120.0)
        eventually(lambda: heard, 20.0, rig.describe)
        assert 100.0 < heard[0] <= 120.0
        assert 1 == len(events("preempted"))
        rig.terminate(id)
        with pytest.raises(bigm.MachineStopped) as caught:
            machine.run(time.sleep, 60.0)
        assert "gone" == caught.value.cause
