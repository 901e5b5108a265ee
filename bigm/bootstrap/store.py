"""A machine's store: parts and what is made of them, shared by the machines of one user on one computer.

    parts/<sha256>            parts, whole and verified
    kept/<name>/              trees and environments
    kept/<name>.lock          the lock of each, which says what it is: shared by its users, exclusive to who removes it
    kept/<name>.making        locked by who makes it, and by the processes that help, while others wait
    kept/<name>.written       it is on the disk for certain
    users/<id>/               what one machine is receiving or making; removed with the machine, or by the next one
    users/<id>.lock           locked for as long as that machine lives
    id                        a random one: machines that read the same one share this store
    boot-<host>               which boot of the computer the store was last opened in

Several processes use it at the same time, and any of them may die at any moment. Locks end with who holds them; a name
appears by one rename; what is in `users` belongs to one machine alone.

Only big parts are written through to the disk, and nothing that is made of parts is: that would hold up everybody. When
the computer was started anew, it may have crashed: small parts are verified again, and what was made shortly before is
made again, unless somebody still used it so much later that the kernel had long written it out.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import os
import platform
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Optional, TypeVar

from bigm.bootstrap import folders, trimming
from bigm.bootstrap.folders import StoreError
from bigm.bootstrap.locks import Lock, held
from bigm.parts import WRITTEN_THROUGH, PartError, Parts

_WRITTEN = 300.0  # seconds after which all kernels have written to the disk what they were given, ten times over

T = TypeVar("T")


class Store:
    """One process's hold on a store; makes it when it is new.

    Args:
        path: its folder, one that `folders.check` finds nothing wrong with.
        bound: bytes to which it is trimmed of what nobody uses; 0: not at all.
        boot: which boot of the computer this is; asked of the kernel when None.
        clock: seconds since 1970.
    """

    def __init__(
        self, path: str, bound: int = 0, *, boot: Optional[str] = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self.bound = bound
        self._boot = _boot() if boot is None else boot
        self._clock = clock
        for name in ("parts", "kept", "users"):
            os.makedirs(os.path.join(path, name), mode=0o700, exist_ok=True)
        self._lock = threading.Lock()
        self._used: dict[str, Lock] = {}
        self._helpers: set[int] = set()
        me = os.path.join(path, "users", secrets.token_hex(8))
        with held(os.path.join(path, "lock")):
            self._sweep()
            self.id = self._identify()
            self._verify_after_boot()
            self._alive = Lock(f"{me}.lock")
            self._alive.take(exclusive=True)
            os.mkdir(me, 0o700)
        self.work = me  # for what is not finished; on the store's disk
        self.parts = Parts(os.path.join(path, "parts"), incoming=me)
        self._pid = os.getpid()
        atexit.register(self.close)

    def __repr__(self) -> str:
        return f"<Store {self.path}, in use: {len(self._used)}>"

    def have(self, digests: Iterable[str]) -> dict[str, int]:
        """Which parts are missing, each with the count of its bytes already received; the others are kept for now."""
        wanted = list(digests)
        missing = self.parts.have(wanted)
        for digest in wanted:
            if digest not in missing:
                try:
                    os.utime(self.parts.path(digest))
                except FileNotFoundError:  # trimmed just now
                    missing[digest] = 0
        return missing

    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """Which parts are here, each with its size in bytes; they are kept for now."""
        wanted = list(digests)
        missing = self.have(wanted)
        return {digest: os.path.getsize(self.parts.path(digest)) for digest in wanted if digest not in missing}

    def put(self, digest: str, offset: int, data: bytes, *, last: bool) -> int:
        """Take a piece of a part, as `Parts.put` does; makes room for it where the disk is full."""
        try:
            return self.parts.put(digest, offset, data, last=last)
        except PartError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        self.trim(room=len(data) + folders.RESERVE)
        try:
            return self.parts.put(digest, offset, data, last=last)
        except PartError as error:
            raise PartError(
                f"{error.message}: {self.free() >> 10} KiB are free, of {len(data) >> 10} KiB for this piece",
                hint="make room there, or name another folder",
            ) from error

    def take(self, digest: str, data: bytes) -> None:
        """Take a whole small part: written once, and never read back."""
        path = self.parts.path(digest)
        if len(data) >= WRITTEN_THROUGH or hashlib.sha256(data).hexdigest() != digest:
            self.put(digest, 0, data, last=True)  # which says what is wrong
            return
        if os.path.exists(path):
            return
        unfinished = os.path.join(self.work, f"{digest}.{threading.get_ident()}")
        try:
            with open(unfinished, "wb") as file:
                file.write(data)
            os.rename(unfinished, path)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
            self.put(digest, 0, data, last=True)  # which makes room

    def keep(self, name: str, make: Callable[[str, int], Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
        """What is kept under *name*: made once for all who share this store, and in use here until `close`.

        Args:
            name: a file name without a dot; the same name, the same content.
            make: makes the folder that it is given, and says what is to be known of it: "size" in bytes at least. It is
                given a descriptor too, for processes that write there: nobody else begins before these have ended.
        Returns:
            tuple: path of the folder, and what *make* said of it when that was.
        """
        path = os.path.join(self.path, "kept", name)
        lock = Lock(f"{path}.lock")
        try:
            lock.take(exclusive=False)
            if not self._stands(lock.read(), path):
                with held(f"{path}.making") as making:
                    if not self._stands(lock.read(), path):
                        lock.write({})
                        trimming.remove(path)
                        lock.write({**make(path, making), "boot": self._boot, "made": self._clock()})
        except BaseException:
            lock.close()
            raise
        lock.touch()
        self._use(name, lock)
        return path, lock.read()

    def find(self, name: str) -> dict[str, Any]:
        """What is known of what is kept under *name*, which is in use from now on; empty: it is not here."""
        path = os.path.join(self.path, "kept", name)
        if not os.path.isdir(path):
            return {}
        lock = Lock(f"{path}.lock")
        if lock.take(exclusive=False, wait=False) and self._stands(lock.read(), path):
            lock.touch()
            self._use(name, lock)
            return lock.read()
        lock.close()
        return {}

    @contextlib.contextmanager
    def helped_by(self, group: int) -> Iterator[None]:
        """A group of processes that is killed if this ends meanwhile."""
        self._helpers.add(group)
        try:
            yield
        finally:
            self._helpers.discard(group)

    def free(self) -> int:
        """Bytes that may still be written here."""
        return folders.free(self.path)

    def with_room(self, room: int, work: Callable[[], T]) -> T:
        """Do *work*; again with *room* bytes made free, as far as that is possible, when the disk refuses it."""
        try:
            return work()
        except StoreError:
            self.trim(room)
            return work()

    def trim(self, room: int = 0) -> None:
        """Remove what nobody uses, the longest unused first, down to the bound and until *room* bytes are free.

        Without *room* nothing is done while another process does the same.
        """
        trimming.trim(self.path, bound=self.bound, room=room, now=self._clock())

    def untrimmed(self) -> float:
        """Seconds since it was trimmed."""
        return self._clock() - trimming.last(self.path)

    def close(self) -> None:
        """Let go of all that was in use, and remove what was not finished."""
        if os.getpid() != self._pid:
            return  # forked: it is our parent's
        self._pid = 0
        atexit.unregister(self.close)
        for group in list(self._helpers):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        with self._lock:
            used, self._used = self._used, {}
        for name, lock in used.items():
            self._note_written(name, lock)
            lock.close()
        shutil.rmtree(self.work, ignore_errors=True)
        self._alive.remove()

    def _use(self, name: str, lock: Lock) -> None:
        self._note_written(name, lock)
        with self._lock:
            before = self._used.pop(name, None)
            self._used[name] = lock
        if before is not None:
            before.close()

    def _stands(self, record: Mapping[str, Any], path: str) -> bool:
        safe = record.get("boot") == self._boot or os.path.exists(f"{path}.written")
        return bool(record) and safe and os.path.isdir(path)

    def _note_written(self, name: str, lock: Lock) -> None:
        made = lock.read().get("made")
        path = os.path.join(self.path, "kept", f"{name}.written")
        if made and self._clock() > made + _WRITTEN and not os.path.exists(path):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))

    def _identify(self) -> str:
        path = os.path.join(self.path, "id")
        try:
            with open(path, encoding="ascii") as file:
                found = file.read()
        except FileNotFoundError:
            found = ""
        if not found:
            found = secrets.token_hex(8)
            with open(path, "w", encoding="ascii") as file:
                file.write(found)
        return found

    def _sweep(self) -> None:
        """Remove what dead machines have left behind."""
        users = os.path.join(self.path, "users")
        for name in {each.partition(".")[0] for each in os.listdir(users)}:
            lock = Lock(os.path.join(users, f"{name}.lock"))
            if lock.take(exclusive=True, wait=False):
                shutil.rmtree(os.path.join(users, name), ignore_errors=True)
                lock.remove()
            lock.close()

    def _verify_after_boot(self) -> None:
        path = os.path.join(self.path, f"boot-{platform.node()}")
        before = now = self._boot
        if os.path.exists(path):
            with open(path, encoding="ascii") as file:
                before = file.read()
        if before != now:
            for facts, part in trimming.parts(self.path):
                with contextlib.suppress(FileNotFoundError):  # another machine trims meanwhile
                    if facts.st_size < WRITTEN_THROUGH and _digest(part) != os.path.basename(part):
                        os.unlink(part)
        with open(path, "w", encoding="ascii") as file:
            file.write(now)


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _boot() -> str:
    """Which boot of this computer it is; "" where nobody tells."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
