"""bigm: form an ad-hoc cluster of machines from a program, and call services on them.

Only names what is public, and only when asked: the agent and the workers import this package too, and must not
pay for (or even have) what the driver needs.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigm.cluster import Cluster as Cluster
    from bigm.cluster import Leftover as Leftover
    from bigm.cluster import start as start
    from bigm.errors import *  # noqa: F403
    from bigm.groups import GroupError as GroupError
    from bigm.lifecycle import Cause as Cause
    from bigm.lifecycle import State as State
    from bigm.machine import Machine as Machine
    from bigm.rpc.current import current_call as current_call
    from bigm.rpc.methods import serial as serial
    from bigm.rpc.sources import streamed as streamed
    from bigm.rpc.streams import Stream as Stream
    from bigm.sharing import Shared as Shared
    from bigm.timeouts import Timeouts as Timeouts
    from bigm.variables import counter as counter
    from bigm.variables import gauge as gauge
    from bigm.variables import variable as variable
    from bigm.worker.program import is_driver as is_driver

__version__ = "0.1.0"

_NAMES = {
    "bigm.cluster": "start Cluster Leftover",
    "bigm.errors": (
        "BigmError ConfigError ProgramError WireError Unreachable Busy MayHaveRun DeadlineExceeded "
        "MachineStopped IdentityError PayloadTooLarge ProtocolError CallError NoSuchMethod NotAllowed "
        "NotPicklable ServiceError ServiceFailed SystemFault CredentialsError PermissionDenied QuotaError WorkerDied "
        "CapacityError ThrottledError TransientError BootError InstanceGone NotSupported"
    ),
    "bigm.groups": "GroupError",
    "bigm.lifecycle": "State Cause",
    "bigm.machine": "Machine",
    "bigm.rpc.current": "current_call",
    "bigm.rpc.methods": "serial",
    "bigm.rpc.sources": "streamed",
    "bigm.rpc.streams": "Stream",
    "bigm.sharing": "Shared",
    "bigm.timeouts": "Timeouts",
    "bigm.variables": "counter gauge variable",
    "bigm.worker.program": "is_driver",
}
_PUBLIC = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'bigm' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])


if f'{{"pid": {os.getpid()}}}' in os.environ.get("BIGM_FLAGS", ""):
    importlib.import_module("bigm.cli.reminder").arm()  # this process is the program of `bigm run`
