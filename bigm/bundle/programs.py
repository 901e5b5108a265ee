"""Programs whose files are in the driver's store: which are in use, and which may be removed.

    <home>/cache/programs/<digest>    named by the program's manifest; see `bigm.bundle.holdings`

Each edit of a program adds its file to the store. What was not used for longest goes, when there is too much of it:
seldom, for to tell which parts no other program has, all manifests are read.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from bigm.bundle.holdings import PROGRAMS, Holdings, Use
from bigm.errors import ConfigError
from bigm.manifest import Manifest
from bigm.parts import Parts

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
        try:
            self._held = Holdings(PROGRAMS, cache, store)
        except OSError as error:
            raise ConfigError(
                f"cannot keep parts of the bundle in {cache}: {error.strerror}",
                hint="make room there, or set BIGM_HOME to a folder elsewhere",
            ) from error

    def __repr__(self) -> str:
        return f"<Programs {self._held.folder}>"

    def adding(self) -> contextlib.AbstractContextManager[None]:
        """No part is removed meanwhile: what was found in the store is there still when `use` asks for it."""
        return self._held.adding()

    def use(self, *manifests: Manifest) -> object:
        """Keep the parts of a program, for as long as what is returned is referred to. Within `adding`.

        Args:
            manifests: the program's tree first, and others that it needs; they are in the store.
        """
        use = Use(str(self._held.folder / manifests[0].digest))
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
        records = self._held.records()
        if len(records) > most or sum(map(_added, records)) > keep:
            self._held.prune(keep // 2, most // 2)


def _added(record: Path) -> int:
    """Bytes that this program has and those that were used later do not; at first all that it has."""
    try:
        return int(json.loads(record.read_bytes())["size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # being written, or removed
