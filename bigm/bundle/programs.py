"""Programs whose files are in the driver's store: which parts are in use, and which may be removed.

    <home>/cache/programs/<digest>    named by the program's manifest; locked, shared, by those who use its parts
    <home>/cache/layers/all           held by those who add parts, exclusively by who removes some

Each edit of a program adds its file to the store. What was not used for longest goes, when there is too much of it:
seldom, for to tell which parts no other program has, all manifests are read.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from bigm.bootstrap.locks import Lock
from bigm.bundle.layers import Use
from bigm.bundle.snapshot import remove_unfinished
from bigm.errors import ConfigError
from bigm.manifest import Manifest, ManifestError
from bigm.parts import PartError, Parts

KEEP = 8 << 30  # bytes of programs that are kept for later runs
MOST = 100  # programs, or states of one that was edited; half of both stays when there are more
_MANIFESTS = 9  # of one program: its own, and those of bigm's modules it was last used with


class Programs:
    """The programs in one cache.

    Args:
        cache: bigm's folder of caches.
        store: has their parts; in the same cache.
    Raises:
        ConfigError: the cache cannot be written.
    """

    def __init__(self, cache: Path, store: Parts) -> None:
        self._folder = cache / "programs"
        self._all = cache / "layers" / "all"
        self._store = store
        for folder in (self._folder, self._all.parent):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"cannot keep parts of the bundle in {cache}: {error.strerror}",
                    hint="make room there, or set BIGM_HOME to a folder elsewhere",
                ) from error

    def __repr__(self) -> str:
        return f"<Programs {self._folder}>"

    @contextlib.contextmanager
    def adding(self) -> Iterator[None]:
        """No part is removed meanwhile: what was found in the store is there still when `use` asks for it."""
        lock = Lock(str(self._all))
        try:
            lock.take(exclusive=False)
            remove_unfinished(self._store)
            yield
        finally:
            lock.close()

    def use(self, *manifests: Manifest) -> object:
        """Keep the parts of a program, for as long as what is returned is referred to. Within `adding`.

        Args:
            manifests: the program's tree first, and others that it needs; they are in the store.
        """
        use = Use(str(self._folder / manifests[0].digest))
        use.take(exclusive=False)
        facts = use.read()
        digests = [manifest.digest for manifest in manifests]
        known = [*facts.get("manifests", ())]
        if not set(digests) <= set(known):
            # Another version of bigm may be using this program now, with its own modules.
            facts.setdefault("size", sum(manifest.size for manifest in manifests))
            use.write({**facts, "manifests": list(dict.fromkeys([*digests, *known]))[:_MANIFESTS]})
        use.touch()
        return use

    def prune(self, *, keep: int = KEEP, most: int = MOST) -> None:
        """Remove what was not used for longest and nobody uses now, above so much. Never waits for anybody."""
        records = list(self._folder.iterdir())
        if len(records) <= most and sum(map(_added, records)) <= keep:
            return
        lock = Lock(str(self._all))
        try:
            if lock.take(exclusive=True, wait=False):
                self._prune(keep // 2, most // 2)
        finally:
            lock.close()

    def _prune(self, keep: int, most: int) -> None:
        """With nobody adding or removing anything."""
        staying: dict[str, int] = {}
        going: set[str] = set()
        for count, path in enumerate(sorted(self._folder.iterdir(), key=_age)):
            used = path.stat()
            lock = Lock(str(path))
            facts = lock.read()
            parts = self._parts(facts)
            added = sum(size for digest, size in parts.items() if digest not in staying)
            unused = lock.take(exclusive=True, wait=False)
            if unused and (count >= most or sum(staying.values()) + added > keep):
                going.update(parts)
                lock.remove()
            else:
                staying.update(parts)
                lock.write({**facts, "size": added})
                os.utime(path, ns=(used.st_atime_ns, used.st_mtime_ns))
            lock.close()
        for digest in going - staying.keys():
            Path(self._store.path(digest)).unlink(missing_ok=True)

    def _parts(self, facts: dict[str, object]) -> dict[str, int]:
        """Every part of a program, with its bytes."""
        found: dict[str, int] = {}
        manifests = facts.get("manifests")
        for digest in manifests if isinstance(manifests, list) else ():
            with contextlib.suppress(OSError, PartError, ManifestError):
                data = Path(self._store.path(str(digest))).read_bytes()
                found[str(digest)] = len(data)
                found.update((file.digest, file.size) for file in Manifest.from_bytes(data).files)
        return found


def _added(record: Path) -> int:
    """Bytes that this program has and those that were used later do not; at first all that it has."""
    try:
        return int(json.loads(record.read_bytes())["size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # being written, or removed


def _age(path: Path) -> float:
    """The one that was used last is first."""
    return -path.stat().st_mtime
