"""For tests: of programs that form machines, and of systems.

Names only, and only when asked for: pytest imports this at every start where bigm is installed (`bigm.testing.plugin`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigm.manualclock import ManualClock as ManualClock
    from bigm.systems.inprocess import InProcess as InProcess
    from bigm.testing.contract import check_system as check_system
    from bigm.testing.faults import Faults as Faults

_PUBLIC = {
    "Faults": "bigm.testing.faults",
    "InProcess": "bigm.systems.inprocess",
    "ManualClock": "bigm.manualclock",
    "check_system": "bigm.testing.contract",
}


def __getattr__(name: str) -> object:
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'bigm.testing' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
