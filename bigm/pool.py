"""A bounded pool of threads for what blocks in the driver: dialling, enrolling, terminating.

concurrent.futures has one too, but its threads are joined before the handlers of `atexit` run and cannot be used by
them; and that is when a cluster that nobody shut down ends its machines. Its threads also stay for ever; ours end when
they have had nothing to do for a while, because a driver that waits for its machines should hold little memory.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

logger = logging.getLogger("bigm.pool")


class Pool:
    """Runs jobs in daemon threads, made on demand. Jobs see to their own errors; a bug of one is logged.

    Args:
        name: what the threads are called.
        most: threads at most.
        idle: seconds after which a thread without a job ends.
    """

    def __init__(self, name: str, most: int, *, idle: float = 10.0) -> None:
        self._name = name
        self._most = most
        self._patience = idle
        self._jobs: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._numbers = itertools.count()
        self._idle = 0
        self._closed = False

    def __repr__(self) -> str:
        return (
            f"<Pool {self._name}: {len(self._threads)} of {self._most} threads, "
            f"{self._idle} idle, {len(self._jobs)} jobs waiting>"
        )

    def submit(self, job: Callable[..., object], *args: object) -> None:
        """Run *job* soon; where not one thread can be made any more, in the calling thread. Not after `close`."""
        with self._changed:
            if self._closed:
                return
            inline = self._idle <= len(self._jobs) and not self._grow()
            if not inline:
                self._jobs.append(functools.partial(job, *args))
                self._changed.notify()
        if inline:
            job(*args)

    def close(self, timeout: float = 5.0) -> None:
        """End the threads once what was submitted is done. Waits at most *timeout* seconds for all of them."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            threads = self._threads - {threading.current_thread()}
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _grow(self) -> bool:
        """Make one thread more if that is possible; False when there is none at all."""
        if len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{next(self._numbers)}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is shutting down
                return bool(self._threads)
            self._threads.add(thread)
        return True

    def _work(self) -> None:
        job = self._next()
        while job is not None:
            try:
                job()
            except Exception:
                logger.exception("bigm: a job met a bug: %r", job)
            del job  # what it holds must not live until the next one
            job = self._next()

    def _next(self) -> Callable[[], object] | None:
        """The next job; None: the thread ends, and is not counted any more."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._jobs or self._closed, self._patience)
            self._idle -= 1
            if self._jobs:
                return self._jobs.popleft()
            self._threads.discard(threading.current_thread())
            return None
