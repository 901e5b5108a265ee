"""The driver's dependency layers, kept from run to run: each by its key, its content in the driver's store of parts.

    <home>/cache/layers/
        <key>             the layer's facts, as JSON; locked, shared, by those who use its parts
        <begin>.making    locked by who makes it; its name is the key's first digits
        <begin>.work/     what is being made, or what is left of an attempt that failed
        all               see `bigm.bundle.holdings`
        seen/<digest>     an environment as it was when its files were last read
    <home>/cache/pex/     pex's own cache, and pex.lock, held by who uses it
        patched/          its caches for distributions that were patched in place

The kernel lets go of a lock for who died: nothing here needs to be cleared up by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bigm.bootstrap.locks import Lock
from bigm.bundle.bundle import Dependencies
from bigm.bundle.holdings import LAYERS, Holdings, Use, age, shared, tried
from bigm.bundle.snapshot import keep_bytes, keep_file
from bigm.errors import BigmError, ConfigError
from bigm.manifest import File, Manifest, ManifestError
from bigm.parts import PartError, Parts

KEEP = 8 << 30  # bytes of layers that are kept for later runs; one with torch and CUDA has 2.5 GB
KEEP_OF_PEX = 8 << 30  # bytes of pex's cache; above that it begins anew: 91 distributions take 98 s then, else 19 s

PATCHED = "patched"
KEEP_SEEN = 100  # environments


class Made(NamedTuple):
    """What the maker of a layer has made.

    Args:
        tree: folder with a packed pex.
        python: minor version that it is for.
        distributions: what is in it, "numpy 2.1.0", sorted.
        notes: what the user should know about it, each time that it is used.
    """

    tree: Path
    python: str
    distributions: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Seen(NamedTuple):
    """An environment, as it was when its files were last read.

    Args:
        state: `environment.state_of` *paths*.
        key: of its layer.
        notes: what the user should know of it, besides what concerns the layer.
        paths: of its modules.
    """

    state: str = ""
    key: str = ""
    notes: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


class Layers:
    """The layers in one cache.

    Args:
        cache: bigm's folder of caches.
        store: has their parts; in the same cache.
    """

    def __init__(self, cache: Path, store: Parts) -> None:
        self._folder = cache / LAYERS
        self._pex = cache / "pex"
        self._store = store
        with self._explained():
            self._held = Holdings(LAYERS, cache, store)
            (self._folder / "seen").mkdir(mode=0o700, parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"<Layers {self._folder}>"

    def layer(self, key: str, make: Callable[[Path, Path], Made], *, waiting: Callable[[], None]) -> Dependencies:
        """The layer of that key, made when it is not here.

        Args:
            key: names its content; hexadecimal.
            make: called with an empty folder to work in, and with pex's cache. What it works in is removed, unless it
                raises a `BigmError`: then it is left for the user to look at, until the next attempt.
            waiting: called when another process is making the same layer, which is waited for.
        Raises:
            BigmError: the cache cannot be written; or what *make* raises.
        Returns:
            Dependencies: its parts stay in the store for as long as this object is held.
        """
        with self._explained():
            use = Use(str(self._folder / key))
            try:
                use.take(exclusive=False)
                found = self._read(key, use)
                if found is None:
                    with self._making(key, waiting):
                        found = self._read(key, use) or self._make(key, use, make)
                    self.prune()
                use.touch()
            except BaseException:
                use.close()
                raise
            return found

    def seen(self, environment: str) -> Seen:
        """What `see` was told about an environment, or nothing."""
        try:
            head, *paths = os.fsdecode((self._folder / "seen" / environment).read_bytes()).split("\n")
            state, key, notes = json.loads(head)
            return Seen(state, key, tuple(notes), tuple(paths))
        except (FileNotFoundError, ValueError):
            return Seen()

    def see(self, environment: str, seen: Seen) -> None:
        """Remember how an environment was."""
        path = self._folder / "seen" / environment
        new = path.with_suffix(f".{os.getpid()}")
        with self._explained():
            new.write_bytes(os.fsencode("\n".join([json.dumps(seen[:3]), *seen.paths])))
            new.rename(path)

    def prune(self, *, keep: int = KEEP, keep_of_pex: int = KEEP_OF_PEX) -> None:
        """Remove what was not used for longest and nobody uses now, above so many bytes. Never waits for anybody."""
        self._held.prune(keep)
        for work in self._folder.glob("*.work"):
            with tried(work.with_suffix(".making")) as alone:
                if alone:
                    shutil.rmtree(work, ignore_errors=True)
        with tried(self._pex.with_suffix(".lock")) as alone:
            if alone:
                self._prune_pex(keep_of_pex)
        for path in sorted((self._folder / "seen").iterdir(), key=age)[KEEP_SEEN:]:
            path.unlink(missing_ok=True)

    def _read(self, key: str, use: Lock) -> Dependencies | None:
        """A layer that is here, and whole."""
        facts = use.read()
        try:
            (digest,) = facts["manifests"]
            manifest = Manifest.from_bytes(Path(self._store.path(digest)).read_bytes())
            texts = [tuple(map(str, facts[name])) for name in ("distributions", "notes")]
            # by size: a crash of the computer may have left some short, and to read them all takes too long
            if all(os.stat(self._store.path(file.digest)).st_size == file.size for file in manifest.files):
                return Dependencies(manifest, key, str(facts["python"]), texts[0], texts[1], use)
        except (KeyError, ValueError, OSError, PartError, ManifestError):
            pass
        return None

    def _make(self, key: str, use: Lock, make: Callable[[Path, Path], Made]) -> Dependencies:
        work = self._folder / f"{key[:12]}.work"
        shutil.rmtree(work, ignore_errors=True)  # of one who died
        work.mkdir()
        with self._held.adding(), shared(self._pex.with_suffix(".lock")):
            try:
                made = make(work, self._pex)
                manifest = self._keep(made.tree)
                texts = {"distributions": made.distributions, "notes": made.notes}
                use.write({"manifests": [manifest.digest], "python": made.python, **texts})
            except BaseException as error:
                if not isinstance(error, BigmError):
                    shutil.rmtree(work, ignore_errors=True)
                raise
        shutil.rmtree(work, ignore_errors=True)
        return Dependencies(manifest, key, made.python, made.distributions, made.notes, use)

    def _keep(self, tree: Path) -> Manifest:
        files = []
        for path in sorted(tree.rglob("*")):
            if not path.is_dir():
                files.append(File(path.relative_to(tree).as_posix(), *keep_file(self._store, str(path))))
        manifest = Manifest(files)
        keep_bytes(self._store, manifest.to_bytes())
        return manifest

    def _prune_pex(self, keep: int) -> None:
        patched = sorted((self._pex / PATCHED).iterdir(), key=age) if (self._pex / PATCHED).exists() else []
        for folder in patched[1:]:  # who edits an installed file does so again and again
            shutil.rmtree(folder, ignore_errors=True)
        if folder_size(self._pex) > keep:
            shutil.rmtree(self._pex, ignore_errors=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"cannot bundle the dependencies in {self._folder}: {error.strerror or error}",
                hint="make room there, or set BIGM_HOME to a folder elsewhere",
            ) from error

    @contextlib.contextmanager
    def _making(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        lock = Lock(str(self._folder / f"{key[:12]}.making"))
        try:
            if not lock.take(exclusive=True, wait=False):
                waiting()
                lock.take(exclusive=True)
            yield
            lock.remove()
        finally:
            lock.close()


def folder_size(folder: Path) -> int:
    """Bytes of all files below; files with several names count once."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                stat = os.lstat(os.path.join(root, name))
                found[stat.st_ino] = stat.st_size
    return sum(found.values())
