"""Bundles on a machine: a real agent takes the extension, parts, and makes files of them."""

from __future__ import annotations

import hashlib
import os
import stat
import sys

import pytest
from machines import Machine, Place
from test_boot import OLDEST, Booted

from bigm.bootstrap.agentzip import agent_zip, extension_digest, extension_zip
from bigm.bootstrap.folders import StoreError
from bigm.errors import NoSuchMethod, NotAllowed
from bigm.manifest import File, Manifest
from bigm.parts import PartError


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def place():
    with Place() as place:
        yield place


@pytest.fixture
def store(tmp_path) -> str:
    return str(tmp_path / "store")


def extended(machine: Machine) -> Machine:
    machine.client.call("Agent.extend", ("",))
    return machine


def send(machine: Machine, files: dict[str, bytes]) -> str:
    """Put a tree's parts and manifest there; its digest."""
    tree = Manifest(File(path, digest_of(data), len(data), path.endswith(".sh")) for path, data in files.items())
    parts = [(digest_of(data), data) for data in (*files.values(), tree.to_bytes())]
    assert len(parts) == machine.client.call("Installer.put_many", (parts,))
    return tree.digest


@pytest.mark.parametrize("python", [pytest.param(sys.executable, id="own"), OLDEST])
def test_an_agent_that_came_by_boot_takes_the_extension_and_a_tree(place, python, store):
    machine = Booted(place, python)
    machine.enrol(agent=agent_zip())
    machine.client.call("Agent.keepalive", (60.0,))
    with pytest.raises(NoSuchMethod):
        machine.client.call("Installer.open", (store,))
    with pytest.raises(PartError, match="is not here"):
        machine.client.call("Agent.extend", (extension_digest(),))
    machine.client.call("Agent.put", (extension_digest(), 0, extension_zip(), True))
    for _ in range(2):  # the reply to the first may have been lost
        machine.client.call("Agent.extend", (extension_digest(),))
    opened = machine.client.call("Installer.open", (store,))
    assert opened["path"] == store
    assert opened["notes"] == []
    digest = send(machine, {"main.py": b"print()\n", "data/a/b.txt": b"b"})
    path = machine.client.call("Installer.lay_out", (digest, False))
    assert path.startswith(machine.info.folder)
    with open(f"{path}/data/a/b.txt", "rb") as file:
        assert file.read() == b"b"
    machine.end()
    assert not os.path.exists(path)
    assert os.listdir(f"{store}/users") == []
    assert machine.said() == ""


def test_a_tree_has_the_files_of_its_manifest_and_no_others(place, store):
    machine = extended(place.machine())
    machine.client.call("Installer.open", (store,))
    files = {"a.py": b"1", "run.sh": b"#!/bin/sh\n", "pkg/deep/er/x": os.urandom(3 << 20), "pkg/empty": b""}
    digest = send(machine, files)
    for shared in (False, True):
        path = machine.client.call("Installer.lay_out", (digest, shared))
        assert path == machine.client.call("Installer.lay_out", (digest, shared))
        found = {}
        for folder, _, names in os.walk(path):
            for name in names:
                each = os.path.join(folder, name)
                with open(each, "rb") as file:
                    found[os.path.relpath(each, path)] = file.read()
                assert os.stat(each).st_mtime == 315532800
                assert bool(os.stat(each).st_mode & stat.S_IXUSR) == name.endswith(".sh")
        assert found == files
        assert path.startswith(store) == shared


def test_a_tree_with_a_missing_part_is_not_there_at_all(place, store):
    machine = extended(place.machine())
    machine.client.call("Installer.open", (store,))
    digest = send(machine, {"a.py": b"1", "b.py": b"2"})
    os.unlink(f"{store}/parts/{digest_of(b'2')}")
    for shared in (False, True):
        with pytest.raises(PartError, match=r"not here.*b\.py"):
            machine.client.call("Installer.lay_out", (digest, shared))
    assert {digest_of(b"2"): 0} == machine.client.call("Installer.have", ([digest, digest_of(b"1"), digest_of(b"2")],))
    machine.client.call("Installer.put", (digest_of(b"2"), 0, b"2", True))
    path = machine.client.call("Installer.lay_out", (digest, True))
    assert sorted(os.listdir(path)) == ["a.py", "b.py"]


