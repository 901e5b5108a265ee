"""Services that make every kind of trouble, and the exceptions they make it with. The driver has this module too."""

from __future__ import annotations

import builtins
import os
import sys
import threading
from typing import Any


class WithArguments(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


class WithKeyword(Exception):
    """Its constructor wants what `args` does not hold: pickle's own way to rebuild it fails."""

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code = code


class HoldsALock(Exception):
    """Cannot be pickled at all."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class CannotBeRebuilt(Exception):
    """Pickles, but its pickle cannot be read."""

    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise RuntimeError("not again")


class Trouble:
    def raise_(self, name: str, *args: Any, **kwargs: Any) -> None:
        raise (globals().get(name) or getattr(builtins, name))(*args, **kwargs)

    def chained(self) -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise WithArguments(3, "outer") from error

    def group(self) -> None:
        raise ExceptionGroup("both", [ValueError("one"), WithArguments(2, "two")])  # noqa: F821  # from Python 3.11

    def exit(self, code: int) -> None:
        sys.exit(code)

    def interrupt(self) -> None:
        raise KeyboardInterrupt

    def lock(self) -> list[object]:
        return [threading.Lock()]

    def echo(self, value: object = None) -> object:
        return value

    def pid(self) -> int:
        return os.getpid()


class Unpicklable(Trouble):
    def __init__(self) -> None:
        self.config = {"handlers": [threading.Lock()]}
