"""The service every worker has: rebuilds the user's services, sets them up and tears them down, and reports.

Driver only, but for `ping` (`bigm.worker.worker.authorize`).
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Callable, Optional

from bigm.errors import ServiceFailed

if TYPE_CHECKING:
    from bigm.rpc.server import Server
    from bigm.rpc.stats import MethodStats
    from bigm.worker.report import TypeCount, WorkerInfo

NAME = "Supervisor"

_RESERVED = (NAME, "Functions", "Shares", "Agent")
_NOT_CALLABLE = ("setup", "teardown", "preempted")  # run by the supervisor, once each, never called from outside


class Supervisor:
    """Built-in service of a worker.

    Args:
        server: where services are registered.
        where: how messages call this worker: "m0", "m0 worker 2".
        peers: makes what `setup` of the services is given, from the two arguments of our own.
    Attributes:
        ready: the services are set up: other machines may call them, too.
        bundle: digest of the bundle that this worker runs; "": the driver's own environment.
    """

    def __init__(self, server: Server, where: str, peers: Callable[[str, str], object]) -> None:
        self.ready = False
        self.bundle = ""
        self._server = server
        self._where = where
        self._peers = peers
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._services: dict[str, Any] = {}
        self._set_up = False
        self._failure: Optional[ServiceFailed] = None  # of a `setup`
        self._torn_down = False
        self._warned = False  # that the machine will be taken away

    def __repr__(self) -> str:
        return f"<Supervisor of {self._where}: {', '.join(self._services) or 'no services'}>"

    def register(self, name: str, pickled: bytes, last: bool = False) -> None:
        """Rebuild a service and let it be called as *name*. Waits until the program is imported.

        A name that is registered already stays as it is, so that a call that was lost can be sent again.

        Args:
            name: what calls begin with, "PI" in "PI.sample".
            pickled: the service, by pickle.
            last: there is nothing more to wait for, neither a service nor a `setup`: other machines may call.
        Raises:
            ServiceFailed: the name is reserved, or the service cannot be rebuilt here; do not retry.
        """
        if name in _RESERVED or not name.isidentifier() or name.startswith("_"):
            raise ServiceFailed(f"a service cannot be called {name!r}", hint="take a public name that is not reserved")
        self._ready.wait()  # bounded by the import, which the agent and the driver watch
        with self._lock:
            if name not in self._services:
                service = self._rebuild(name, pickled)
                self._server.register(name, service, methods=_public_methods(service))
                self._services[name] = service
        self.ready = self.ready or last

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
            if not self._set_up:
                self._set_up = True
                try:
                    self._run_setups(addr, name)
                except ServiceFailed as error:
                    self._failure = error
        if self._failure is not None:
            raise self._failure
        self.ready = True

    def teardown(self) -> tuple[str, ...]:
        """Run `teardown` of all services that have one, in reverse order, once.

        Returns:
            What went wrong, one text with its traceback for each service that raised; empty the second time.
        """
        with self._lock:
            services = {} if self._torn_down else dict(self._services)
            self._torn_down = True
        return self._run_hooks("teardown", dict(reversed(list(services.items()))))

    def preempted(self, seconds: float) -> tuple[str, ...]:
        """Run `preempted` of all services that have one, in the order in which they were registered, once.

        Args:
            seconds: until the machine is taken away.
        Returns:
            What went wrong, as for `teardown`.
        """
        with self._lock:
            services = {} if self._warned else dict(self._services)
            self._warned = True
        return self._run_hooks("preempted", services, seconds)

    def ping(self) -> float:
        """This worker's monotonic clock, seconds."""
        return time.monotonic()

    def getpid(self) -> int:
        """This worker's process id."""
        return os.getpid()

    def info(self) -> WorkerInfo:
        """What this worker runs in: Python, arguments, environment, packages, bundle."""
        from bigm.worker import report

        return report.info(self.bundle)

    def statistics(self) -> dict[str, MethodStats]:
        """Calls answered by this worker, by method."""
        return self._server.stats.snapshot()

    def variables(self) -> dict[str, Any]:
        """The values of this worker's variables, by name; see `bigm.variables`."""
        from bigm import variables  # most programs keep none

        return variables.read(self._server.home)

    def census(self) -> tuple[TypeCount, ...]:
        """The types with most live objects that the garbage collector knows, largest total size first."""
        from bigm.worker import report

        return report.census()

    def _imported(self) -> None:
        """Let services be registered: the program is imported."""
        self._ready.set()

    def _rebuild(self, name: str, pickled: bytes) -> Any:
        try:
            service = pickle.loads(pickled)
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

    def _run_hooks(self, hook: str, services: dict[str, Any], *args: Any) -> tuple[str, ...]:
        """Call *hook* of all that have it; each has its turn, whatever the others did."""
        failures: list[str] = []
        for name, service in services.items():
            function = getattr(service, hook, None)
            if not callable(function):
                continue
            try:
                function(*args)
            except BaseException as error:  # noqa: BLE001 - told to the driver
                failures.append(f"{hook} of service {name!r} on {self._where} failed: {_shown(error)}")
        return tuple(failures)

    def _failed(self, name: str, what: str, error: BaseException) -> ServiceFailed:
        """Says what and where, with the user's part of the traceback: it is his code that has to be looked at."""
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        advice = f"; sys.path there is {sys.path}" if isinstance(error, ImportError) else ""
        return ServiceFailed(f"service {name!r} could not be {what} on {self._where}: {said}{advice}\n{_shown(error)}")


def _public_methods(service: object) -> list[str]:
    """What of *service* can be called from outside: public methods of its class, but what the supervisor runs."""
    cls = type(service)
    names = [name for name in dir(cls) if not name.startswith("_") and name not in _NOT_CALLABLE]
    return [name for name in names if callable(getattr(cls, name, None)) and not isinstance(getattr(cls, name), type)]


def _shown(error: BaseException) -> str:
    """The traceback as Python prints it, without the frame of ours that it begins with."""
    users = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, users)).rstrip()