def test_a_private_store_ends_with_its_machine(place):
    machine = extended(place.machine())
    first = machine.client.call("Installer.open")
    assert first["path"].startswith(machine.info.folder)
    assert first["store"] == machine.client.call("Installer.open")["store"]
    other = extended(place.machine("m1"))
    assert other.client.call("Installer.open")["store"] != first["store"]


def test_machines_of_one_computer_share_a_store(place, store):
    one, two = extended(place.machine("m0")), extended(place.machine("m1"))
    stores = {machine.client.call("Installer.open", (store,))["store"] for machine in (one, two)}
    assert len(stores) == 1
    digest = send(one, {"a.py": b"1"})
    assert two.client.call("Installer.have", ([digest, digest_of(b"1")],)) == {}
    assert two.client.call("Installer.lay_out", (digest, True)) == one.client.call("Installer.lay_out", (digest, True))


def test_each_machine_receives_a_part_by_itself_and_whoever_is_first_has_it_for_all(place, store):
    one, two = extended(place.machine("m0")), extended(place.machine("m1"))
    data = os.urandom(100_000)
    digest = digest_of(data)
    for machine in (one, two):
        machine.client.call("Installer.open", (store,))
    assert 60_000 == one.client.call("Installer.put", (digest, 0, data[:60_000], False))
    assert {digest: 60_000} == one.client.call("Installer.have", ([digest],))
    assert {digest: 0} == two.client.call("Installer.have", ([digest],))
    assert 100_000 == two.client.call("Installer.put", (digest, 0, data, True))
    assert {} == one.client.call("Installer.have", ([digest],))
    assert data == one.client.call("Installer.get", (digest, 0, 1 << 20))


def test_other_machines_may_ask_for_parts_and_nothing_else(place, store):
    machine = extended(place.machine())
    machine.client.call("Installer.open", (store,))
    digest = send(machine, {"a.py": b"1"})
    peer = machine.dial(place.authority.machine("m1"))
    assert {} == peer.call("Installer.have", ([digest],))
    assert {digest_of(b"1"): 1} == peer.call("Installer.sizes", ([digest_of(b"1"), digest_of(b"2")],))
    assert b"1" == peer.call("Installer.get", (digest_of(b"1"), 0, 100))
    assert b"" == peer.call("Installer.get", (digest_of(b"1"), 0, -1)), "that is no size, and not all of it"
    assert [b"1"] == peer.call("Installer.get_many", ([digest_of(b"1")],))
    for method, args in (
        ("open", ()),
        ("put", (digest, 0, b"", True)),
        ("put_many", ([],)),
        ("lay_out", (digest, True)),
    ):
        with pytest.raises(NotAllowed):
            peer.call(f"Installer.{method}", args)


def test_what_a_killed_machine_was_receiving_is_removed_by_the_next(place, store, tmp_path):
    machine = extended(place.machine(folder=str(tmp_path / "m0")))
    machine.client.call("Installer.open", (store,))
    machine.client.call("Installer.put", ("a" * 64, 0, b"half", False))
    (left,) = [name for name in os.listdir(f"{store}/users") if "." not in name]
    machine.process.kill()
    machine.ended()
    assert os.listdir(f"{store}/users/{left}") == ["a" * 64 + ".part"]
    extended(place.machine("m1")).client.call("Installer.open", (store,))
    assert left not in os.listdir(f"{store}/users")


def test_a_folder_that_cannot_be_made_a_store_is_said(place, store):
    os.makedirs(store, mode=0o700)
    with open(f"{store}/parts", "w"):
        pass
    machine = extended(place.machine())
    with pytest.raises(StoreError, match=f"cannot install into {store}: {store}/parts File exists"):
        machine.client.call("Installer.open", (store,))
