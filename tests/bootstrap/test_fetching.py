"""Machines bring parts from one another: over real TLS, each verified, whatever becomes of the sources."""

from __future__ import annotations

import os

import pytest
from machines import Machine, Place
from test_installer import digest_of, extended

from bigm.authority import Authority
from bigm.errors import ConfigError
from bigm.parts import PartError

STALL = 10.0  # seconds


@pytest.fixture
def place():
    with Place() as place:
        yield place


def with_store(machine: Machine, tmp_path) -> Machine:
    extended(machine).client.call("Installer.open", (str(tmp_path / machine.name),))
    return machine


def address(machine: Machine, name: str = "") -> str:
    return f"127.0.0.1:{machine.port}/{name or machine.name}"


def give(machine: Machine, *contents: bytes) -> list[str]:
    machine.client.call("Installer.put_many", ([(digest_of(data), data) for data in contents],))
    return [digest_of(data) for data in contents]


def fetch(machine: Machine, digests: list[str], *sources: str) -> list[str]:
    return machine.client.call("Installer.fetch", (digests, list(sources), STALL), timeout=60)


def has(machine: Machine, digest: str) -> bytes:
    found = b""
    while True:
        piece = machine.client.call("Installer.get", (digest, len(found), 1 << 22))
        if not piece:
            return found
        found += piece


def corrupt(tmp_path, machine: Machine, digest: str) -> None:
    with open(tmp_path / machine.name / "parts" / digest, "r+b") as part:
        part.write(b"\0" if part.read(1) != b"\0" else b"\1")
        part.seek(0)
        part.write(b"\0\0\0\0")


def test_parts_come_from_another_machine_big_and_small_ones(place, tmp_path):
    source, target = (with_store(place.machine(name), tmp_path) for name in ("m0", "m1"))
    contents = [os.urandom(5_000_001), b"", *(os.urandom(1000 + n) for n in range(300)), os.urandom(1 << 20)]
    digests = give(source, *contents)
    absent = digest_of(b"nobody has it")
    assert [absent] == fetch(target, [*digests, absent], address(source))
    assert contents[0] == has(target, digests[0])
    assert {absent: 0} == target.client.call("Installer.have", ([*digests, absent],))


def test_a_fetch_goes_on_with_what_was_received_before(place, tmp_path):
    source, target = (with_store(place.machine(name), tmp_path) for name in ("m0", "m1"))
    big, small = os.urandom(3_000_000), os.urandom(5_000)
    digests = give(source, big, small)
    target.client.call("Installer.put", (digests[0], 0, big[:1_234_567], False))
    target.client.call("Installer.put", (digests[1], 0, small[:1_234], False))
    assert [] == fetch(target, digests, address(source))
    assert big == has(target, digests[0])


def test_a_source_that_sends_something_else_is_passed_over(place, tmp_path):
    bad, good, target = (with_store(place.machine(name), tmp_path) for name in ("m0", "m1", "m2"))
    for data in (os.urandom(2_500_000), os.urandom(500)):
        (digest,) = give(bad, data)
        give(good, data)
        corrupt(tmp_path, bad, digest)
        assert [digest] == fetch(target, [digest], address(bad))
        assert [] == fetch(target, [digest], address(bad), address(good))
        assert data == has(target, digest)
    said = b"".join(record.data for record in target.watch().records).decode()
    assert f"parts cannot be fetched from {address(bad)}" in said
    assert "arrived as" in said


def test_a_source_that_is_gone_is_passed_over(place, tmp_path):
    gone = with_store(place.machine("m0", folder=str(tmp_path / "folder")), tmp_path)
    good, target = (with_store(place.machine(name), tmp_path) for name in ("m1", "m2"))
    data = os.urandom(2_500_000)
    digests = give(good, data)
    gone.process.kill()
    gone.ended()
    assert digests == fetch(target, digests, address(gone))
    assert [] == fetch(target, digests, address(gone), address(good))


def test_a_source_must_be_the_machine_that_was_named(place, tmp_path):
    """And of this cluster: an address that was recycled is somebody else's."""
    target = with_store(place.machine("m1"), tmp_path)
    with Place(Authority()) as elsewhere:
        stranger = with_store(elsewhere.machine("m0"), tmp_path)
        (digest,) = give(stranger, b"data")
        assert [digest] == fetch(target, [digest], address(stranger))
    other = with_store(place.machine("m2"), tmp_path)
    (digest,) = give(other, b"more data")
    assert [digest] == fetch(target, [digest], address(other, "m7"))
    assert [] == fetch(target, [digest], address(other))


def test_a_machine_without_an_installer_is_passed_over(place, tmp_path):
    plain, target = place.machine("m0"), with_store(place.machine("m1"), tmp_path)
    absent = digest_of(b"nobody has it")
    assert [absent] == fetch(target, [absent], address(plain))


def test_what_is_no_address_is_said(place, tmp_path):
    target = with_store(place.machine("m1"), tmp_path)
    with pytest.raises(ConfigError, match="no machine's address"):
        fetch(target, [digest_of(b"")], "nonsense")
    assert [] == fetch(target, [], "nonsense")


def test_no_more_is_given_at_once_than_fits_into_a_reply(place, tmp_path):
    source = with_store(place.machine("m0"), tmp_path)
    digests = give(source, os.urandom(3_000_000), os.urandom(3_000_000))
    with pytest.raises(PartError, match="more than 4 MiB"):
        source.client.call("Installer.get_many", (digests,))
