"""Brings bundles to machines: asks what they lack, sends that, and has it laid out and made ready to run.

    driver -> a store -> other stores          (`bigm.fanout` decides who sends what to whom)

A machine is visited step by step: its agent is extended by what installs bundles, opens its store, says what is missing
there, lays out the trees, and makes the environment. Parts are missing in stores, not on machines: those of one
computer share one, and what is left there by this run the next one need not send. Whatever becomes of connections
meanwhile, bytes that have arrived are not sent again; shipping fails when nothing has moved for `Timeouts.stall`.

The machine's half: `bigm.bootstrap.installer`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bigm.bootstrap.records import Info
from bigm.bundle.bundle import Bundle, Dependencies, parts_of
from bigm.clock import Clock
from bigm.errands import Errands, Steps, Until, call
from bigm.errors import BigmError, MachineStopped, WireError
from bigm.fanout import CRATE, DRIVER, Fanout, Transfer
from bigm.installed import Installed, installed
from bigm.lifecycle import State
from bigm.machine import Machine
from bigm.outfits import Outfits, Supplies
from bigm.parts import PartError, Parts
from bigm.tally import Tally
from bigm.timeouts import Timeouts

PIECE = 1 << 20  # bytes of a big part in one call
_TRIES = 3  # times in a row that a store may refuse what it is sent
_SLOWEST = 256 << 10  # bytes a second that machines exchange at least, beyond the time that may pass without any
_ROOM = 3  # times what is missing that must be free: it is kept, laid out, and made into an environment

T = TypeVar("T")


@dataclass(frozen=True)
class Shipped:
    """What it took to install a bundle on a machine.

    Args:
        installed: the outcome.
        parts: parts that the machine needs.
        sent: bytes that the driver sent to this machine, for itself and for those that share its store.
        fetched: bytes that it fetched from other machines, likewise.
        seconds: from the request to the end.
    """

    installed: Installed
    parts: int
    sent: int
    fetched: int
    seconds: float


@dataclass(frozen=True)
class Terms:
    """How a cluster ships.

    Args:
        peers: machines can fetch from one another.
        extension: what an agent lacks to take bundles, a zip; b"" where it runs from an installed bigm.
        store: folder on machines where parts are kept.
        keep: bytes that are kept there of what nobody uses.
        python: path of the interpreter on all machines; "": the setting decides among those found there.
        wanted: the setting.
        notices: agents are to ask whether their machine will be taken away.
        supplies: gets what machines need that are not as this computer.
    """

    peers: bool
    extension: Callable[[], bytes]
    store: str
    keep: int
    python: str = ""
    wanted: str = ""
    notices: bool = False
    supplies: Supplies | None = None


@dataclass(eq=False)
class _Visit:
    """A machine that is to have a bundle."""

    machine: Machine
    info: Info
    bundle: Bundle
    parts: int = 0
    sent: int = 0
    fetched: int = 0
    over: bool = False


@dataclass(eq=False)
class _Place:
    """A store, and the machines that share it."""

    id: str
    visits: list[_Visit] = field(default_factory=list)
    asked: dict[frozenset[str], bool] = field(default_factory=dict)  # sets of parts; whether it has answered
    refusals: int = 0  # in a row
    failure: BigmError | None = None

    def living(self) -> list[_Visit]:
        """Those that wait for parts first: it is for them that some are brought here."""
        living = [visit for visit in self.visits if visit.machine.state is not State.STOPPED]
        return sorted(living, key=lambda visit: visit.over)


class Shipping:
    """Installs the bundles of one cluster. Its methods may be called by any thread, and return at once.

    Args:
        name: the cluster's name.
        terms: how it ships.
        timeouts: of the cluster.
        clock: calls what is due.
        submit: has a function called by a thread that may block.
        warn: says what the user must know.
        say: says what happens next, and has happened.
    Attributes:
        tally: what moves, in bytes.
    """

    def __init__(
        self,
        name: str,
        terms: Terms,
        *,
        timeouts: Timeouts,
        clock: Clock,
        submit: Callable[[Callable[[], None]], None],
        warn: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self.tally = Tally()
        self._name = name
        self._terms = terms
        self._warn = warn
        self._say = say
        self._call = functools.partial(call, stall=timeouts.stall)
        self._stall = timeouts.stall
        self._outfits = Outfits(terms.python, terms.wanted, terms.supplies, self._call)
        self._fanout = Fanout(peers=terms.peers)
        self._places: dict[str, _Place] = {}
        self._contents: dict[str, tuple[Parts, int]] = {}  # by digest: the driver's store that has it, and its size
        self._said: set[str] = set()
        self._errands = Errands(f"bigm-ship-{name}", clock, submit, self._begin_transfers)

    def __repr__(self) -> str:
        return f"<Shipping of {self._name}: {len(self._places)} stores, {self._fanout!r}>"

    def install(
        self,
        machine: Machine,
        info: Info,
        bundle: Bundle,
        *,
        done: Callable[[Shipped], None],
        failed: Callable[[BigmError], None],
    ) -> None:
        """Bring *bundle* to a machine that is enrolled.

        Args:
            machine: which.
            info: what its agent says of it.
            bundle: what it is to run.
            done: called on a thread that must not wait.
            failed: likewise, with what went wrong. A `WireError` explains nothing: the machine may have ended.
        """
        visit, since = _Visit(machine, info, bundle), time.monotonic()

        def over(found: Installed | None, error: BigmError | None) -> None:
            visit.over = True
            if found is not None:
                done(Shipped(found, visit.parts, visit.sent, visit.fetched, time.monotonic() - since))
            else:
                assert error is not None
                failed(error)

        self._errands.begin(machine, self._visit(visit), over)

    def gone(self, machine: Machine) -> None:
        """A machine has stopped: nobody can fetch from it."""
        self._errands.note(self._forget, machine)

    def close(self) -> None:
        """Do nothing any more."""
        self._errands.close()

    # --- a machine

    def _visit(self, visit: _Visit) -> Steps[Installed]:
        """The steps by which a machine gets its bundle."""
        yield from self._extend(visit)
        opened = yield from self._open(visit, 0)
        where = f"machine {visit.machine.addr} ({visit.info.hostname})"
        bring = functools.partial(self._with_parts, visit, opened)
        outfit = yield from self._outfits.find(visit.bundle, visit.info, where, bring)
        python, layer, visit.bundle = outfit.python, outfit.layer, outfit.bundle
        environment = (yield from self._call("Installer.find_environment", layer.key, python)) if layer else {}
        trees = [visit.bundle.program, visit.bundle.machine]
        needed = parts_of(*trees, *([layer.manifest] if layer and not environment else []))

        def set_up() -> Steps[Installed]:
            return self._set_up(visit, layer, python, environment)

        return (yield from bring(needed, set_up))

    def _with_parts(
        self, visit: _Visit, opened: Mapping[str, Any], needed: Mapping[str, int], use: Callable[[], Steps[T]]
    ) -> Steps[T]:
        """Have parts brought to the machine's store, and use them there."""
        visit.parts += len(needed)
        attempts = 0
        while True:
            place = yield from self._inquire(visit, opened, needed, anew=attempts > 0)
            yield from self._await_parts(place)
            try:
                return (yield from use())
            except PartError:  # removed by somebody who needed room, between our question and their use
                attempts += 1
                if attempts == _TRIES:
                    raise

    def _extend(self, visit: _Visit) -> Steps[None]:
        content = self._terms.extension()
        digest = hashlib.sha256(content).hexdigest() if content else ""
        if digest and (yield from self._call("Agent.have", [digest])):
            yield from self._call("Agent.put", digest, 0, content, True)
            visit.sent += len(content)
        yield from self._call("Agent.extend", digest)
        if self._terms.notices:
            yield from self._call("Installer.watch_notices")

    def _open(self, visit: _Visit, need: int) -> Steps[Mapping[str, Any]]:
        opened: Mapping[str, Any] = yield from self._call("Installer.open", self._terms.store, self._terms.keep, need)
        for note in opened["notes"]:
            self._once(self._warn, f"{visit.info.hostname}: {note}")
        return opened

    def _once(self, say: Callable[[str], None], text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            say(text)

    def _inquire(
        self, visit: _Visit, opened: Mapping[str, Any], needed: Mapping[str, int], *, anew: bool
    ) -> Steps[_Place]:
        """Find out what a store lacks; once for all machines that share it."""
        place = self._places.setdefault(opened["store"], _Place(opened["store"]))
        if visit not in place.visits:
            place.visits.append(visit)
        wanted = frozenset(needed)
        if anew:
            place.asked.pop(wanted, None)
        while wanted in place.asked:
            if place.asked[wanted]:
                return place
            yield Until(lambda: place.asked.get(wanted, True))  # whoever asks may fail: then it is for us to ask
        place.asked[wanted] = False
        try:
            missing = yield from self._call("Installer.have", list(needed))
            room = _ROOM * sum(needed[digest] for digest in missing)
            if opened["free"] < room and not anew:
                again = yield from self._open(visit, room)
                if again["store"] != place.id:
                    place.visits.remove(visit)
                    return (yield from self._inquire(visit, again, needed, anew=False))
            self._contents.update((digest, (visit.bundle.store, size)) for digest, size in needed.items())
            self.tally.wants(place.id, self._fanout.join(place.id, needed, missing))
            place.asked[wanted] = True
        finally:
            if not place.asked[wanted]:
                del place.asked[wanted]
        return place

    def _await_parts(self, place: _Place) -> Steps[None]:
        yield Until(lambda: place.failure or not self._fanout.lacks(place.id))
        if place.failure is not None:
            raise place.failure

    def _set_up(
        self, visit: _Visit, layer: Dependencies | None, python: str, environment: Mapping[str, Any]
    ) -> Steps[Installed]:
        """All parts are there: make files and an environment of them."""
        bundle = visit.bundle
        root = yield from self._call("Installer.lay_out", bundle.machine.digest, True)
        tree = yield from self._call("Installer.lay_out", bundle.program.digest, False)
        if not layer:
            found = yield from self._call("Installer.stdlib", python)
            environment = {**found, "python": python, "site": []}
        elif not environment:
            environment = yield from self._make_environment(visit, layer, python)
        return installed(bundle, environment, root, tree)

    def _make_environment(self, visit: _Visit, layer: Dependencies, python: str) -> Steps[Mapping[str, Any]]:
        count = len(layer.distributions)
        self._once(self._say, f"making the environment on {visit.info.hostname}: {count} distributions")
        self.tally.making += 1
        try:
            made: Mapping[str, Any] = yield from self._call(
                "Installer.environment", layer.manifest.digest, layer.key, python, bounded=False
            )
            return made
        finally:
            self.tally.making -= 1

    # --- parts on their way

    def _begin_transfers(self) -> None:
        for transfer in self._fanout.next():
            receivers = self._living(transfer.target)
            sources = self._living(transfer.source) if transfer.source != DRIVER else []
            if not receivers or (transfer.source != DRIVER and not sources):
                self._errands.note(self._fanout.finished, transfer, transfer.digests)
                continue
            receiver = receivers[0]
            steps = self._fetch(transfer, sources) if sources else self._send(transfer)
            over = functools.partial(self._transferred, transfer, receiver)
            self._errands.begin(receiver.machine, steps, over)

    def _living(self, store: str) -> list[_Visit]:
        """The machines of a store that live; a store without any is forgotten."""
        place = self._places.get(store)
        living = place.living() if place else []
        if not living:
            self._drop(store)
        return living

    def _drop(self, store: str, failure: BigmError | None = None) -> None:
        """Send nothing there any more: its machines have stopped, or it takes nothing. Who comes later begins anew."""
        place = self._places.pop(store, None)
        if place is not None:
            place.failure = failure
        self._fanout.leave(store)
        self.tally.drop(store)

    def _send(self, transfer: Transfer) -> Steps[Sequence[str]]:
        """Send parts from the driver; those that did not arrive."""
        if transfer.size <= CRATE:
            parts = [(digest, self._content(digest)) for digest in transfer.digests]
            yield from self._call("Installer.put_many", parts)
            return ()
        for digest in transfer.digests:
            size = self._contents[digest][1]
            missing = yield from self._call("Installer.have", [digest])
            offset = min(missing[digest], size - 1) if digest in missing else size  # a byte is to end it, if it has all
            while offset < size:
                data = self._content(digest, offset)
                received = yield from self._call("Installer.put", digest, offset, data, offset + len(data) == size)
                self.tally.moved(transfer.target, received - offset)
                offset = received
        return ()

    def _content(self, digest: str, offset: int = 0) -> bytes:
        store, size = self._contents[digest]
        data = store.get(digest, offset, PIECE)
        if len(data) < min(PIECE, size - offset):
            raise PartError(f"part {digest[:12]} ends after {offset + len(data)} of {size} bytes")
        return data

    def _damaged(self, digests: Sequence[str]) -> PartError | None:
        """Remove from the driver's store what is not what it should be, so that the next run has it anew."""
        for digest in digests:
            store, size = self._contents[digest]
            if digest in store.have([digest]):
                continue
            found = hashlib.sha256()
            with contextlib.suppress(PartError):  # it is short
                for offset in range(0, size, PIECE):
                    found.update(self._content(digest, offset))
            if found.hexdigest() != digest:
                with contextlib.suppress(OSError):
                    os.unlink(store.path(digest))
                return PartError(
                    f"part {digest[:12]} on this computer is damaged, and is removed",
                    hint="start the run again: it is made anew",
                )
        return None

    def _fetch(self, transfer: Transfer, sources: Sequence[_Visit]) -> Steps[Sequence[str]]:
        """Have a machine fetch parts from those of another store; those that did not arrive."""
        addresses = [visit.machine.addr for visit in sources]
        args = (list(transfer.digests), addresses, self._stall)
        stall = self._stall + transfer.size / _SLOWEST
        missing: Sequence[str] = yield from call("Installer.fetch", *args, stall=stall)
        return missing

    def _transferred(
        self, transfer: Transfer, receiver: _Visit, missing: Sequence[str] | None, error: BigmError | None
    ) -> None:
        lost = transfer.digests if missing is None else missing
        arrived = transfer.size - sum(self._contents[digest][1] for digest in lost)
        self._fanout.finished(transfer, lost)
        place = self._places.get(transfer.target)
        if place is None:
            return
        by_driver = transfer.source == DRIVER
        self.tally.arrived(transfer.target, arrived, sent=by_driver)
        if arrived and self.tally.summary():
            self._say(self.tally.summary())
        if not by_driver:
            receiver.fetched += arrived
            return
        receiver.sent += arrived
        place.refusals = place.refusals + 1 if error else 0
        if isinstance(error, MachineStopped):
            return
        if isinstance(error, WireError) and receiver in place.visits and len(place.living()) > 1:
            place.visits.remove(receiver)  # another machine of that computer may be reached
        elif isinstance(error, WireError) or place.refusals >= _TRIES:
            self._drop(transfer.target, (isinstance(error, PartError) and self._damaged(transfer.digests)) or error)

    def _forget(self, machine: Machine) -> None:
        for id, place in list(self._places.items()):
            if any(visit.machine is machine for visit in place.visits):
                place.visits = [visit for visit in place.visits if visit.machine is not machine]
                self._living(id)
