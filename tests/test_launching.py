from __future__ import annotations

import json
import threading
from typing import Any

import pytest

import bigm
from bigm.cli.ps import ps
from bigm.errors import CapacityError
from bigm.launching import Digest
from bigm.runs import read_run
from cluster_services import Counter
from priced import Priced


def test_with_fewer_machines_than_it_needs_a_start_keeps_none_and_names_the_causes() -> None:
    system = Priced(room=2)
    with bigm.start(system) as cluster:
        with pytest.raises(CapacityError) as caught:
            cluster.start(5, services={"C": Counter()}, min_mach=3)
        assert (
            "only 2 of 5 machines could be launched on priced, and at least 3 are wanted, so none is kept: "
            "no room for m0.tiny in nowhere-1a; ask for other types"
        ) == str(caught.value)
        assert (2, []) == (len(system.ended), cluster.machines)
        assert (set(), 77) == (cluster._launcher.unsettled, caught.value.exit_code)


def test_the_setting_holds_for_starts_of_as_many_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGM_MIN_MACH", "2")
    with bigm.start(Priced(room=1)) as cluster:
        [machine] = cluster.start(1, services={"C": Counter()})
        with pytest.raises(CapacityError, match=r"only 1 of 3 machines .* at least 2 are wanted"):
            cluster.start(3, services={"C": Counter()})
        assert [machine] == cluster.machines
        assert 1 == len(cluster.start(3, services={"C": Counter()}, min_mach=1))


@pytest.mark.parametrize("wrong", [0, 4, True, "2"])
def test_a_start_needs_no_more_machines_than_it_asks_for(wrong: Any) -> None:
    with bigm.start("inprocess") as cluster, pytest.raises(bigm.ConfigError, match="a number from 1 to the 3 that are"):
        cluster.start(3, services={"C": Counter()}, min_mach=wrong)


class Meanwhile:
    """An authority in whose first answer another thread goes through with a launch."""

    def __init__(self, cluster: bigm.Cluster) -> None:
        self._real = cluster._authority
        self._other: threading.Thread | None = threading.Thread(target=cluster._launcher.launch, args=(1,))

    @property
    def cluster(self) -> str:
        other, self._other = self._other, None
        if other is not None:
            other.start()
            other.join()
        return self._real.cluster

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def test_two_launches_at_once_have_an_id_each() -> None:
    with bigm.start(Priced()) as cluster:
        cluster._launcher._authority = Meanwhile(cluster)  # type: ignore[assignment]
        cluster._launcher.launch(1)
        assert 2 == len({instance.launch for instance in cluster._system.describe()})


def test_a_machine_tells_what_its_system_launched_for_it() -> None:
    with bigm.start(Priced()) as cluster:
        [machine] = cluster.start(1, services={"C": Counter()})
        told = machine.instance
        assert told is not None
        assert ("m0.tiny", "nowhere-1a", True, 0.0425) == (told.type, told.zone, told.spot, told.price)
        assert cluster.dial("127.0.0.1:1/m7").instance is None


def test_a_run_tells_kind_zone_and_price_of_each_machine(capsys: pytest.CaptureFixture[str]) -> None:
    with bigm.start(Priced()) as cluster:
        [machine] = cluster.start(1, services={"C": Counter()})
        machine.wait(timeout=30.0)
        folder = cluster._session.run.folder
        label = cluster._stewards[0].label
        assert "<th style='text-align:left'>type</th>" in (cluster._repr_html_())
        assert "m0.tiny (spot)" in cluster._repr_html_()
    told = next(one for one in read_run(folder.parent, folder.name).machines() if one.machine == label)
    assert ("m0.tiny", "nowhere-1a", True, 0.0425) == (told.type, told.zone, told.spot, told.price)
    assert (machine.maxprocs, True) == (told.maxprocs, told.memory > 2**20)
    ps(str(folder), everything=False, as_json=False)
    [head] = [line.split() for line in capsys.readouterr().out.splitlines() if "MACHINE " in line]
    assert ["MACHINE", "STATE", "ADDRESS", "CPUS", "MEMORY", "TYPE", "ZONE", "UPTIME", "COST", "CAUSE"] == head
    ps(str(folder), everything=False, as_json=True)
    [run] = json.loads(capsys.readouterr().out)
    assert "m0.tiny" in [one["type"] for one in run["machines"]]


def test_a_system_is_told_program_and_arguments_as_the_title_of_its_instances() -> None:
    system = Priced()
    with bigm.start(system) as cluster:
        cluster.start(1, services={"C": Counter()})
        info = cluster._session.run.info
    [spec] = system.specs
    assert " ".join([info.program, *info.argv]) == spec.title


def test_the_digest_of_a_bundle_that_is_made_soon_is_in_the_title() -> None:
    digest = Digest()
    digest.tell("3f2a1b")
    assert "3f2a1b" == digest.known()
