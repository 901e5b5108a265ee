"""Keeping Ctrl-C out of the middle of a frame.

Python runs signal handlers in the main thread between any two instructions. An exception raised there in the middle of
a read or a write would leave a connection with half a frame. So the main thread's calls are *deferred* sections, in
which a signal is only noted, with *waiting* windows in them, where nothing is half done and the handler runs at once.
What was noted runs when the section ends.

This works where bigm owns the signal's handler (`install`). Elsewhere `owned` is false, and the main thread leaves
reading and writing to the I/O thread (`client`).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # its getsignal() costs 50 ns; that of `signal`, which makes enums, 8 us
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Callable, Optional

Handler = Callable[[int, Optional[FrameType]], Any]


class _State:
    """Only the main thread changes this, and the handlers that run in it."""

    def __init__(self) -> None:
        self.deferred = False
        self.waiting = False
        self.noted: list[tuple[int, Optional[FrameType]]] = []
        self.handlers: dict[int, Handler] = {}


WAKE = 0.25  # seconds
_FOREVER = float("inf")

_state = _State()
_get_ident = threading.get_ident
_SIGINT = int(signal.SIGINT)
_IGNORED = int(signal.SIG_IGN)
_DEFAULT = int(signal.SIG_DFL)


_main_ident = threading.main_thread().ident


def _after_fork() -> None:
    global _main_ident
    _main_ident = threading.main_thread().ident


os.register_at_fork(after_in_child=_after_fork)


def install(signum: int = signal.SIGINT, handler: Handler = signal.default_int_handler) -> None:
    """Make *handler* (which may raise) the handler of *signum*, deferred while a call is in the middle of something.

    Main thread only. A handler for another signal that raises (SIGTERM) must be installed here too.
    """
    _state.handlers[signum] = handler
    signal.signal(signum, _on_signal)


def uninstall(signum: int = signal.SIGINT) -> None:
    """Undo `install`: give *signum* its default handler back, unless somebody else has taken it meanwhile."""
    _state.handlers.pop(signum, None)
    if signal.getsignal(signum) is _on_signal:
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)


def in_main_thread() -> bool:
    """Whether this is the thread in which Python runs signal handlers."""
    return _get_ident() == _main_ident


def owned() -> bool:
    """Whether Ctrl-C cannot break a call of the main thread: its handler is ours, or it raises nothing."""
    handler = _signal.getsignal(_SIGINT)
    return handler is _on_signal or handler in (_IGNORED, _DEFAULT)


def _on_signal(signum: int, frame: Optional[FrameType]) -> None:
    if _state.deferred and not _state.waiting:
        _state.noted.append((signum, frame))
        return
    _state.waiting = False  # if the handler raises, the section goes on to clean up, deferred again
    _state.handlers[signum](signum, frame)


def _run_noted() -> None:
    while _state.noted:
        signum, frame = _state.noted.pop(0)
        handler = _state.handlers.get(signum)
        if handler is not None:
            handler(signum, frame)


class deferred:
    """A section in which signals are only noted. In other threads than the main one it does nothing."""

    __slots__ = ("_main", "_outer")

    def __enter__(self) -> None:
        self._main = in_main_thread()
        if self._main:
            self._outer = _state.deferred
            _state.deferred = True

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._main:
            _state.deferred = self._outer
            if _state.noted and not self._outer:
                _run_noted()


def in_slices(wait: Callable[[Optional[float]], object], timeout: Optional[float]) -> None:
    """Wait, such that the main thread notices a signal that arrived in the moment before it began to.

    Args:
        wait: waits so many seconds at most, None for ever; returns something true when there is no more to wait for.
        timeout: seconds in all; None: for ever.
    """
    if not in_main_thread():
        wait(timeout)
        return
    end = _FOREVER if timeout is None else time.monotonic() + timeout
    while not wait(max(0.0, min(WAKE, end - time.monotonic()))) and time.monotonic() < end:
        pass


class waiting:
    """A window in a deferred section in which nothing is half done: signals are handled at once.

    Entered, it gives the longest time, in seconds, to wait in one go (inf but for the main thread's windows): Python
    notices a signal that arrives in the moment before the main thread begins to wait only when it has waited.
    """

    __slots__ = ("_main",)

    def __enter__(self) -> float:
        self._main = _state.deferred and in_main_thread()
        if self._main:
            _state.waiting = True
            if _state.noted:
                _state.waiting = False
                _run_noted()
                _state.waiting = True
            return WAKE
        return _FOREVER

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._main:
            _state.waiting = False
