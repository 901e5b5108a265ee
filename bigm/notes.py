"""Notes that one thread does in turn: what it alone changes needs no lock, and who leaves a note waits for nobody.

Source: the serial queues of Apple's Dispatch.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("bigm.notes")

_JOIN = 5.0  # seconds


class Notes:
    """Functions to be called by one thread, in the order in which they were left.

    Args:
        name: what the thread is called.
        after_each: called by the thread after each.
    Attributes:
        closed: nothing is done any more.
    """

    def __init__(self, name: str, after_each: Callable[[], None] = lambda: None) -> None:
        self.closed = False
        self._name = name
        self._after_each = after_each
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self._queue.qsize()} to do"
        return f"<Notes for {self._name}: {state}>"

    def start(self) -> None:
        """Start the thread, unless it runs. What is left before waits for it."""
        with self._lock:
            if self._thread is None and not self.closed:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def leave(self, function: Callable[..., None], *args: Any) -> None:
        """Have the thread call *function*. Any thread, the garbage collector at any moment of it; takes no lock."""
        if not self.closed:
            self._queue.put(functools.partial(function, *args))

    def close(self) -> None:
        """Let the thread do what was left, and end."""
        with self._lock:
            self.closed = True
            thread = self._thread
        self._queue.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN)

    def _run(self) -> None:
        while True:
            note = self._queue.get()
            if note is None:
                return
            try:
                note()
                self._after_each()
            except Exception:
                logger.exception("bigm: %s met a bug", self._name)
            del note  # or it keeps what it knows until the next one comes
