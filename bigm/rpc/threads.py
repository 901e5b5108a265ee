"""Threads on demand, some of which stay for what comes next."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Callable, Optional

_STAY = 60.0  # seconds that an idle thread waits for something to do

logger = logging.getLogger("bigm.rpc")


class Threads:
    """Runs each task in a thread of its own at once: an idle one, else a new one.

    Args:
        name: of the threads.
        idle: how many stay when they have nothing to do.
    """

    def __init__(self, name: str, idle: int) -> None:
        self._name = name
        self._most = idle
        self._lock = threading.Lock()
        self._idle: deque[_Seat] = deque()
        self._closed = False

    def run(self, task: Callable[[], None]) -> None:
        """Run *task*, now."""
        try:
            seat = self._idle.pop()
        except IndexError:
            seat = _Seat()
            seat.task = task
            threading.Thread(target=self._work, args=(seat,), name=self._name, daemon=True).start()
            return
        seat.task = task
        seat.ready.release()

    def close(self) -> None:
        """Let idle threads end, and those that are busy when they are done."""
        with self._lock:  # from here on no thread sits down
            self._closed = True
            idle = [self._idle.pop() for _ in range(len(self._idle))]
        for seat in idle:
            seat.ready.release()

    def _work(self, seat: _Seat) -> None:
        while True:
            task, seat.task = seat.task, None
            try:
                if task is not None:
                    task()
            except Exception:
                logger.exception("bigm: a bug in %s", self._name)
            task = None
            with self._lock:
                if self._closed or len(self._idle) >= self._most:
                    return
                self._idle.append(seat)
            if not seat.ready.acquire(timeout=_STAY):
                try:
                    self._idle.remove(seat)
                except ValueError:  # it was taken just now
                    seat.ready.acquire()
                else:
                    return


class _Seat:
    """Where an idle thread waits for its next task."""

    __slots__ = ("ready", "task")

    def __init__(self) -> None:
        self.ready = threading.Lock()
        self.ready.acquire()
        self.task: Optional[Callable[[], None]] = None
