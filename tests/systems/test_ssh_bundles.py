"""Programs brought to hosts over ssh, where there is nothing of this computer's but a Python."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bigm
import sshd
from bigm.parts import Parts
from bigm.systems.ssh.system import Ssh
from handmade import MINOR, make_bundle

pytestmark = pytest.mark.skipif(bool(sshd.MISSING), reason=sshd.MISSING)


@pytest.fixture(scope="module")
def rig() -> Iterator[sshd.Rig]:
    with sshd.Rig() as rig:
        rig.add("alpha", python=MINOR)
        rig.add("beta", python=MINOR)
        yield rig
        for name in ("alpha", "beta"):
            shutil.rmtree(rig[name].home / ".cache", ignore_errors=True)


def shipped(cluster: bigm.Cluster) -> list[dict[str, Any]]:
    lines = (cluster._session.run.folder / "events.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == "shipped" and e["cluster"] == cluster.name]


def test_hosts_run_what_was_brought_and_keep_it_for_the_next_run(rig: sshd.Rig, tmp_path: Path) -> None:
    bundle = make_bundle(Parts(str(tmp_path / "driver")), data=os.urandom(3_000_000))
    size = sum(bundle.parts().values())
    with bigm.start(Ssh(hosts=["alpha*2", "beta"], config=rig.config)) as cluster:
        machines = cluster.start(3, bundle=bundle)
        cluster.wait(timeout=120.0)
        assert {machine.run(os.path.getsize, "data") for machine in machines} == {3_000_000}
        assert {machine.bundle for machine in machines} == {bundle.digest}
        roots = {str(machine._clients[0].call("Supervisor.info").sys_path[-1]) for machine in machines}
        assert roots == {
            f"{rig[name].home}/.cache/bigm/kept/tree-{bundle.machine.digest}" for name in ("alpha", "beta")
        }
        first = sum(event["sent"] for event in shipped(cluster))
        assert 2 * size < first < 2 * size + 3 * 150_000  # a copy for each host, and each agent's extension
    with bigm.start(Ssh(hosts=["alpha", "beta"], config=rig.config)) as cluster:
        cluster.start(2, bundle=bundle)
        cluster.wait(timeout=120.0)
        assert sum(event["sent"] for event in shipped(cluster)) < 2 * 150_000
    assert [] == [*(rig["alpha"].home / ".cache" / "bigm" / "users").iterdir()], "a machine left what it was receiving"


def test_a_connection_that_is_cut_while_shipping_costs_nothing_but_time(rig: sshd.Rig, tmp_path: Path) -> None:
    bundle = make_bundle(Parts(str(tmp_path / "driver")), **{f"data{n}": os.urandom(8_000_000) for n in range(4)})
    with bigm.start(Ssh(hosts=["alpha"], config=rig.config)) as cluster:
        [machine] = cluster.start(1, bundle=bundle)
        with cluster._board:
            assert cluster._board.wait_for(lambda: cluster._bundles.status() != "", 60.0)
        assert rig["alpha"].cut()
        cluster.wait(timeout=120.0)
        assert machine.run(os.path.getsize, "data3") == 8_000_000


@pytest.mark.slow
def test_hosts_that_can_dial_one_another_fetch_parts_and_one_copy_leaves_the_driver(
    rig: sshd.Rig, tmp_path: Path
) -> None:
    bundle = make_bundle(Parts(str(tmp_path / "driver")), **{f"data{n}": os.urandom(4_000_000) for n in range(4)})
    size = sum(bundle.parts().values())
    with bigm.start(Ssh(hosts=["alpha", "beta"], config=rig.config, peers="direct")) as cluster:
        machines = cluster.start(2, bundle=bundle)
        cluster.wait(timeout=120.0)
        assert [4_000_000] * 2 == [machine.run(os.path.getsize, "data3") for machine in machines]
        fetched = sum(event["fetched"] for event in shipped(cluster))
        sent = sum(event["sent"] for event in shipped(cluster))
        assert fetched >= 0.7 * size
        assert sent <= 1.3 * size
