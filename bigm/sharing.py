"""Objects that a cluster shares with its machines: the driver's half. Each is sent to each machine once.

    share -> a file of the driver's -> the first machine -> two others -> two others each -> ...

`Shared` is the handle. Pickled, it is a reference of a few bytes; from its first use on the object is brought to every
machine, also to those that start later. The driver sends it to one, and tells the workers of the others from which
machine to fetch it; each verifies it, and where a machine that it was to come from has ended, or sends something else,
another takes its place, at last the driver again.

One thread decides, and it alone changes what is known of objects and machines: everybody else leaves it a
note (`bigm.notes`), the garbage collector too, which may come at any moment. It waits for nobody: sending and fetching
are calls, whose answers are notes as well.

The machine's half, and the file's format: `bigm.worker.shared`.
"""

from __future__ import annotations

import functools
import os
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bigm.clock import Clock
from bigm.errors import MachineStopped, NotPicklable, WireError
from bigm.lifecycle import State
from bigm.machine import Machine
from bigm.notes import Notes
from bigm.rpc import codec
from bigm.rpc.calls import CallFuture, keep, take_kept
from bigm.rpc.client import Client
from bigm.timeouts import Timeouts
from bigm.worker import shared

_PIECE = 4 << 20  # bytes of one `Agent.put`
_FAN = 2  # machines that fetch from one at a time
_TRIES = 3  # times that a machine is sent an object by the driver before its calls are told why it does not come
_AGAIN = 1.0  # seconds before a worker that was too busy is told again


class Shared:
    """The handle of an object that a cluster shares. Made by `Cluster.share`.

    In arguments of calls, at whatever depth, it stands for the object: the method gets the object itself. When the last
    reference to the handle is gone and no call with it is in flight, machines and driver let go of the object.
    """

    def __init__(self, sharing: Sharing, part: _Part, what: str, keeps: object) -> None:
        self._sharing = sharing
        self._part = part
        self._what = what
        self._keeps = keeps  # handles of what is shared in it
        self._closing = weakref.finalize(self, sharing._notes.leave, sharing._drop, part)
        self._closing.atexit = False

    def __repr__(self) -> str:
        state = "closed" if self._part.dropped else f"on {len(self._part.here)} machines"
        return f"<Shared {self._what}, {self.size} bytes, {state}>"

    @property
    def size(self) -> int:
        """Bytes that are sent to each machine."""
        return self._part.size

    def close(self) -> None:
        """Let machines and driver free it now. Calls that are in flight with it may fail; later ones do."""
        self._part.dropped = True
        self._closing()

    def __copy__(self) -> Shared:
        return self

    def __deepcopy__(self, memo: object) -> Shared:
        return self

    def __reduce__(self) -> tuple[Callable[[str, str], Any], tuple[str, str]]:
        if self._part.dropped:
            raise NotPicklable(f"{self!r} was closed", hint="share the object again")
        self._sharing._use(self._part)
        keep(self)
        return shared.arrived, (self._sharing.cluster, self._part.digest)


class _Part:
    """A shared object, as the driver keeps it."""

    def __init__(self, file: Any, digest: str) -> None:
        self.file = file
        self.digest = digest
        self.size = os.fstat(file.fileno()).st_size
        self.used = False
        self.dropped = False
        self.wanted: deque[_Place] = deque()  # machines to bring it to
        self.coming: set[_Place] = set()  # machines it is on its way to
        self.here: set[_Place] = set()
        self.tries: dict[_Place, int] = {}
        self.bad: dict[_Place, set[_Place]] = {}  # by machine, from where it could not fetch
        self.untold = 0  # workers that have not confirmed to have forgotten it


class _Place:
    """A machine that objects are brought to."""

    def __init__(self, machine: Machine, clients: Sequence[Client], folder: str) -> None:
        self.machine = machine
        self.clients = clients  # of its workers
        self.folder = folder
        self.giving = 0  # machines that fetch from it

    @property
    def living(self) -> bool:
        return self.machine.state is not State.STOPPED


