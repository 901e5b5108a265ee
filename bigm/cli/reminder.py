"""Says at the end of a program under `bigm run` that it never called `bigm.start()`."""

from __future__ import annotations

import atexit
import os
import sys


def arm() -> None:
    """Watch this process to its end. `bigm` itself calls this, only in the process that `bigm run` became."""
    atexit.register(_remind, os.getpid())


def _remind(pid: int) -> None:
    failed = hasattr(sys, "last_value") or "--help" in sys.argv or "-h" in sys.argv
    if os.getpid() == pid and "bigm.cluster" not in sys.modules and not failed and sys.stderr is not None:
        print("bigm: the program ended without calling bigm.start(): no machine was started", file=sys.stderr)
