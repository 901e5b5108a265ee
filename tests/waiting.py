"""Waiting for what another process does: for a condition, with a deadline, never for a length of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar, Union

T = TypeVar("T")


def eventually(
    condition: Callable[[], T], timeout: float = 10.0, message: Union[str, Callable[[], str]] = "", poll: float = 0.01
) -> T:
    """Wait until *condition* returns something true, and return that.

    Args:
        condition: asked again and again; what it raises is not caught.
        timeout: seconds on the monotonic clock. Generous is free: only a failing test waits so long.
        message: what was awaited; or a function that tells, asked only on failure (for a process's log).
        poll: seconds between two questions.
    Raises:
        AssertionError: the deadline passed; shows the message.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            text = message() if callable(message) else message
            raise AssertionError(f"not within {timeout:g} s: {text or condition!r} (last value {value!r})")
        time.sleep(poll)  # the other process cannot be made to announce this
