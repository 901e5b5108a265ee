"""Stores outlive machines: shared by processes that may die, trimmed of what nobody uses, distrusted after a crash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Optional

import pytest

from bigm.bootstrap import folders, trimming
from bigm.bootstrap.locks import Lock
from bigm.bootstrap.store import Store
from bigm.bootstrap.trimming import Usage, usage
from bigm.manifest import ManifestError

ROOT = Path(__file__).resolve().parents[2]
HOUR = 3600.0  # seconds


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Stores:
    """Opens stores in one folder, and closes them."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.opened: list[Store] = []
        self.now = time.time()

    def open(self, bound: int = 0, boot: Optional[str] = "this") -> Store:
        store = Store(self.path, bound, boot=boot, clock=lambda: self.now)
        self.opened.append(store)
        return store


@pytest.fixture
def stores(tmp_path):
    stores = Stores(tmp_path / "store")
    yield stores
    for store in stores.opened:
        store.close()


def make(size: int, text: str = "made"):
    """A maker of a folder of that many bytes."""

    def maker(path: str, making: int) -> dict[str, object]:
        os.mkdir(path)
        with open(f"{path}/file", "w") as file:
            file.write(text)
        return {"size": size, "text": text}

    return maker


def put(store: Store, data: bytes) -> str:
    store.put(digest_of(data), 0, data, last=True)
    return digest_of(data)


def names(stores: Stores) -> set[str]:
    return {name for name in os.listdir(f"{stores.path}/kept") if "." not in name}


def test_what_is_kept_is_made_once_and_known_to_all(stores):
    one, two = stores.open(), stores.open()
    assert one.id == two.id
    assert {} == two.find("tree")
    path, facts = one.keep("tree", make(10))
    assert "made" == facts["text"]
    assert (path, facts) == two.keep("tree", make(10, "made again"))
    assert facts == two.find("tree")


def test_what_is_in_use_is_not_removed_and_all_else_is_the_longest_unused_first(stores):
    one, two = stores.open(bound=100), stores.open()
    for n, name in enumerate(("old", "used", "new")):
        stores.open().keep(name, make(60))
        os.utime(f"{stores.path}/kept/{name}.lock", (n, n))
    for store in stores.opened[2:]:
        store.close()
    two.find("used")
    os.utime(f"{stores.path}/kept/used.lock", (1, 1))
    one.trim()
    assert {"used"} == names(stores)  # 120 of 100 bytes without "old"; 60 with neither "old" nor "new"
    two.close()
    one.trim()
    assert {"used"} == names(stores)  # it fits


def test_parts_that_were_asked_for_just_now_are_kept(stores):
    store = stores.open(bound=1)
    asked, other = put(store, b"asked"), put(store, b"other")
    for digest in (asked, other):
        os.utime(store.parts.path(digest), (1, 1))
    assert {} == stores.open().have([asked])
    store.trim()
    assert {other: 0} == store.have([asked, other])
    stores.now += 2 * HOUR
    store.trim()
    assert {asked: 0} == store.have([asked])


def test_without_a_bound_nothing_is_removed_unless_room_is_needed(stores):
    store = stores.open()
    stores.open().keep("tree", make(1 << 40))
    stores.opened[-1].close()
    store.trim()
    assert {"tree"} == names(stores)
    store.trim(room=1 << 62)
    assert set() == names(stores)


def test_what_is_being_received_is_each_ones_own_and_ends_with_it(stores):
    one, two = stores.open(), stores.open()
    data = b"0123456789"
    digest = digest_of(data)
    one.put(digest, 0, data[:5], last=False)
    assert {digest: 5} == one.have([digest])
    assert {digest: 0} == two.have([digest])
    one.close()
    assert {digest: 0} == stores.open().have([digest])
    assert 2 * 2 == len(os.listdir(f"{stores.path}/users"))  # of the two that are open, a folder and a lock each


def test_after_a_crash_of_the_computer_small_parts_are_verified_again(stores):
    store = stores.open(boot="before")
    good, bad = put(store, b"good"), put(store, b"bad")
    with open(store.parts.path(bad), "wb"):
        pass  # its name was written to the disk, and its content was not
    assert {} == stores.open(boot="before").have([good, bad])
    assert {bad: 0} == stores.open(boot="after").have([good, bad])


def test_a_part_that_another_machine_removes_while_all_are_verified_is_gone_and_no_more(stores, monkeypatch):
    digest, parts = put(stores.open(boot="before"), b"good"), trimming.parts

    def removed(store: str):
        for facts, path in parts(store):
            os.unlink(path)
            yield facts, path

    monkeypatch.setattr(trimming, "parts", removed)
    assert {digest: 0} == stores.open(boot="after").have([digest])


def test_after_a_crash_what_was_made_shortly_before_is_made_again(stores):
    first = stores.open(boot="first")
    first.keep("old", make(1))
    stores.now += HOUR
    first.find("old")
    first.keep("new", make(1))
    first.close()
    then = stores.open(boot="then")
    assert "made" == then.find("old")["text"]
    assert {} == then.find("new")
    assert "made again" == then.keep("new", make(1, "made again"))[1]["text"]


def test_when_making_fails_nothing_is_kept_and_the_next_one_makes_it(stores):
    store = stores.open()

    def fail(path: str, making: int) -> dict[str, object]:
        make(1, "half")(path, making)
        raise ManifestError("no")

    with pytest.raises(ManifestError):
        store.keep("tree", fail)
    assert {} == store.find("tree")
    assert "made" == stores.open().keep("tree", make(1))[1]["text"]


