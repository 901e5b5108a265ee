"""The service every worker has: rebuilds the user's services, sets them up and tears them down, and reports.

Driver only, but for `ping` (`bigm.worker.worker.authorize`).
"""

from __future__ import annotations

import gc
import os
import pickle
import platform
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Optional

import bigm
from bigm.errors import ServiceFailed

if TYPE_CHECKING:
    from bigm.rpc.server import Server
    from bigm.rpc.stats import MethodStats

NAME = "Supervisor"

_RESERVED = (NAME, "Agent")
_NOT_CALLABLE = ("setup", "teardown")  # run by the supervisor, once each, never called from outside
_CENSUS = 50  # types in a census


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker runs in.

    Args:
        pid: its process id.
        python: version of its Python, "3.11.7".
        executable: absolute path of that Python.
        version: bigm's version there.
        argv: `sys.argv`.
        sys_path: `sys.path`.
        cwd: working folder.
        env: environment variables.
        packages: sha256, hexadecimal, over names and versions of all installed distributions: machines that agree in
            it have the same packages.
    """

    pid: int
    python: str
    executable: str
    version: str
    argv: tuple[str, ...]
    sys_path: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    packages: str


@dataclass(frozen=True)
class TypeCount:
    """Live objects of one type: how many, and the bytes of the objects themselves, without what they refer to."""

    name: str
    count: int
    size: int


class Supervisor:
    """Built-in service of a worker.

    Args:
        server: where services are registered.
        where: how messages call this worker: "m0", "m0 worker 2".
        peers: makes what `setup` of the services is given, from the two arguments of our own.
    """

    def __init__(self, server: Server, where: str, peers: Callable[[str, str], object]) -> None:
        self._server = server
        self._where = where
        self._peers = peers
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._services: dict[str, Any] = {}
        self._set_up: Optional[tuple[Optional[ServiceFailed]]] = None
        self._torn_down = False

    def __repr__(self) -> str:
        return f"<Supervisor of {self._where}: {', '.join(self._services) or 'no services'}>"

    def register(self, name: str, pickled: bytes) -> None:
        """Rebuild a service and let it be called as *name*. Waits until the program is imported.

        A name that is registered already stays as it is, so that a call that was lost can be sent again.

        Args:
            name: what calls begin with, "PI" in "PI.sample".
            pickled: the service, by pickle.
        Raises:
            ServiceFailed: the name is reserved, or the service cannot be rebuilt here; do not retry.
        """
        if name in _RESERVED or not name.isidentifier() or name.startswith("_"):
            raise ServiceFailed(f"a service cannot be called {name!r}", hint="take a public name that is not reserved")
        self._ready.wait()  # bounded by the import, which the agent and the driver watch
        with self._lock:
            if name in self._services:
                return
            service = self._rebuild(name, pickled)
            self._server.register(name, service, methods=_public_methods(service))
            self._services[name] = service

    def setup(self, addr: str, name: str) -> None:
        """Run `setup` of all services that have one, in the order in which they were registered, once.

        Called again, it waits for the first call and gives the same answer.

        Args:
            addr: this machine's own address.
            name: the cluster's name.
        Raises:
            ServiceFailed: a `setup` raised; those after it did not run; do not retry.
        """
        with self._lock:
            if self._set_up is None:
                try:
                    self._run_setups(addr, name)
                    self._set_up = (None,)
                except ServiceFailed as error:
                    self._set_up = (error,)
            (failure,) = self._set_up
        if failure is not None:
            raise failure

    def teardown(self) -> tuple[str, ...]:
        """Run `teardown` of all services that have one, in reverse order, once.

        Returns:
            What went wrong, one text with its traceback for each service that raised; empty the second time.
        """
        with self._lock:
            services = {} if self._torn_down else dict(self._services)
            self._torn_down = True
        failures: list[str] = []
        for name, service in reversed(list(services.items())):
            teardown = getattr(service, "teardown", None)
            if not callable(teardown):
                continue
            try:
                teardown()
            except BaseException as error:  # noqa: BLE001 - the others have their turn, whatever this one did
                failures.append(f"teardown of service {name!r} on {self._where} failed: {_shown(error)}")
        return tuple(failures)

    def ping(self) -> float:
        """This worker's monotonic clock, seconds."""
        return time.monotonic()

    def getpid(self) -> int:
        """This worker's process id."""
        return os.getpid()

    def info(self) -> WorkerInfo:
        """What this worker runs in: Python, arguments, environment, packages."""
        return WorkerInfo(
            pid=os.getpid(),
            python=platform.python_version(),
            executable=sys.executable,
            version=bigm.__version__,
            argv=tuple(sys.argv),
            sys_path=tuple(sys.path),
            cwd=os.getcwd(),
            env=dict(os.environ),
            packages=_packages_digest(),
        )

    def statistics(self) -> dict[str, MethodStats]:
        """Calls answered by this worker, by method."""
        return self._server.stats.snapshot()

    def census(self) -> tuple[TypeCount, ...]:
        """The types with most live objects that the garbage collector knows, largest total size first."""
        gc.collect()
        counts: dict[type, list[int]] = {}
        for item in gc.get_objects():
            entry = counts.setdefault(type(item), [0, 0])
            entry[0] += 1
            entry[1] += _size(item)
        found = [TypeCount(f"{cls.__module__}.{cls.__qualname__}", *entry) for cls, entry in counts.items()]
        return tuple(sorted(found, key=lambda item: (item.size, item.count), reverse=True)[:_CENSUS])

    def _imported(self) -> None:
        """Let services be registered: the program is imported."""
        self._ready.set()

    def _rebuild(self, name: str, pickled: bytes) -> Any:
        try:
            service = pickle.loads(pickled)
        except ImportError as error:
            raise self._failed(name, "rebuilt", error, f"sys.path there is {sys.path}") from error
        except BaseException as error:
            raise self._failed(name, "rebuilt", error) from error
        if isinstance(service, type):
            raise ServiceFailed(
                f"service {name!r} is the class {service.__qualname__} itself", hint="give an instance of it"
            )
        return service

    def _run_setups(self, addr: str, name: str) -> None:
        found = {service: getattr(instance, "setup", None) for service, instance in self._services.items()}
        setups = {service: setup for service, setup in found.items() if callable(setup)}
        if not setups:
            return
        peers = self._peers(addr, name)
        for service, setup in setups.items():
            try:
                setup(peers)
            except BaseException as error:
                raise self._failed(service, "set up", error) from error

    def _failed(self, name: str, what: str, error: BaseException, hint: str = "") -> ServiceFailed:
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        return ServiceFailed(f"service {name!r} could not be {what} on {self._where}: {said}", hint=hint)


def _public_methods(service: object) -> list[str]:
    """What of *service* can be called from outside: public methods of its class, but what the supervisor runs."""
    cls = type(service)
    names = [name for name in dir(cls) if not name.startswith("_") and name not in _NOT_CALLABLE]
    return [name for name in names if callable(getattr(cls, name, None)) and not isinstance(getattr(cls, name), type)]


def _packages_digest() -> str:
    import hashlib
    from importlib.metadata import distributions  # 30 ms that only a report pays

    lines = sorted({f"{item.metadata['Name']}=={item.version}".lower() for item in distributions()})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _size(item: object) -> int:
    try:
        return sys.getsizeof(item)
    except Exception:  # noqa: BLE001 - user classes may have a broken __sizeof__; they count without a size
        return 0


def _shown(error: BaseException) -> str:
    import traceback  # 2 ms that only a failure pays

    return "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()
