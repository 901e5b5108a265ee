"""Says at the end of a program under `bigm run` that it never called `bigm.start()`, and what may have been meant."""

from __future__ import annotations

import atexit
import os
import sys


def arm(file: str = "") -> None:
    """Watch this process to its end. `bigm` itself calls this, only in the process that `bigm run` became.

    Args:
        file: the self-contained pex that was started by itself.
    """
    atexit.register(_remind, os.getpid(), file)


def _remind(pid: int, file: str) -> None:
    failed = hasattr(sys, "last_value") or "--help" in sys.argv or "-h" in sys.argv
    if os.getpid() != pid or failed or sys.stderr is None:
        return
    if "bigm.cluster" not in sys.modules:
        print("bigm: the program ended without calling bigm.start(): no machine was started", file=sys.stderr)
    elif sys.modules["bigm.session"].began():
        return
    for option, text in _misplaced(file):
        print(f"bigm: {option} {text}", file=sys.stderr)


def _misplaced(file: str) -> list[tuple[str, str]]:
    """The options of bigm that the program was given, and perhaps refused. Each once."""
    from bigm.cli.arguments import BEFORE  # for few programs

    given = dict.fromkeys(word.partition("=")[0] for word in sys.argv[1:])
    found = [(option, variable) for option, variable in BEFORE.items() if option in given]
    if not file:
        return [(option, "behind PROGRAM is the program's: put it before PROGRAM") for option, _ in found]
    return [(name, f"behind {file} is the program's: set {variable} instead") for name, variable in found if variable]
