"""bigm: form an ad-hoc cluster of machines from a program, and call services on them.

Only names what is public, and only when asked: the agent and the workers import this package too, and must not
pay for (or even have) what the driver needs.
"""

from __future__ import annotations

import importlib
import os

__version__ = "0.1.0"

_PUBLIC: dict[str, str] = {}


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
