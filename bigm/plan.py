"""What the machines of one `Cluster.start` run, checked and pickled before anything is launched.

Whatever is wrong with a start's arguments is found here, while it costs nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import bigm
from bigm import config
from bigm.bootstrap.records import Main
from bigm.errors import ConfigError, NotSupported
from bigm.program import interpreter_options, main_module, search_path
from bigm.rpc import codec
from bigm.rpc.calls import take_kept
from bigm.systems.base import Spec, System

if TYPE_CHECKING:
    from bigm.bundle.bundle import Bundle

_RESERVED = ("Supervisor", "Functions", "Shares", "Agent")
_ON_DEATH = ("stop", "restart")
_NOT_FOR_MACHINES = (config.FLAGS_VARIABLE,)  # of the driver's environment


@dataclass(frozen=True)
class Plan:
    """What the machines of one `Cluster.start` run.

    Args:
        services: pickled, by name, in their order.
        setup: any of them has a `setup`.
        teardown: any of them has a `teardown`.
        procs: workers on each machine; "all": as many as CPUs it may use.
        cpus: CPUs each may use; 0: as many as its agent says.
        python: the workers' interpreter; "": the agent's own.
        argv: the program's arguments.
        sys_path: where its modules are found.
        env: environment; all of it, or what is laid over the machine's own.
        inherit_env: which of both.
        root: folder that has bigm, where the agent's own lacks the workers' part; or "".
        cwd: working folder; "": the machine's own.
        main: how its main module is imported.
        restart: workers that die are started anew.
        keeps: what the pickled services refer to without holding it.
        bundled: the machines are brought a bundle, which says what their interpreter, path, folder and main module are.
        bundle: that, as soon as it is made.
    """

    services: Mapping[str, bytes]
    setup: bool
    teardown: bool
    procs: int | Literal["all"]
    cpus: int
    python: str
    argv: tuple[str, ...]
    sys_path: tuple[str, ...]
    env: Mapping[str, str]
    inherit_env: bool
    root: str
    cwd: str
    main: Main
    restart: bool
    keeps: object
    bundled: bool = False
    bundle: Bundle | None = None


def make_plan(
    system: System,
    spec: Spec,
    *,
    services: Mapping[str, object] | None,
    procs: int | Literal["all"],
    env: Mapping[str, str] | None,
    args: Sequence[str] | None,
    on_worker_death: str = "stop",
    bundled: bool = False,
) -> Plan:
    """The plan for machines of *system*; arguments as those of `Cluster.start`.

    Raises:
        ConfigError: an argument is wrong.
        NotSupported: the system's machines are no processes, and this asks for some.
        NotPicklable: a service cannot be pickled; names the path to what cannot.
    """
    local = system.capabilities.local
    here = system.capabilities.in_place and not bundled
    own = local and here
    if procs != "all" and (isinstance(procs, bool) or not isinstance(procs, int) or procs < 1):
        raise ConfigError(f'procs must be a whole number from 1, or "all", not {procs!r}')
    if not system.capabilities.processes and (env or args or procs not in (1, "all")):
        raise NotSupported(
            f"machines of {system.name} are threads of this process: env, args and procs need processes",
            hint="leave them out, or take --system local",
        )
    if on_worker_death not in _ON_DEATH:
        raise ConfigError(f'on_worker_death is "stop" or "restart", not {on_worker_death!r}')
    if on_worker_death == "restart" and not system.capabilities.processes:
        raise NotSupported(
            f'machines of {system.name} are threads of this process, which do not die: on_worker_death="restart" needs '
            "processes",
            hint="leave it out, or take --system local",
        )
    services = {} if services is None else _checked(services)
    overlay = {**interpreter_options(), **_texts("env", env or {})}
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_MACHINES}
    pickled = {name: codec.dumps_bytes(service, f"service {name!r}") for name, service in services.items()}
    return Plan(
        services=pickled,
        setup=any(callable(getattr(service, "setup", None)) for service in services.values()),
        teardown=any(callable(getattr(service, "teardown", None)) for service in services.values()),
        procs=procs,
        cpus=system.expected_procs(spec) if local else 0,
        python=sys.executable if here else "",
        argv=tuple(sys.argv) if args is None else (sys.argv[0], *map(str, args)),
        sys_path=search_path() if not bundled else (),
        env={**inherited, **overlay} if own else {**dict.fromkeys(_NOT_FOR_MACHINES, ""), **overlay},
        inherit_env=not own,
        root=str(Path(bigm.__file__).absolute().parents[1]) if here and not local else "",
        cwd=_working_folder() if here else "",
        main=main_module(),
        restart=on_worker_death == "restart",
        keeps=take_kept(),
        bundled=bundled,
    )


def _texts(what: str, texts: Mapping[str, str]) -> dict[str, str]:
    for name, value in texts.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError(f"{what} maps texts to texts, not {name!r} to {value!r}")
        if not name or "=" in name or "\0" in name + value:
            raise ConfigError(f"{what} cannot carry {name!r} = {value!r}: no variable of the environment is such")
    return dict(texts)


def _checked(services: Mapping[str, object]) -> Mapping[str, object]:
    """*services*, if a machine could serve all of them."""
    if not isinstance(services, Mapping) or not services:
        raise ConfigError(
            f"services maps names to instances, at least one, and is {services!r}",
            hint='as in services={"PI": CirclePI()}; machines that only run functions need none: leave it out',
        )
    for name, service in services.items():
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_") or name in _RESERVED:
            raise ConfigError(f"a service cannot be called {name!r}", hint="take a public name that is not reserved")
        if isinstance(service, type):
            raise ConfigError(f"service {name!r} is the class {service.__qualname__}", hint="give an instance of it")
    return services


def _working_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise ConfigError(
            "the working folder was removed, and machines on this computer are to work in it",
            hint="go to a folder that exists",
        ) from None
