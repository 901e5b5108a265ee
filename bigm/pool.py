"""A bounded pool of threads for what blocks in the driver: dialling, enrolling, terminating.

concurrent.futures has one too, but its threads are joined before the handlers of `atexit` run and cannot be used by
them; and that is when a cluster that nobody shut down ends its machines.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

_Job = tuple[Callable[..., object], tuple[object, ...]]


class Pool:
    """Runs jobs in daemon threads, made on demand. Jobs see to their own errors.

    Args:
        name: what the threads are called.
        most: threads at most.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._waiting = 0  # threads without a job, less jobs without a thread
        self._closed = False

    def __repr__(self) -> str:
        return f"<Pool {self._name}: {len(self._threads)} of {self._most} threads, {self._jobs.qsize()} jobs waiting>"

    def submit(self, job: Callable[..., object], *args: object) -> None:
        """Run *job* soon; where not one thread can be made any more, in the calling thread. Not after `close`."""
        with self._lock:
            if self._closed:
                return
            self._waiting -= 1
            inline = self._waiting < 0 and not self._grow()
        if inline:
            job(*args)
        else:
            self._jobs.put((job, args))

    def close(self, timeout: float = 5.0) -> None:
        """End the threads once what was submitted is done. Waits at most *timeout* seconds for each."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout)

    def _grow(self) -> bool:
        """Make one thread more if that is possible; False when there is none at all."""
        if len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is shutting down
                return bool(self._threads)
            self._threads.append(thread)
            self._waiting += 1
        return True

    def _work(self) -> None:
        while True:
            found = self._jobs.get()
            if found is None:
                return
            job, args = found
            del found
            job(*args)
            del job, args
            with self._lock:
                self._waiting += 1
