"""What a driver gets for machines that are not as its own computer: interpreters, and distributions for their platform.

Either may take minutes: an index is asked, an archive is fetched. Each is got once for a platform, whatever the number
of machines that need it: the first that asks has it got, others wait, and what failed is not tried again for them. For
those who ask later it is, unless only the user can help: an index that was out of reach may be back.
Nothing here imports much: most drivers have machines that are like their computer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bigm.bundle.bundle import Bundle, Dependencies
from bigm.errors import BigmError, ConfigError

_SAID_EVERY = 0.25  # of an archive, as a share of it


class Supply:
    """Gets it, and keeps it in the driver's caches. Any thread.

    Args:
        home: bigm's folder of this user.
        mirror: the setting `bundle.mirror`.
        tell: told in a few words what takes time.
        stall: seconds after which a silent server is given up.
    """

    def __init__(self, home: Path, mirror: str, tell: Callable[[str], None], *, stall: float = 60.0) -> None:
        self._cache = home / "cache"
        self._mirror = mirror
        self._tell = tell
        self._stall = stall
        self._lock = threading.Lock()
        self._got: dict[object, _Once] = {}

    def __repr__(self) -> str:
        return f"<Supply of {len(self._got)} things from {self._cache}>"

    def layer(self, bundle: Bundle, python: Mapping[str, object]) -> Dependencies | None:
        """The dependency layer for an interpreter: the bundle's, or if that does not fit, one for its platform.

        Args:
            bundle: what is to be run.
            python: what the interpreter reported.
        Raises:
            DependencyError: something has no wheel for that platform, or it cannot be resolved.
            ConfigError: the bundle came without what says what it depends on.
        """
        from bigm.bundle.origins import Cache
        from bigm.bundle.platforms import misfits, of_report

        there = of_report(python).with_any_kernel()
        own, origins = bundle.layer(there.name), bundle.origins
        unfit = misfits(own, there) if own is not None else []
        if not unfit and (own is not None or not bundle.dependencies):
            return own
        if origins is None:
            has = ", ".join(sorted(filter(None, bundle.dependencies))) or "another platform"
            why = f": {unfit[0]} does not run there" if unfit else f", only for {has}"
            raise ConfigError(
                f"the bundle has nothing for {there.name} with {python['libc']}{why}",
                hint=f"make it with --platform {there.name} too",
            )
        cache = Cache(bundle.store, self._cache, self._tell)
        made: Dependencies = self._once((bundle.digest, there.to_json()), lambda: origins.layer_for(there, cache))
        return made

    def interpreter(self, bundle: Bundle, platform: str) -> tuple[str, int]:
        """An interpreter for a platform, as a part: digest and size.

        Raises:
            FetchError: it cannot be fetched.
            ConfigError: there is none for that platform.
        """
        from bigm.bundle import standalone

        def fetch() -> standalone.Archive:
            return standalone.fetch(
                platform,
                bundle.python,
                store=bundle.store,
                cache=self._cache,
                mirror=self._mirror or standalone.RELEASE,
                timeout=self._stall,
                progress=_Progress(self._tell, f"Python {bundle.python} for {platform}"),
            )

        found: standalone.Archive = self._once((platform, bundle.python), fetch)  # held for as long as this is
        return found.digest, found.size

    def _once(self, key: object, get: Callable[[], Any]) -> Any:
        with self._lock:
            once = self._got.setdefault(key, _Once())
        return once.get(get)


class _Once:
    """Something that is got by whoever asks first; a failure that may pass is only for those who wait meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: Any = None
        self._failure: BigmError | None = None
        self._is_over = False
        self._tries = 0

    def get(self, get: Callable[[], Any]) -> Any:
        tries = self._tries
        with self._lock:
            if not self._is_over and self._tries == tries:
                try:
                    self._value, self._failure, self._is_over = get(), None, True
                except BigmError as failure:
                    self._failure, self._is_over = failure, _lasts(failure)
                self._tries += 1
            if self._failure is not None:
                raise self._failure
            return self._value


def _lasts(failure: BigmError) -> bool:
    """Whether trying again is of no use: of what pex says, that goes only for wheels that do not exist."""
    from bigm.bundle.environment import DependencyError
    from bigm.bundle.resolution import NoWheel

    return isinstance(failure, NoWheel) or (
        isinstance(failure, ConfigError) and not isinstance(failure, DependencyError)
    )


class _Progress:
    """Tells now and then how far a download is."""

    def __init__(self, tell: Callable[[str], None], what: str) -> None:
        self._tell = tell
        self._what = what
        self._said = 0.0

    def __call__(self, received: int, total: int) -> None:
        share = received / total if total else 0.0
        if share >= self._said:
            self._said = min(share + _SAID_EVERY, 1.0)
            self._tell(f"fetching {self._what}: {received / 1e6:.1f} of {total / 1e6:.1f} MB")