def test_what_was_not_finished_is_trimmed(stores):
    store = stores.open(bound=1 << 40)
    os.makedirs(f"{stores.path}/kept/tree")
    store.trim()
    assert set() == names(stores)


def test_what_was_removed_by_hand_is_made_again_while_others_use_it(stores):
    one, two = stores.open(), stores.open()
    path, _ = one.keep("tree", make(1))
    two.find("tree")
    os.unlink(f"{path}/file")
    os.rmdir(path)
    assert "made again" == one.keep("tree", make(1, "made again"))[1]["text"]
    assert "made again" == two.find("tree")["text"]


def test_how_much_is_kept_and_used_can_be_told_without_using_it(stores):
    assert Usage(0, 0, 0) == usage(stores.path)
    store, other = stores.open(), stores.open()
    put(store, b"12345")
    store.keep("used", make(10))
    other.keep("unused", make(100))
    other.close()
    assert Usage(5, 110, 10) == usage(stores.path)
    store.close()
    assert Usage(5, 110, 0) == usage(stores.path)


def test_what_cannot_be_removed_does_not_keep_the_rest(stores, monkeypatch):
    store = stores.open(bound=1)
    for name in ("bad", "good"):
        stores.open().keep(name, make(10))
        stores.opened[-1].close()
    whole = trimming.shutil.rmtree
    monkeypatch.setattr(trimming.shutil, "rmtree", lambda path, **_: path.endswith("bad") or whole(path))
    store.trim()
    monkeypatch.undo()
    assert {"bad"} == names(stores)


PROCESS = """
import os, sys
from bigm.bootstrap.store import Store
from bigm.bootstrap.trimming import Usage, usage
store = Store(sys.argv[1], 300)

def make(path, making):
    os.mkdir(path)
    made.append(path)
    return {"size": 100}

made = []
for n in range(60):
    path, _ = store.keep(f"tree-{n * int(sys.argv[2]) % 7}", make)
    assert os.path.isdir(path), path
    store.trim()
print(len(made))
if int(sys.argv[2]) % 2:
    os._exit(0)  # as if it were killed
"""


def test_processes_that_make_use_trim_and_die_at_the_same_time_leave_a_whole_store(stores):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, stores.path, str(n)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        for n in range(1, 7)
    ]
    for process in processes:
        said, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
        assert 0 <= int(said) <= 60
    store = stores.open(boot=None)
    assert 2 == len(os.listdir(f"{stores.path}/users"))  # its own
    for name in names(stores):
        assert 100 == store.find(name)["size"]
    assert len(names(stores)) <= 7


def test_one_waits_for_who_makes_it_and_finds_it(stores):
    one, two = stores.open(), stores.open()
    begun, go_on = threading.Event(), threading.Event()

    def slow(path: str, making: int) -> dict[str, object]:
        begun.set()
        assert go_on.wait(10)
        return make(1, "slow")(path, making)

    found: list[object] = []
    first = threading.Thread(target=lambda: one.keep("tree", slow), name="test-first")
    second = threading.Thread(
        target=lambda: found.append(two.keep("tree", make(1, "second"))[1]["text"]), name="test-2"
    )
    first.start()
    assert begun.wait(10)
    second.start()
    assert {} == two.find("tree")
    go_on.set()
    first.join(10)
    second.join(10)
    assert ["slow"] == found


def test_a_lock_whose_file_was_removed_is_taken_on_the_next_one(tmp_path):
    path = str(tmp_path / "lock")
    first, second = Lock(path), Lock(path)
    first.take(exclusive=True)
    assert not second.take(exclusive=False, wait=False)
    first.remove()
    assert second.take(exclusive=True, wait=False)
    third = Lock(path)
    assert not third.take(exclusive=False, wait=False)
    second.close()
    assert third.take(exclusive=False)
    third.close()


def test_a_folder_of_anothers_is_refused(tmp_path, monkeypatch):
    """In /tmp everybody may have been there first."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert "can be written to by others" == folders.check(str(tmp_path / "open"))
    (tmp_path / "file").write_text("")
    assert "cannot be used: File exists" == folders.check(str(tmp_path / "file"))
    (tmp_path / "mine").mkdir(0o700)
    assert "" == folders.check(str(tmp_path / "mine"))
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert "belongs to another user" == folders.check(str(tmp_path / "mine"))


def test_a_link_that_somebody_else_made_is_refused(tmp_path):
    if os.geteuid():
        pytest.skip("no root here: links of others cannot be made")
    (tmp_path / "mine").mkdir(0o700)
    os.symlink(tmp_path / "mine", tmp_path / "link")
    os.lchown(tmp_path / "link", 4242, 4242)
    assert "belongs to another user" == folders.check(str(tmp_path / "link"))


def test_the_next_folder_is_taken_where_one_will_not_do_and_all_are_named_when_none_will(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_ELSEWHERE", (str(tmp_path / "next"),))
    bad = tmp_path / "bad"
    bad.write_text("")
    path, notes = folders.choose(str(bad), 0)
    assert str(tmp_path / "next") == path
    assert [f"{bad} cannot be used: File exists"] == notes
    with pytest.raises(folders.StoreError, match=r"no folder.*bad cannot be used.*next has \d+ MiB free of the"):
        folders.choose(str(bad), 1 << 60)
