"""The driver's store keeps what is in use and what was used last; nothing else for ever."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bigm.bundle.programs import Programs
from bigm.bundle.snapshot import keep_bytes
from bigm.errors import ConfigError
from bigm.manifest import File, Manifest
from bigm.parts import Parts
from waiting import eventually


@pytest.fixture
def store(tmp_path: Path) -> Parts:
    return Parts(str(tmp_path / "parts"))


@pytest.fixture
def programs(tmp_path: Path, store: Parts) -> Programs:
    return Programs(tmp_path, store)


def program(store: Parts, *contents: bytes) -> Manifest:
    manifest = Manifest(File(f"{n}", keep_bytes(store, data), len(data)) for n, data in enumerate(contents))
    keep_bytes(store, manifest.to_bytes())
    return manifest


def used(programs: Programs, manifest: Manifest, at: int) -> None:
    """It was used at that time, in seconds, and is not any more."""
    with programs.adding():
        programs.use(manifest)
    gc.collect()
    (record,) = programs._held.folder.glob(manifest.digest)
    os.utime(record, (at, at))


def here(store: Parts, manifest: Manifest) -> bool:
    return not store.have([manifest.digest, *(file.digest for file in manifest.files)])


def test_what_killed_processes_left_half_written_is_removed_after_a_while(programs: Programs, store: Parts):
    program(store, b"whole")
    folder = Path(store.path("0" * 64)).parent
    kept = set(folder.iterdir())
    old, new = folder / "abandoned.new", folder / "growing.new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    with programs.adding():
        assert kept | {new} == set(folder.iterdir())


def test_what_was_used_last_stays(programs: Programs, store: Parts):
    found = [program(store, b"%d" % n) for n in range(6)]
    for at, each in enumerate(found):
        used(programs, each, at)
    programs.prune(most=6)
    assert all(here(store, each) for each in found), "there are no more than may be"
    programs.prune(most=4)
    assert [False] * 4 + [True] * 2 == [here(store, each) for each in found], "then half of it stays"


def test_what_another_program_has_too_stays(programs: Programs, store: Parts):
    old, older, new = (program(store, b"shared", each) for each in (b"old", b"older", b"new"))
    for at, each in enumerate((older, old, new)):
        used(programs, each, at)
    programs.prune(most=2)
    assert [False, False, True] == [here(store, each) for each in (older, old, new)]


def test_bytes_are_counted_once_where_programs_share_them(programs: Programs, store: Parts):
    big = bytes(1000)
    found = [program(store, big, b"%d" % n) for n in range(8)]
    for at, each in enumerate(found):
        used(programs, each, at)
    programs.prune(keep=7000)
    assert all(here(store, each) for each in found), "together they are little more than one of them"
    apart = [program(store, bytes([n]) * 1000) for n in range(1, 9)]
    for at, each in enumerate(apart, 10):
        used(programs, each, at)
    programs.prune(keep=7000)
    assert [False] * 8 == [here(store, each) for each in found]
    assert [False] * 5 + [True] * 3 == [here(store, each) for each in apart]


def test_what_is_in_use_stays_however_old_and_goes_when_it_is_not(programs: Programs, store: Parts):
    old = program(store, b"old")
    with programs.adding():
        hold = programs.use(old)
    os.utime(programs._held.folder / old.digest, (1, 1))
    used(programs, program(store, b"new"), 2)
    programs.prune(keep=0)
    assert here(store, old)
    del hold
    gc.collect()
    programs.prune(keep=0)
    assert not here(store, old)


def test_what_another_process_uses_stays_until_it_is_dead(programs: Programs, store: Parts, tmp_path: Path):
    old = program(store, b"old")
    code = f"""
import sys, pathlib
from bigm.bundle.programs import Programs
from bigm.manifest import Manifest
from bigm.parts import Parts
store = Parts({str(tmp_path / "parts")!r})
programs = Programs(pathlib.Path({str(tmp_path)!r}), store)
with programs.adding():
    hold = programs.use(Manifest.from_bytes(open(store.path({old.digest!r}), "rb").read()))
print("held", flush=True)
sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert b"held\n" == other.stdout.readline()
    programs.prune(keep=-1)
    assert here(store, old)
    other.kill()
    other.communicate()
    programs.prune(keep=-1)
    assert not here(store, old)


def test_nothing_is_removed_while_somebody_adds(programs: Programs, store: Parts):
    old = program(store, b"old")
    used(programs, old, 1)
    with programs.adding():
        programs.prune(keep=-1)
        assert here(store, old)
    programs.prune(keep=-1)
    assert not here(store, old)


def test_many_add_at_once(programs: Programs, store: Parts):
    holds: list[object] = []

    def add(n: int) -> None:
        with programs.adding():
            holds.append(programs.use(program(store, b"%d" % n)))
        programs.prune(keep=-1)

    threads = [threading.Thread(target=add, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: not any(thread.is_alive() for thread in threads), 20, lambda: f"{holds}")
    assert all(here(store, program_) for program_ in (program(store, b"%d" % n) for n in range(8)))
    assert 8 == len(holds)


def test_another_version_of_bigm_keeps_its_own_modules(programs: Programs, store: Parts):
    mine, theirs, own = program(store, b"mine"), program(store, b"theirs"), program(store, b"program")
    holds = []
    with programs.adding():
        holds.append(programs.use(own, mine))
        holds.append(programs.use(own, theirs))
    used(programs, program(store, b"another"), 1)
    programs.prune(keep=-1)
    assert [True, True, True] == [here(store, each) for each in (mine, theirs, own)]
    assert 2 == len(holds)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, store: Parts):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot keep parts of the bundle in .*/file/cache: Not a directory"):
        Programs(tmp_path / "file" / "cache", store)
