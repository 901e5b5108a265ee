"""Stores on disks that are read-only, full, or run nothing: real ones, mounted for the test."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from layers import greeting
from machines import Place
from test_installer import extended, send

from bigm.bootstrap import folders
from bigm.errors import BigmError
from bigm.parts import PartError

pytestmark = pytest.mark.root


class Disks:
    """Mounts small disks in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mounted: list[Path] = []

    def mount(self, name: str, options: str) -> Path:
        path = self._folder / name
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "bigm-test", str(path)], check=True)
        self._mounted.append(path)
        return path

    def close(self) -> None:
        for path in self._mounted:
            subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def disks(tmp_path) -> Iterator[Disks]:
    disks = Disks(tmp_path)
    yield disks
    disks.close()


@pytest.fixture
def place(disks):
    with Place() as place:
        yield place


@pytest.fixture(scope="module")
def layer(tmp_path_factory) -> dict[str, bytes]:
    return greeting(tmp_path_factory.mktemp("layer"))


def fill(path: Path, leave: int) -> Path:
    """Take all but *leave* bytes of a disk."""
    filler = path / "filler"
    with open(filler, "wb") as file:
        file.write(bytes(folders.free(str(path)) - leave))
    return filler


def test_folders_that_will_not_do_are_passed_over_and_each_is_explained(disks, monkeypatch):
    good = disks.mount("good", "size=64m")
    noexec, full, read_only = (
        disks.mount("noexec", "size=64m,noexec"),
        disks.mount("full", "size=2m"),
        disks.mount("read-only", "size=64m,ro"),
    )
    monkeypatch.setattr(folders, "_ELSEWHERE", (str(full), str(read_only / "below"), str(good / "store")))
    path, notes = folders.choose(str(noexec), 0)
    assert str(good / "store") == path
    assert [
        f"{noexec} is on a disk from which nothing may be run (noexec)",
        f"{full} has 2 MiB free of the 16 MiB that are needed",
        f"{read_only}/below cannot be used: Read-only file system",
    ] == notes


def test_a_machine_says_which_folders_it_passed_over(disks, place, monkeypatch, tmp_path):
    noexec = disks.mount("noexec", "size=64m,noexec")
    home = tmp_path / "home"
    home.mkdir(0o700)
    monkeypatch.setenv("HOME", str(home))
    machine = extended(place.machine())
    opened = machine.client.call("Installer.open", (str(noexec),))
    assert str(home / ".cache/bigm") == opened["path"]
    assert [f"{noexec} is on a disk from which nothing may be run (noexec)"] == opened["notes"]


def test_what_is_needed_is_looked_for(disks, place, monkeypatch, tmp_path):
    small = disks.mount("small", "size=64m")
    monkeypatch.setenv("HOME", str(tmp_path))
    machine = extended(place.machine())
    assert str(small) == machine.client.call("Installer.open", (str(small),))["path"]
    opened = machine.client.call("Installer.open", (str(small), 0, 100 << 20))
    assert str(tmp_path / ".cache/bigm") == opened["path"]
    assert "MiB free of the 116 MiB that are needed" in opened["notes"][0]


def test_room_is_made_in_a_store_before_another_folder_is_taken(disks, place):
    disk = disks.mount("disk", "size=64m")
    first = extended(place.machine("m0"))
    first.client.call("Installer.open", (str(disk),))
    for _ in range(3):
        first.client.call("Installer.lay_out", (send(first, {"big": os.urandom(6 << 20)}), True))
    second = extended(place.machine("m1"))
    second.client.call("Installer.open", (str(disk),))
    second.client.call("Installer.lay_out", (send(second, {"small": b"1"}), True))
    first.client.call("Agent.exit")
    first.ended()
    opened = second.client.call("Installer.open", (str(disk), 0, 25 << 20))
    assert (str(disk), []) == (opened["path"], opened["notes"])
    assert opened["free"] > 25 << 20
    assert 1 == len([name for name in os.listdir(disk / "kept") if "." not in name])  # what is used


def test_a_disk_that_is_full_while_receiving_is_cleared_of_what_nobody_uses(disks, place):
    disk = disks.mount("disk", "size=32m")
    first = extended(place.machine("m0"))
    first.client.call("Installer.open", (str(disk),))
    tree = send(first, {"big": os.urandom(3 << 20)})
    first.client.call("Installer.lay_out", (tree, True))
    first.client.call("Agent.exit")
    first.ended()
    machine = extended(place.machine("m1"))
    machine.client.call("Installer.open", (str(disk),))
    filler = fill(disk, leave=1 << 20)
    data = os.urandom(2 << 20)
    digest = hashlib.sha256(data).hexdigest()
    assert len(data) == machine.client.call("Installer.put", (digest, 0, data, True))
    assert [] == [name for name in os.listdir(disk / "kept") if "." not in name]
    other = os.urandom(8 << 20)
    with pytest.raises(PartError, match=rf"in {disk}.*No space left.* KiB are free, of 8192 KiB for this piece"):
        machine.client.call("Installer.put", (hashlib.sha256(other).hexdigest(), 0, other, True))
    filler.unlink()
    assert len(other) == machine.client.call("Installer.put", (hashlib.sha256(other).hexdigest(), 0, other, True))


def test_a_disk_that_is_full_while_laying_out_is_said(disks, place):
    disk = disks.mount("disk", "size=32m")
    machine = extended(place.machine())
    machine.client.call("Installer.open", (str(disk),))
    tree = send(machine, {"big": os.urandom(4 << 20), "small": b"1"})
    fill(disk, leave=1 << 20)
    with pytest.raises(folders.StoreError, match=rf"cannot lay out 4096 KiB in {disk}.*No space left.*MiB are free"):
        machine.client.call("Installer.lay_out", (tree, True))
    assert [] == [name for name in os.listdir(disk / "kept") if "." not in name]


def test_a_disk_that_is_full_while_an_environment_is_made_is_said(disks, place, layer):
    disk = disks.mount("disk", "size=48m")
    machine = extended(place.machine())
    machine.client.call("Installer.open", (str(disk),))
    digest = send(machine, layer)
    filler = fill(disk, leave=2 << 20)
    with pytest.raises(BigmError, match=rf"{disk}.*(No|no) space left"):
        machine.client.call("Installer.environment", (digest, "key", sys.executable), timeout=120)
    assert [] == [name for name in os.listdir(disk / "kept") if "." not in name]
    filler.unlink()
    assert machine.client.call("Installer.environment", (digest, "key", sys.executable), timeout=120)["python"]


def test_a_program_is_laid_out_where_its_extension_modules_can_be_loaded(disks, place, tmp_path):
    """A machine's own folder may be in a /tmp that is mounted noexec."""
    disk = disks.mount("noexec", "size=64m,noexec")
    machine = extended(place.machine(folder=str(disk / "machine")))
    store = str(tmp_path / "store")
    machine.client.call("Installer.open", (store,))
    path = machine.client.call("Installer.lay_out", (send(machine, {"main.py": b"1"}), False))
    assert path.startswith(f"{store}/users/")
    machine.client.call("Agent.exit")
    machine.ended()
    assert not os.path.exists(path)
