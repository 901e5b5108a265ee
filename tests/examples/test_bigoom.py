from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import bigm
import bigoom
from example_programs import ROOT, refuses, run_example

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on a process's memory: Linux only")


def shape(stdout: str) -> list[str]:
    return [re.sub(r"\d+\.\d+\.\d+\.\d+:\d+|\d\d+", "0", line) for line in stdout.splitlines()]


@LINUX
def test_gently_the_call_raises_memory_error_and_everybody_lives_on():
    shown = run_example("bigoom", "--gently", "--limit", "96M", nmach=3)
    assert [
        "m2 could take no more: MemoryError",
        "m0 is RUNNING",
        "m1 is RUNNING",
        "m2 is RUNNING",
    ] == shown.stdout.splitlines()
    assert "m2 has taken 6 MiB; 2 others answer" in shown.stderr


@pytest.mark.root
def test_the_kernels_kill_is_explained_and_the_others_go_on():
    shown = run_example("bigoom", "--limit", "96M", nmach=3)
    if "cannot make a cgroup" in shown.stderr or "will not be killed" in shown.stderr:
        pytest.skip("no memory cgroup can be made here")
    assert [
        "m2 is dead, cause memory: machine 0/m2 stopped: the kernel killed a worker for want of memory: "
        "worker 0 (pid 0) was killed by the kernel: it ran out of memory",
        "m0 is RUNNING",
        "m1 is RUNNING",
        "m2 is STOPPED",
    ] == shape(shown.stdout)
    page = (ROOT / "docs" / "examples.md").read_text()
    assert set(shape(shown.stdout)) <= {line.strip() for line in shape(page)}
    folder = bigoom.find_cgroup("any").parent
    assert [] == list(folder.glob("bigoom-*")), "cgroups left behind"


@LINUX
def test_where_no_cgroup_can_be_made_the_machine_limits_itself(tmp_path: Path, capsys):
    with bigm.start("local") as cluster:
        (victim,) = cluster.start(1, services={"Hog": bigoom.Hog(96 << 20)})
        bigoom.confine(victim, tmp_path / "gone" / "cgroup")
        bigoom.show(victim, [])
    assert ["m0 could take no more: MemoryError", "m0 is RUNNING"] == capsys.readouterr().out.splitlines()


def test_a_machine_that_ends_otherwise_is_not_said_to_have_run_out_of_memory(cluster: bigm.Cluster, capsys):
    machines = cluster.start(2, services={"Hog": bigoom.Hog(1 << 20)})
    cluster.wait(machines)
    machines[0].shutdown()
    with pytest.raises(bigm.MachineStopped):
        bigoom.show(machines[1], machines[:1])
    assert "" == capsys.readouterr().out


def test_a_limit_that_does_not_hold_ends_the_taking(cluster: bigm.Cluster):
    (victim,) = cluster.start(1, services={"Hog": bigoom.Hog(1 << 20)})
    with pytest.raises(SystemExit, match="the limit does not hold there"):
        bigoom.show(victim, [])


def test_it_has_no_machines_killed_that_are_the_program_itself():
    shown = run_example("bigoom", system="inprocess", code=1)
    assert "bigoom: machines in process are this process itself, which is to live: try --system local" in shown.stderr
    assert "may use" not in shown.stderr


def test_mistakes_are_told_before_anything_is_started():
    assert "64M is too little: a machine needs 96M" in refuses("bigoom", "--limit", "64M")
    assert "'all' is no size, such as 256M or 1G" in refuses("bigoom", "--limit", "all")
