from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

import bigm
import diskbench
from example_programs import refuses, run_example


def started(cluster: bigm.Cluster, n: int = 2) -> list[bigm.Machine]:
    machines = cluster.start(n, services={"Disk": diskbench.Disk()})
    cluster.wait(machines)
    return machines


def open_files_in(folder: Path) -> list[str]:
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(descriptor))
        except OSError:
            continue  # that of the listing itself
    return [path for path in found if path.startswith(f"{folder}/")]


@pytest.mark.parametrize("system", ["local", "inprocess"])
def test_it_prints_a_table_and_leaves_no_file(system: str, tmp_path: Path):
    shown = run_example("diskbench", "--size", "3M", "--folder", tmp_path, system=system)
    table = [r"machine   write MB/s  read MB/s", *[rf"m{i}  +\d+ +\d+(  perhaps from memory)?" for i in range(2)]]
    assert re.fullmatch("".join(f"{line}\n" for line in table), shown.stdout)
    for name in ("m0", "m1"):
        for what in ("write", "read"):
            assert re.search(rf"{name} +{what} +3 of 3 MB +\d+ MB/s", shown.stderr)
    assert [] == list(tmp_path.iterdir())


def test_samples_come_while_the_disk_is_at_work(cluster: bigm.Cluster, tmp_path: Path, monkeypatch):
    """Where machines are processes, they look at their clock as seldom as ever."""
    monkeypatch.setattr(diskbench, "EVERY", -1.0)
    (machine,) = started(cluster, 1)
    samples = list(machine.stream("Disk.measure", str(tmp_path), (5 << 20) + 7))
    for what in ("write", "read"):
        done = [sample.done for sample in samples if sample.what == what]
        assert (5 << 20) + 7 == done[-1]
        assert sorted(done) == done


def test_a_reader_that_leaves_ends_the_measuring_and_the_file(cluster: bigm.Cluster, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(diskbench, "EVERY", -1.0)
    (machine,) = started(cluster, 1)
    with machine.stream("Disk.measure", str(tmp_path), 1 << 30) as samples:
        assert next(samples).what == "write"
    machine.shutdown()
    assert [] == open_files_in(tmp_path)
    assert [] == list(tmp_path.iterdir())


def test_a_machine_that_fails_is_a_row_and_the_others_go_on(cluster: bigm.Cluster, faults, tmp_path: Path, monkeypatch):
    machines = started(cluster)
    follow = diskbench.follow

    async def killing(machine: bigm.Machine, folder: str, size: int) -> diskbench.Row:
        if machine is machines[0]:
            faults.kill(machine)
        return await follow(machine, folder, size)

    monkeypatch.setattr(diskbench, "follow", killing)
    dead, alive = asyncio.run(diskbench.measure(machines, str(tmp_path), 1 << 20))
    assert isinstance(dead.error, bigm.MachineStopped)
    assert re.match(r"m0 +- +-  machine \S+/m0 stopped", str(dead))
    assert alive.error is None
    assert 1 << 20 == alive.read.done


def test_a_folder_that_is_missing_or_too_small_is_told_of_each_machine(tmp_path: Path):
    shown = run_example("diskbench", "--folder", tmp_path / "gone", code=1)
    assert shown.stdout.count("No such file or directory: ") == 2
    shown = run_example("diskbench", "--size", "9999T", "--folder", tmp_path, code=1)
    assert re.search(rf"m1 +- +-  {tmp_path} has room for \S+ GB, and the file needs \d+\.\d GB\n", shown.stdout)
    assert "Traceback" not in shown.stderr


def test_what_lies_in_memory_is_never_said_to_have_come_from_the_disk():
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no file system in memory here")
    (row,) = run_example("diskbench", "--size", "1M", "--folder", "/dev/shm", nmach=1).stdout.splitlines()[1:]
    assert row.endswith("perhaps from memory")


@pytest.mark.parametrize("size", ["0", "-1", "many", "1.5G", "G"])
def test_what_is_no_size_is_refused(size: str):
    assert f"'{size}' is no size, such as 512M or 4G" in refuses("diskbench", f"--size={size}")
