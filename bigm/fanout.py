"""Who sends which parts to whom, while many stores need the same ones. Pure: events in, transfers out.

    driver -> one store -> two others at a time -> two others each -> ...

The driver sends a part only where no store has it, and none is about to: about once, however many stores there are. It
sends different parts to different stores, which then give them to one another. A store is what machines of one computer
share: what is in it need not be brought there again.

Parts travel in crates: many small ones together, big ones alone. Which parts make a crate is decided when a store first
lacks them, so that an edited file is not a thousand round trips.

`bigm.sharing` decides alike for shared objects, of which there is one, with workers to be told of it; here there are
hundreds of parts, in stores of several machines. What both have in common is a dozen lines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

DRIVER = ""  # as the source of a transfer

CRATE = 1 << 20  # bytes of small parts that travel together
_FETCH = 8 << 20  # bytes that a store fetches from another at one time, unless one part is bigger
_FAN = 2  # stores that fetch from one at a time
_UPLOADS = 4  # transfers from the driver at a time
_STREAMS = 2  # of them to one store: one is on its way while another is answered
_HOPELESS = 3  # stores from which one could not fetch, before it is given everything by the driver


@dataclass(frozen=True)
class Transfer:
    """Parts on their way.

    Args:
        target: the store they go to.
        source: the store they come from, or DRIVER.
        digests: which, in their order.
        size: bytes, of all of them.
    """

    target: str
    source: str
    digests: tuple[str, ...]
    size: int


@dataclass(eq=False)
class _Crate:
    """Parts that travel together."""

    digests: tuple[str, ...]
    size: int
    holders: set[str] = field(default_factory=set)
    sending: set[str] = field(default_factory=set)  # stores that the driver sends it to


@dataclass(eq=False)
class _Store:
    """What is known of one store."""

    held: set[str] = field(default_factory=set)
    lacks: dict[_Crate, set[str]] = field(default_factory=dict)
    coming: dict[_Crate, Transfer] = field(default_factory=dict)
    shunned: set[str] = field(default_factory=set)  # stores from which it could not fetch
    giving: int = 0

    def receiving(self) -> tuple[int, int]:
        """Transfers on their way to it, from the driver and from other stores."""
        transfers = set(self.coming.values())
        uploads = sum(transfer.source == DRIVER for transfer in transfers)
        return uploads, len(transfers) - uploads


class Fanout:
    """Decides who sends what to whom.

    Args:
        peers: stores can fetch from one another; else all comes from the driver.
    """

    def __init__(self, *, peers: bool = True) -> None:
        self._peers = peers
        self._stores: dict[str, _Store] = {}
        self._crates: dict[str, _Crate] = {}  # by digest
        self._sizes: dict[str, int] = {}
        self._uploads = 0

    def __repr__(self) -> str:
        lacking = sum(bool(store.lacks) for store in self._stores.values())
        return f"<Fanout: {lacking} of {len(self._stores)} stores lack parts, {self._uploads} uploads>"

    def join(self, store: str, wanted: Mapping[str, int], missing: Collection[str]) -> int:
        """A store is to have *wanted*; again with others, or when it was found out that something is gone.

        Args:
            store: its name.
            wanted: sizes in bytes, by digest.
            missing: those of *wanted* that are not there.
        Returns:
            int: bytes of those that it was not known to lack.
        """
        found = self._stores.setdefault(store, _Store())
        found.held |= wanted.keys() - set(missing)
        found.held -= set(missing)
        for digest in missing:
            if digest in self._crates:
                self._crates[digest].holders.discard(store)
        self._sizes.update(wanted)
        self._pack(digest for digest in missing if digest not in self._crates)
        new = [digest for digest in missing if digest not in found.lacks.get(self._crates[digest], ())]
        for digest in new:
            found.lacks.setdefault(self._crates[digest], set()).add(digest)
        for crate in {self._crates[digest] for digest in wanted if digest in self._crates}:
            if found.held.issuperset(crate.digests):
                crate.holders.add(store)
        return self._size(new)

    def leave(self, store: str) -> None:
        """A store is gone. Transfers from and to it that are on their way are to be `finished` all the same."""
        self._stores.pop(store, None)
        for crate in set(self._crates.values()):
            crate.holders.discard(store)

    def lacks(self, store: str) -> bool:
        """Whether a store still lacks anything."""
        return store in self._stores and bool(self._stores[store].lacks)

    def next(self) -> list[Transfer]:
        """What is to be sent now. Each is to be `finished`."""
        transfers: list[Transfer] = []
        more = True
        while more:  # one after the other has its turn, so that the driver's go to different stores
            found = [transfer for name, store in self._stores.items() for transfer in self._begin_some(name, store)]
            transfers += found
            more = bool(found)
        return transfers

    def finished(self, transfer: Transfer, missing: Iterable[str] = ()) -> None:
        """A transfer has come to its end.

        Args:
            transfer: which.
            missing: those of its parts that did not arrive; they are sent again, from elsewhere where that can be.
        """
        lost = set(missing)
        source, target = self._stores.get(transfer.source), self._stores.get(transfer.target)
        crates = dict.fromkeys(self._crates[digest] for digest in transfer.digests)
        if transfer.source == DRIVER:
            self._uploads -= 1
            for crate in crates:
                crate.sending.discard(transfer.target)
        elif source is not None:
            source.giving = max(0, source.giving - 1)
        if target is None:
            return
        if lost and transfer.source != DRIVER:
            target.shunned.add(transfer.source)
        target.held |= set(transfer.digests) - lost
        for crate in crates:
            target.coming.pop(crate, None)
            if target.held.issuperset(crate.digests):
                crate.holders.add(transfer.target)
            lacking = target.lacks.get(crate, set()) - target.held
            if lacking:
                target.lacks[crate] = lacking
            else:
                target.lacks.pop(crate, None)

    def _pack(self, digests: Iterable[str]) -> None:
        """Make crates of parts that were in none."""
        batch: list[str] = []
        room = CRATE
        for digest in digests:
            size = self._sizes[digest]
            if size > CRATE // 4:
                self._close([digest])
                continue
            if size > room:
                self._close(batch)
                batch, room = [], CRATE
            batch.append(digest)
            room -= size
        if batch:
            self._close(batch)

    def _close(self, batch: Sequence[str]) -> None:
        crate = _Crate(tuple(batch), self._size(batch))
        self._crates.update(dict.fromkeys(batch, crate))
        crate.holders |= {name for name, store in self._stores.items() if store.held.issuperset(batch)}

    def _size(self, digests: Iterable[str]) -> int:
        return sum(self._sizes[digest] for digest in digests)

    def _begin_some(self, name: str, store: _Store) -> list[Transfer]:
        """What a store can be sent now: from another one, and from the driver."""
        if not store.lacks:
            return []
        uploads, fetches = store.receiving()
        fetch = self._from_peer(name, store) if not fetches else None
        upload = self._from_driver(name, store) if uploads < _STREAMS and self._uploads < _UPLOADS else None
        return [transfer for transfer in (fetch, upload) if transfer is not None]

    def _sources(self, store: _Store, crate: _Crate) -> set[str]:
        """Stores it could come from, be they busy or not."""
        if not self._peers or len(store.shunned) >= _HOPELESS:
            return set()
        return crate.holders - store.shunned

    def _from_peer(self, name: str, store: _Store) -> Transfer | None:
        """What one other store, of those that are free to give, has for it."""
        source, size = "", 0
        taken: list[_Crate] = []
        for crate in store.lacks:
            if crate in store.coming or (taken and size + crate.size > _FETCH):
                continue
            holders = self._sources(store, crate)
            if not source:
                free = [each for each in holders if self._stores[each].giving < _FAN]
                source = min(free, key=lambda each: (self._stores[each].giving, each), default="")
            if source and source in holders:
                taken.append(crate)
                size += crate.size
        if not source:
            return None
        self._stores[source].giving += 1
        return self._begin(name, store, source, taken)

    def _from_driver(self, name: str, store: _Store) -> Transfer | None:
        """A crate that nobody has whom it could come from, and that nobody will have soon."""
        alone = not self._peers or len(store.shunned) >= _HOPELESS
        for crate in store.lacks:
            soon = not alone and crate.sending - store.shunned
            if crate not in store.coming and not soon and not self._sources(store, crate):
                self._uploads += 1
                crate.sending.add(name)
                return self._begin(name, store, DRIVER, [crate])
        return None

    def _begin(self, name: str, store: _Store, source: str, crates: Sequence[_Crate]) -> Transfer:
        digests = [digest for crate in crates for digest in crate.digests if digest in store.lacks[crate]]
        transfer = Transfer(name, source, tuple(digests), self._size(digests))
        for crate in crates:
            store.coming[crate] = transfer
        return transfer