class Sharing:
    """What one cluster shares.

    Args:
        name: the cluster's name.
        cluster: its id.
        folder: where the driver keeps what is shared, in files without a name.
        elsewhere: machines are other processes, to which things must be sent.
        timeouts: of the cluster.
        clock: calls what is due.
    """

    def __init__(
        self, name: str, cluster: str, *, folder: Path, elsewhere: bool, timeouts: Timeouts, clock: Clock
    ) -> None:
        self.cluster = cluster
        self._name = name
        self._folder = folder
        self._elsewhere = elsewhere
        self._timeouts = timeouts
        self._clock = clock
        self._notes = Notes(f"bigm-share-{name}")
        self._handles: weakref.WeakValueDictionary[str, Shared] = weakref.WeakValueDictionary()
        self._parts: dict[str, _Part] = {}
        self._places: dict[str, _Place] = {}

    def __repr__(self) -> str:
        return f"<Sharing of {self._name}: {len(self._parts)} objects, {len(self._places)} machines>"

    def share(self, value: object) -> Shared:
        """A handle of *value*, as `Cluster.share` gives it."""
        what = type(value).__name__
        segments = codec.dumps(value, f"the shared {what}")
        keeps = take_kept()
        file = tempfile.TemporaryFile(dir=self._folder)  # stays open as long as the object is shared
        try:
            part = _Part(file, shared.write(file, segments))
        except BaseException:
            file.close()
            raise
        handle = Shared(self, part, what, keeps)
        self._handles[part.digest] = handle
        self._notes.start()
        self._notes.leave(self._add, part)
        return handle

    def value(self, digest: str) -> Shared:
        """What a reference means in this process: the handle.

        Raises:
            NotPicklable: it is not shared any more.
        """
        handle = self._handles.get(digest)
        if handle is None:
            raise NotPicklable(f"the object is not shared any more by cluster {self._name}")
        return handle

    def up(self, machine: Machine, workers: Sequence[Client], folder: str) -> None:
        """A machine's workers can be called.

        Args:
            machine: which.
            workers: their clients.
            folder: where the machine keeps its state.
        """
        self._notes.leave(self._up, machine, workers, folder)

    def again(self, machine: Machine, worker: Client) -> None:
        """One of a machine's workers was started anew.

        Args:
            machine: which.
            worker: its new client, which has the name of the one before.
        """
        self._notes.leave(self._again, machine, worker)

    def close(self) -> None:
        """The cluster has ended: let go of everything."""
        self._notes.close()
        for part in list(self._parts.values()):
            part.file.close()

    def _use(self, part: _Part) -> None:
        """A call is made with an object; in whatever thread pickles it."""
        if self._notes.closed:
            raise NotPicklable(f"the cluster {self._name} that shares this object is shut down")
        if not part.used:
            part.used = True
            self._notes.leave(self._first_use, part)

    # --- what the one thread does

    def _add(self, part: _Part) -> None:
        self._parts[part.digest] = part

    def _first_use(self, part: _Part) -> None:
        for place in self._places.values():
            self._want(part, place)
        self._advance(part)

    def _up(self, machine: Machine, workers: Sequence[Client], folder: str) -> None:
        place = self._places[machine.id] = _Place(machine, workers, folder)
        for part in self._parts.values():
            if part.used:
                self._want(part, place)
                self._advance(part)

    def _again(self, machine: Machine, worker: Client) -> None:
        place = self._places[machine.id]
        place.clients = [worker if client.name == worker.name else client for client in place.clients]
        for part in self._parts.values():
            if part.used:
                self._tell_one(place, worker, "expect", (part.digest, self._path(part, place)))
                if place in part.here:
                    self._tell_one(place, worker, "here", (part.digest,))

    def _want(self, part: _Part, place: _Place) -> None:
        self._tell(place, "expect", part.digest, self._path(part, place))
        if self._elsewhere:
            part.wanted.append(place)
        else:
            part.here.add(place)
            self._tell(place, "here", part.digest)

    def _path(self, part: _Part, place: _Place) -> str:
        if not self._elsewhere:
            return f"/dev/fd/{part.file.fileno()}"
        return os.path.join(place.folder, "parts", part.digest)

    def _advance(self, part: _Part) -> None:
        """Have it sent to whoever it can be sent to now."""
        waiting = [place for place in part.wanted if place.living]
        part.wanted.clear()
        sources = {place for place in part.here if place.living}
        free = sorted((each for each in sources if each.giving < _FAN), key=lambda each: each.giving)
        for place in waiting:
            bad = part.bad.get(place, set())
            source = next((each for each in free if each not in bad), None)
            if source is not None:
                self._fetch(part, place, source)
                if source.giving == _FAN:
                    free.remove(source)
            elif not part.coming and not sources - bad:
                part.coming.add(place)
                self._put(part, place, 0)
            else:
                part.wanted.append(place)

    def _fetch(self, part: _Part, place: _Place, source: _Place) -> None:
        part.coming.add(place)
        source.giving += 1
        args = (part.digest, self._path(part, place), part.size, source.machine.addr, self._timeouts.stall)
        place.clients[0].submit_internal("Shares.fetch", args, done=self._noting(self._fetched, part, place, source))

    def _fetched(self, part: _Part, place: _Place, source: _Place, reply: CallFuture) -> None:
        source.giving -= 1
        if reply.exception() is None:
            self._arrived(part, place)
            return
        part.bad.setdefault(place, set()).add(source)
        self._missed(part, place)
        self._advance_all()

    def _missed(self, part: _Part, place: _Place) -> None:
        """It did not come to a machine: it is wanted there as before, or by nobody any more."""
        part.coming.discard(place)
        if part.dropped:
            self._forget(part, place)  # what has come of it, meanwhile
            self._dispose(part)
        else:
            part.wanted.append(place)

    def _put(self, part: _Part, place: _Place, offset: int) -> None:
        if part.dropped:
            self._missed(part, place)
            return
        data = os.pread(part.file.fileno(), _PIECE, offset)
        end = offset + len(data)
        place.machine._agent.submit_internal(
            "Agent.put",
            (part.digest, offset, data, end == part.size),
            timeout=self._timeouts.stall,
            done=self._noting(self._was_put, part, place, end),
        )

    def _was_put(self, part: _Part, place: _Place, end: int, reply: CallFuture) -> None:
        error = reply.exception()
        received = 0 if error is not None else reply.result()
        if received == part.size:
            self._arrived(part, place)
        elif error is None and received >= end:
            self._put(part, place, received)
        else:
            self._not_put(part, place, str(error or f"it has {received} of {end} bytes that were sent"))

    def _not_put(self, part: _Part, place: _Place, why: str) -> None:
        part.tries[place] = part.tries.get(place, 0) + 1
        if part.tries[place] < _TRIES or part.dropped:
            self._missed(part, place)
        else:
            part.coming.discard(place)
            self._tell(place, "refuse", part.digest, why)
        self._advance_all()

    def _arrived(self, part: _Part, place: _Place) -> None:
        part.coming.discard(place)
        if part.dropped:
            self._missed(part, place)
            return
        part.here.add(place)
        self._tell(place, "here", part.digest)
        self._advance_all()

    def _advance_all(self) -> None:
        """A machine may be free to give another object now."""
        for part in list(self._parts.values()):
            if part.wanted:
                self._advance(part)

    def _drop(self, part: _Part) -> None:
        """Nothing refers to it any more."""
        part.dropped = True
        if self._parts.pop(part.digest, None) is None:
            return
        part.wanted.clear()
        if part.used:
            for place in self._places.values():
                self._forget(part, place)
        self._dispose(part)

    def _forget(self, part: _Part, place: _Place) -> None:
        part.untold += len(place.clients)
        path = self._path(part, place) if self._elsewhere else ""
        self._tell(place, "forget", part.digest, path, told=functools.partial(self._forgotten, part))

    def _forgotten(self, part: _Part) -> None:
        part.untold -= 1
        self._dispose(part)

    def _dispose(self, part: _Part) -> None:
        """Close its file, once nobody can look into it."""
        if not part.coming and part.untold <= 0:
            part.file.close()

    def _tell(self, place: _Place, method: str, *args: Any, told: Callable[[], None] = lambda: None) -> None:
        """Tell all workers of a machine."""
        for client in place.clients:
            self._tell_one(place, client, method, args, told)

    def _tell_one(
        self,
        place: _Place,
        client: Client,
        method: str,
        args: tuple[Any, ...],
        told: Callable[[], None] = lambda: None,
    ) -> None:
        done = self._noting(self._answered, place, client, method, args, told)
        client.submit_internal(f"Shares.{method}", args, timeout=self._timeouts.stall, done=done)

    def _answered(
        self,
        place: _Place,
        client: Client,
        method: str,
        args: tuple[Any, ...],
        told: Callable[[], None],
        reply: CallFuture,
    ) -> None:
        error = reply.exception()
        lost = isinstance(error, WireError) and not isinstance(error, MachineStopped)
        if lost and place.living and client in place.clients:
            again = functools.partial(self._notes.leave, self._tell_one, place, client, method, args, told)
            self._clock.after(_AGAIN, again)
        else:
            told()

    def _noting(self, function: Callable[..., None], *args: Any) -> Callable[[CallFuture], None]:
        return functools.partial(self._notes.leave, function, *args)
