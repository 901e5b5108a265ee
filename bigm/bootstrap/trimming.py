"""What a store keeps (`bigm.bootstrap.store`), how much that is, and the removal of what nobody uses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import NamedTuple

from bigm.bootstrap import folders
from bigm.bootstrap.folders import StoreError
from bigm.bootstrap.locks import Lock

FRESH = 3600.0  # seconds for which a part is kept that somebody sent or asked for
_LOCK = "trim.lock"


class Usage(NamedTuple):
    """What a store keeps, in bytes.

    Args:
        parts: what was sent.
        made: what was made of it: trees, environments, interpreters.
        used: of that, what living machines use.
    """

    parts: int
    made: int
    used: int


def usage(store: str) -> Usage:
    """What a store keeps. Changes nothing; zeros where there is none."""
    if not os.path.isdir(os.path.join(store, "kept")):
        return Usage(0, 0, 0)
    made = used = 0
    for path in kept(store):
        lock = Lock(f"{path}.lock")
        size = int(lock.read().get("size", 0))
        made += size
        used += 0 if lock.take(exclusive=True, wait=False) else size
        lock.close()
    return Usage(sum(facts.st_size for facts, _ in parts(store)), made, used)


def trim(store: str, *, bound: int, room: int, now: float) -> None:
    """Remove what nobody uses, the longest unused first, down to the bound and until *room* bytes are free.

    Args:
        store: its folder.
        bound: bytes; 0: none.
        room: bytes; without any, nothing is done while another process does the same.
        now: seconds since 1970.
    """
    lock = Lock(os.path.join(store, _LOCK))
    try:
        if lock.take(exclusive=True, wait=bool(room)):
            lock.touch()
            _trim(store, bound, room, now)
    finally:
        lock.close()


def last(store: str) -> float:
    """When it was trimmed, in seconds since 1970; 0: never."""
    try:
        return os.stat(os.path.join(store, _LOCK)).st_mtime
    except FileNotFoundError:
        return 0.0


def parts(store: str) -> Iterator[tuple[os.stat_result, str]]:
    """The parts of a store, with their paths."""
    for entry in os.scandir(os.path.join(store, "parts")):
        try:
            yield entry.stat(), entry.path
        except FileNotFoundError:
            pass  # it was removed meanwhile


def kept(store: str) -> list[str]:
    """Paths of what was made of parts, whole or not."""
    folder = os.path.join(store, "kept")
    return sorted({os.path.join(folder, each.partition(".")[0]) for each in os.listdir(folder)})


def remove(path: str) -> None:
    """Remove what was made of parts. Only by who holds its lock.

    Raises:
        StoreError: something in it cannot be removed.
    """
    if os.path.exists(f"{path}.written"):
        os.unlink(f"{path}.written")
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        raise StoreError(f"cannot remove {path}", hint="see what is in it")


def _trim(store: str, bound: int, room: int, now: float) -> None:
    found = [(facts.st_mtime, facts.st_size, path, True) for facts, path in parts(store)]
    for path in kept(store):
        lock = Lock(f"{path}.lock")
        facts, record = os.stat(f"{path}.lock"), lock.read()
        lock.close()
        if record or not _drop(path):  # what was not finished goes at once, unless it is being made now
            found.append((facts.st_mtime, int(record.get("size", 0)), path, False))
    total = sum(size for _, size, _, _ in found)
    for _, size, path, is_part in sorted(found):
        if not (bound and total > bound) and folders.free(store) >= room:
            return
        if _drop_part(path, now) if is_part else _drop(path):
            total -= size


def _drop_part(path: str, now: float) -> bool:
    """Remove a part, unless somebody sent it or asked for it just now."""
    try:
        if now - os.stat(path).st_mtime < FRESH:
            return False
        os.unlink(path)
    except FileNotFoundError:
        pass
    return True


def _drop(path: str) -> bool:
    """Remove what was made of parts, unless somebody uses or makes it."""
    lock = Lock(f"{path}.lock")
    try:
        if not lock.take(exclusive=True, wait=False) or _is_made_now(path):
            return False
        lock.write({})
        remove(path)
        lock.remove()
        return True
    except StoreError:
        return False  # somebody else's file, perhaps; the rest can go
    finally:
        lock.close()


def _is_made_now(path: str) -> bool:
    """Whether a process still writes there, which may have outlived the machine that started it."""
    if not os.path.exists(f"{path}.making"):
        return False
    making = Lock(f"{path}.making")
    try:
        if not making.take(exclusive=True, wait=False):
            return True
        making.remove()
        return False
    finally:
        making.close()
