"""Takes a bundle on a machine: parts, trees of files, and the environment to run them in.

It is not in the agent's zip. A driver that ships a bundle sends it after enrolment, with all it needs besides, and has
the agent serve it (`Agent.extend`); machines that need no bundle never see it.

Other machines may ask for parts (`have`, `sizes`, `get`, `get_many`); all else is the driver's.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

from bigm.bootstrap import folders, imds, pythons, report, trees, trimming, venvs
from bigm.bootstrap.folders import StoreError
from bigm.bootstrap.store import Store
from bigm.errors import BigmError, ConfigError
from bigm.manifest import Manifest
from bigm.parts import PartError
from bigm.rpc.server import Server

if TYPE_CHECKING:
    from bigm.bootstrap.agent import Agent

SERVICE = "Installer"
_METHODS = (
    "watch_notices",
    *("open", "have", "put", "put_many", "get", "get_many", "sizes", "fetch"),
    *("lay_out", "find_environment", "environment"),
    *("pythons", "examine", "find_interpreter", "interpreter", "stdlib"),
)
_GET_BYTES = 4 << 20  # of a part in one reply
_UNPACKED = 5  # times that the archive of an interpreter becomes larger, as a guess of what to make room for
_TRIM_EVERY = 3600.0  # seconds, at least, unless something big was made
_MANIFEST_BYTES = 1 << 30  # of a manifest: any


def serve(agent: Agent, folder: str, mark: str) -> None:
    """Register the installer with the agent's server; done once, however often.

    Args:
        agent: the machine's.
        folder: where the machine keeps its state.
        mark: value of BIGM_MACHINE in what the machine starts.
    """
    notices = imds.Notices(agent.preempt, agent.advise, agent.say)
    agent.server.register(SERVICE, Installer(agent.server, folder, mark, agent.say, notices), methods=_METHODS)


class Installer:
    """Installs bundles, as a service for the driver. Its methods take and return plain values.

    Args:
        server: the agent's, whose name and certificate other machines are asked with.
        folder: where the machine keeps its state.
        mark: value of BIGM_MACHINE in what the machine starts.
        say: tells the machine's log something.
        notices: tells the agent of the machine's end, once it is started; None: there is none to be told of.
    """

    def __init__(
        self,
        server: Server,
        folder: str,
        mark: str,
        say: Callable[[str], None],
        notices: Optional[imds.Notices] = None,
    ) -> None:
        self._server = server
        self._folder = folder
        self._mark = mark
        self._say = say
        self._notices = notices
        self._lock = threading.Lock()
        self._opened: Optional[Store] = None

    def __repr__(self) -> str:
        return f"<Installer of {self._server.name}: {self._opened}>"

    def watch_notices(self) -> None:
        """Ask the provider for notices of this machine's end from now on. Again: nothing."""
        with self._lock:
            notices, self._notices = self._notices, None
        if notices is not None:
            notices.start()

    def open(self, store: str = "", bound: int = 0, need: int = 0) -> dict[str, Any]:
        """Choose where parts and what is made of them are kept. Before anything else; again, to have another place.

        Args:
            store: a folder shared by all machines of this user on that computer, kept after their end, "~" expanded; ""
                is one of this machine's own.
            bound: bytes that a shared store keeps at most of what nobody uses; 0: no bound.
            need: bytes that must be free there; what nobody uses is removed for it.
        Returns:
            dict: "store": a random id that stays with the place, so that machines that have the same one share it;
            "path": the folder; "free": bytes; "notes": sentences on the folders that were passed over.
        Raises:
            StoreError: there is none; each folder is named with what is wrong with it.
        """
        path, notes = self._own() if not store else _choose(store, bound, need)
        with self._lock:
            if self._opened is None or self._opened.path != path:
                try:
                    self._opened = Store(path, bound)
                except OSError as error:
                    text = f"cannot install into {path}: {error.filename or ''} {error.strerror}"
                    raise StoreError(text, hint="remove it, or name another folder") from error
            opened = self._opened
        if opened.untrimmed() > _TRIM_EVERY:
            _trim_soon(opened, self._say)
        return {"store": opened.id, "path": path, "free": opened.free(), "notes": notes}

    def have(self, digests: Iterable[str]) -> dict[str, int]:
        """Which parts are missing here, each with the count of its bytes already received."""
        return self._store.have(digests)

    def put(self, digest: str, offset: int, data: bytes, last: bool) -> int:
        """Take a piece of a part; see `bigm.parts.Parts.put`."""
        return self._store.put(digest, offset, data, last=last)

    def put_many(self, parts: Sequence[tuple[str, bytes]]) -> int:
        """Take whole parts, as pairs of digest and content; how many those are."""
        for digest, data in parts:
            self._store.take(digest, data)
        return len(parts)

    def get(self, digest: str, offset: int, size: int) -> bytes:
        """Read a piece of a part, up to 4 MiB; see `bigm.parts.Parts.get`."""
        return self._store.parts.get(digest, offset, min(size, _GET_BYTES))

    def get_many(self, digests: Sequence[str]) -> list[bytes]:
        """Read whole parts, small ones: up to 4 MiB in all.

        Raises:
            PartError: one is not here, or they are more than that.
        """
        found = []
        room = _GET_BYTES
        for digest in digests:
            found.append(self._store.parts.get(digest, 0, room + 1))
            room -= len(found[-1])
            if room < 0:
                raise PartError(f"{len(digests)} parts are more than {_GET_BYTES >> 20} MiB", hint="get each by itself")
        return found

    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """Which parts are here, each with its size in bytes."""
        return self._store.sizes(digests)

    def fetch(self, digests: Sequence[str], sources: Sequence[str], stall: float = 30.0) -> list[str]:
        """Bring parts here from other machines, each verified.

        A source that does not answer, or sends something else, is passed over for the next; the machine's log says why.

        Args:
            digests: which.
            sources: addresses of machines that may have them, "locator/machine", the best first.
            stall: seconds that a mebibyte may take.
        Returns:
            list: those that are still missing.
        Raises:
            PartError: the disk here refuses them.
            ConfigError: an address is none.
        """
        from bigm.bootstrap import fetching  # the client side: 0.1 s of CPU to import from a zip

        store = self._store
        for address in sources:
            missing = store.have(digests)
            if not missing:
                break
            try:
                with fetching.Source(address, self._server.credentials, stall) as source:
                    source.bring(store, missing)
            except ConfigError:
                raise
            except BigmError as error:
                if isinstance(error, PartError) and isinstance(error.__cause__, (OSError, PartError)):
                    raise  # it is the disk here that refuses them
                self._say(f"parts cannot be fetched from {address}: {error}")
        return list(store.have(digests))

    def lay_out(self, manifest: str, shared: bool) -> str:
        """Make files of a tree all of whose parts are here.

        Args:
            manifest: digest of its manifest.
            shared: it is only read: once for all who use this store. Else it is this machine's own, made anew.
        Returns:
            str: path of the folder.
        Raises:
            PartError: a part is missing.
            StoreError: the disk refuses it.
        """
        store = self._store
        tree = self._tree(manifest)
        if not shared:
            return self._lay_out_own(store, tree, manifest)

        def make(path: str, making: int) -> Mapping[str, Any]:
            room = tree.size + folders.RESERVE
            store.with_room(room, lambda: trees.write(tree, store.parts, path, work=store.work))
            return {"size": tree.size}

        return store.keep(f"tree-{manifest}", make)[0]

    def _lay_out_own(self, store: Store, tree: Manifest, manifest: str) -> str:
        """In the machine's own folder, unless that is on a disk which is full or nothing can be run from."""
        own = self._folder
        if folders.noexec(own) or folders.free(own) < tree.size + folders.RESERVE:
            own = store.work
        path = os.path.join(own, f"tree-{manifest[:16]}")
        if not os.path.isdir(path):  # else the reply of an earlier call was lost
            trees.write(tree, store.parts, path, work=own)
        return path

    def find_environment(self, key: str, python: str) -> dict[str, Any]:
        """The environment of a dependency layer, if it was made here before: then none of the layer's parts is needed.

        Args:
            key: of the layer.
            python: path of the interpreter it is for.
        Returns:
            dict: as of `environment`; empty when it has to be made.
        """
        return self._store.find(venvs.name_of(key, python))

    def environment(self, manifest: str, key: str, python: str) -> dict[str, Any]:
        """Make a virtual environment of a dependency layer, once for all who use this store. Takes seconds to minutes.

        Args:
            manifest: digest of the layer's manifest, all of whose parts are here.
            key: of the layer.
            python: path of the interpreter it is for.
        Returns:
            dict: "python": path of the environment's own; "version": its version; "stdlib" and "site": its `sys.path`,
            the entries of the standard library and the others; "base"; "size" in bytes.
        Raises:
            PartError: a part is missing.
            StoreError: the disk is full.
            VenvError: there is no such interpreter, or pex does not make it for that one.
        """
        store = self._store

        def make(path: str, making: int) -> Mapping[str, Any]:
            return venvs.make(self._tree(manifest), store, python, path, mark=self._mark, making=making)

        made = store.keep(venvs.name_of(key, python), make)[1]
        _trim_soon(store, self._say)
        return made

    def pythons(self, minor: str = "") -> list[dict[str, Any]]:
        """The interpreters of this computer, as `bigm.bootstrap.pythons.find` tells of them."""
        return pythons.find(minor, os.path.join(self._opened.path, "pythons") if self._opened else "")

    def examine(self, python: str) -> dict[str, Any]:
        """What the interpreter at a path is, as `bigm.bootstrap.report.examine` tells, or why it is none."""
        return report.examine(python)

    def find_interpreter(self, digest: str) -> dict[str, Any]:
        """An interpreter that was sent and unpacked here before: then its archive is not needed.

        Args:
            digest: of its archive.
        Returns:
            dict: as of `interpreter`; empty when it has to be unpacked.
        """
        store = self._store
        known = store.find(f"python-{digest}")
        return report.examine(os.path.join(store.path, "kept", f"python-{digest}", known["python"])) if known else {}

    def interpreter(self, digest: str) -> dict[str, Any]:
        """Unpack an interpreter that was sent, once for all who use this store.

        Args:
            digest: of its archive, which is here as a part.
        Returns:
            dict: what it is, as of `examine`; "path": where it is.
        Raises:
            PartError: the archive is not here.
            InterpreterError: it holds no interpreter that runs here.
            StoreError: the disk is full.
        """
        from bigm.bootstrap import interpreter  # and tarfile

        store = self._store
        archive = store.parts.path(digest)

        def make(path: str, making: int) -> Mapping[str, Any]:
            store.parts.get(digest, 0, 1)  # raises when it is not here
            return store.with_room(_UNPACKED * os.path.getsize(archive), lambda: interpreter.unpack(archive, path))

        folder, known = store.keep(f"python-{digest}", make)
        _trim_soon(store, self._say)
        return report.examine(os.path.join(folder, known["python"]))

    def stdlib(self, python: str) -> dict[str, Any]:
        """Where an interpreter looks for modules, as of `environment`; see `bigm.bootstrap.pythons.paths`."""
        return pythons.paths(python)

    def _own(self) -> tuple[str, list[str]]:
        path = os.path.join(self._folder, "store")
        wrong = folders.check(path)
        if wrong:
            raise StoreError(f"cannot install into the machine's own folder: {path} {wrong}", hint="name another one")
        return path, []

    def _tree(self, manifest: str) -> Manifest:
        return Manifest.from_bytes(self._store.parts.get(manifest, 0, _MANIFEST_BYTES))

    @property
    def _store(self) -> Store:
        if self._opened is None:
            raise BigmError("this machine has no store yet", hint="call Installer.open first")
        return self._opened


def _choose(store: str, bound: int, need: int) -> tuple[str, list[str]]:
    path = os.path.abspath(os.path.expanduser(store))
    room = need + folders.RESERVE
    if os.path.isdir(os.path.join(path, "kept")) and folders.free(path) < room and not folders.whose(path):
        with contextlib.suppress(OSError):  # what is wrong with it is said by who looks at it next
            trimming.trim(path, bound=bound, room=room, now=time.time())
    return folders.choose(store, need)


def _trim_soon(store: Store, say: Callable[[str], None]) -> None:
    def trim() -> None:
        try:
            store.trim()
        except OSError as error:
            say(f"{store.path} cannot be trimmed: {error.strerror}")

    if store.bound:
        threading.Thread(target=trim, name="bigm-store-trim", daemon=True).start()
