"""What a driver gets for machines that are not as its own computer: interpreters, and distributions for their platform.

Each is got once for a platform, whatever the number of machines that need it: the first that asks has it got, others
wait. Nothing here is imported by a driver whose machines are like its computer.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bigm.bundle.bundle import Bundle, Dependencies

_SAID_EVERY = 0.1  # of an archive, as a share of it


class Supply:
    """Gets it, and keeps it in the driver's caches. Any thread.

    Args:
        home: bigm's folder of this user.
        mirror: the setting `bundle.mirror`.
        tell: told in a few words what takes time.
    """

    def __init__(self, home: Path, mirror: str, tell: Callable[[str], None]) -> None:
        self._cache = home / "cache"
        self._mirror = mirror
        self._tell = tell
        self._lock = threading.Lock()
        self._turns: dict[object, threading.Lock] = {}
        self._got: dict[object, Any] = {}

    def __repr__(self) -> str:
        return f"<Supply of {len(self._got)} things from {self._cache}>"

    def layer(self, bundle: Bundle, python: Mapping[str, object]) -> Dependencies | None:
        """The dependency layer for an interpreter: the bundle's, or if that does not fit, one for its platform.

        Args:
            bundle: what is to be run.
            python: what the interpreter reported.
        Raises:
            DependencyError: something has no wheel for that platform, or it cannot be resolved.
        """
        from bigm.bundle import platforms

        there = platforms.of_report(python)
        own = bundle.layer(there.name)
        if own is None or not platforms.misfits(own, there):
            return own
        made: Dependencies = self._once((bundle.digest, there.to_json()), lambda: self._resolve(bundle, there))
        return made

    def interpreter(self, bundle: Bundle, platform: str) -> tuple[str, int]:
        """An interpreter for a platform, as a part: digest and size.

        Raises:
            FetchError: it cannot be fetched.
            ConfigError: there is none for that platform.
        """
        from bigm.bundle import standalone

        def fetch() -> tuple[str, int]:
            archive = standalone.fetch(
                platform,
                bundle.python,
                cache=self._cache / "pythons",
                mirror=self._mirror or standalone.RELEASE,
                progress=_Progress(self._tell, f"Python {bundle.python} for {platform}"),
            )
            return archive.keep(bundle.store), archive.size

        found: tuple[str, int] = self._once((platform, bundle.python), fetch)
        return found

    def _resolve(self, bundle: Bundle, there: Any) -> Dependencies:
        from bigm.bootstrap import report
        from bigm.bundle import platforms, resolution
        from bigm.bundle.environment import environment_of
        from bigm.bundle.whereabouts import whereabouts_of

        environment = environment_of(whereabouts_of(sys.executable))
        here = platforms.of_report(report.report())
        wanted = resolution.of_environment(environment, here, there)
        return resolution.platform_layer(
            there, wanted, bundle.store, self._cache, environment=environment, progress=self._tell
        )

    def _once(self, key: object, get: Callable[[], Any]) -> Any:
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            if key not in self._got:
                self._got[key] = get()
            return self._got[key]


class _Progress:
    """Tells now and then how far a download is."""

    def __init__(self, tell: Callable[[str], None], what: str) -> None:
        self._tell = tell
        self._what = what
        self._said = 0.0

    def __call__(self, received: int, total: int) -> None:
        share = received / total if total else 0.0
        if share >= self._said:
            self._said = share + _SAID_EVERY
            self._tell(f"fetching {self._what}: {received >> 20} of {total >> 20} MiB")
