"""What holds the parts of the driver's store, and the removal of what nothing holds.

    <home>/cache/parts/<sha256>       the store
    <home>/cache/layers/<key>         a record each, which names parts; locked, shared, by those who use these
    <home>/cache/programs/<digest>    likewise
    <home>/cache/pythons/<digest>     likewise
    <home>/cache/layers/all           held by those who add parts, exclusively by who removes some

Layers, programs and interpreters are bounded each for itself, but a part may be of several: a file of the program that
an environment has too, a .pex that runs in place and is data of another program. So nothing is removed that any record
of any kind names. To tell that, all manifests are read: seldom, for records go before parts do.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from bigm.bootstrap.locks import Lock
from bigm.bundle.snapshot import remove_unfinished
from bigm.manifest import Manifest, ManifestError
from bigm.parts import PartError, Parts

LAYERS, PROGRAMS, PYTHONS = KINDS = ("layers", "programs", "pythons")

_RECORD = re.compile(r"[0-9a-f]{64}")


class Use(Lock):
    """A lock that is held for as long as it is referred to."""

    def __del__(self) -> None:
        self.close()


class Holdings:
    """The records of one kind in one cache.

    Args:
        kind: one of `KINDS`.
        cache: bigm's folder of caches.
        store: has the parts; in the same cache.
    Raises:
        OSError: the cache cannot be written.
    """

    def __init__(self, kind: str, cache: Path, store: Parts) -> None:
        self.folder = cache / kind
        self._cache = cache
        self._all = cache / LAYERS / "all"
        self._store = store
        for folder in (self.folder, self._all.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"<Holdings {self.folder}>"

    @contextlib.contextmanager
    def adding(self) -> Iterator[None]:
        """No part is removed meanwhile: what was found in the store is there still when a record names it."""
        with shared(self._all):
            remove_unfinished(self._store)
            yield

    def use(self, name: str, parts: Mapping[str, int]) -> Use:
        """Keep parts, for as long as what is returned is referred to. Within `adding`.

        Args:
            name: of their record, 64 hexadecimal digits.
            parts: digests with sizes in bytes.
        """
        use = Use(str(self.folder / name))
        use.take(exclusive=False)
        if use.read().get("parts") != parts:
            use.write({"parts": dict(parts)})
        use.touch()
        return use

    def records(self) -> list[Path]:
        """The one that was used last is first."""
        return sorted((each for each in self.folder.iterdir() if _RECORD.fullmatch(each.name)), key=age)

    def prune(self, keep: int, most: int = sys.maxsize) -> None:
        """Remove what was not used for longest and nobody uses now, above so much. Never waits for anybody.

        Args:
            keep: bytes; what several records of this kind name counts once.
            most: records.
        """
        with tried(self._all) as alone:
            if alone and self._drop(keep, most):
                self._sweep()

    def _drop(self, keep: int, most: int) -> bool:
        """Decide which records stay, with nobody adding or removing anything; whether some do not."""
        staying: dict[str, int] = {}
        total, dropped = 0, False
        for count, path in enumerate(self.records()):
            used = path.stat()
            lock = Lock(str(path))
            facts = lock.read()
            parts = self._parts(facts) or {}
            added = sum(size for digest, size in parts.items() if digest not in staying)
            unused = lock.take(exclusive=True, wait=False)
            if unused and (not parts or count >= most or total + added > keep):
                lock.remove()
                dropped = True
            else:
                staying.update(parts)
                total += added
                if facts.get("size", added) != added:  # of those that say how much they have
                    lock.write({**facts, "size": added})
                    os.utime(path, ns=(used.st_atime_ns, used.st_mtime_ns))
            lock.close()
        return dropped

    def _sweep(self) -> None:
        """Remove the parts that no record names, also those whose bringer was killed before he could note them."""
        staying: set[str] = set()
        for kind in KINDS:
            if (self._cache / kind).is_dir():
                for path in Holdings(kind, self._cache, self._store).records():
                    lock = Lock(str(path))
                    parts = self._parts(lock.read())
                    unused = lock.take(exclusive=True, wait=False)
                    lock.close()
                    if parts is None and not unused:
                        return  # nobody can tell what it is that somebody uses
                    staying.update(parts or ())
        for name in os.listdir(self._store.folder) if os.path.isdir(self._store.folder) else ():
            if _RECORD.fullmatch(name) and name not in staying:
                Path(self._store.path(name)).unlink(missing_ok=True)

    def _parts(self, facts: Mapping[str, object]) -> dict[str, int] | None:
        """Every part that a record names, manifests among them, with its bytes; None: a manifest cannot be read."""
        manifests, parts = facts.get("manifests"), facts.get("parts")
        found = {str(digest): int(size) for digest, size in parts.items()} if isinstance(parts, dict) else {}
        for digest in manifests if isinstance(manifests, list) else ():
            try:
                data = Path(self._store.path(str(digest))).read_bytes()
                found[str(digest)] = len(data)
                found.update((file.digest, file.size) for file in Manifest.from_bytes(data).files)
            except (OSError, PartError, ManifestError):
                return None
        return found


@contextlib.contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold a lock that others may hold too, and nobody exclusively."""
    lock = Lock(str(path))
    try:
        lock.take(exclusive=False)
        yield
    finally:
        lock.close()


@contextlib.contextmanager
def tried(path: Path) -> Iterator[bool]:
    """Hold a lock exclusively if nobody else holds it; whether that is so."""
    lock = Lock(str(path))
    try:
        yield lock.take(exclusive=True, wait=False)
    finally:
        lock.close()


def age(path: Path) -> float:
    """Sorts what was used last to the front."""
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
