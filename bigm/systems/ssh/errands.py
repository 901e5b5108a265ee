"""What is done for many at once: for several hosts side by side, and for several askers in one go."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from bigm.errors import SystemFault

_AT_ONCE = 8  # hosts that are dialled: a sshd in front of them, as a jump, drops some from 10 on (MaxStartups)

T = TypeVar("T")


def each(items: Sequence[T], work: Callable[[T], object]) -> None:
    """Do *work* for all items, some at a time; raises the first failure when all are done, an interrupt at once."""
    waiting = list(reversed(items))
    failures: list[Exception] = []

    def work_on() -> None:
        while waiting:
            try:
                item = waiting.pop()
            except IndexError:
                return
            try:
                work(item)
            except Exception as error:  # noqa: BLE001 - raised again in the caller
                failures.append(error)
            except BaseException:
                waiting.clear()
                raise

    threads = [threading.Thread(target=work_on, name="bigm-ssh", daemon=True) for _ in items[1:_AT_ONCE]]
    started = []
    for thread in threads:
        with contextlib.suppress(RuntimeError):  # the interpreter is shutting down: one after the other, then
            thread.start()
            started.append(thread)
    work_on()
    try:
        for thread in started:
            thread.join()
    except BaseException:
        waiting.clear()
        raise
    if failures:
        raise failures[0]


class Shared(Generic[T]):
    """An answer that all who ask at the same time share, whoever asks first; an error too.

    Args:
        fresh: seconds for which it holds.
    """

    def __init__(self, fresh: float) -> None:
        self._fresh = fresh
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._value: Any = None
        self._error: SystemFault | None = None

    def get(self, ask: Callable[[], T], timeout: float = -1.0) -> T:
        """What *ask* returns or raises, or what it did for somebody who asked meanwhile.

        Args:
            ask: may take what is left of the caller's time.
            timeout: seconds to wait for somebody else's answer; negative: for as long as that takes.
        Raises:
            TimeoutError: somebody else is still asking; nothing was done for us.
        """
        asked = time.monotonic()
        if not self._lock.acquire(timeout=timeout):
            raise TimeoutError(f"somebody else has been asking for {timeout:.0f} s")
        try:
            if self._at < asked - self._fresh:
                self._value, self._error = None, None
                try:
                    self._value = ask()
                except SystemFault as error:
                    self._error = error
                self._at = time.monotonic()
            if self._error is not None:
                raise type(self._error)(self._error.message, code=self._error.code, hint=self._error.hint)
            value: T = self._value
            return value
        finally:
            self._lock.release()


class Gathered:
    """Errands of the same kind: what is asked for while one is run goes with the next, all together.

    Args:
        run: does it for many.
    """

    def __init__(self, run: Callable[[Sequence[int]], dict[int, str]]) -> None:
        self._run = run
        self._running = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: set[int] = set()
        self._done: dict[int, str | Exception] = {}

    def get(self, wanted: Iterable[int]) -> dict[int, str]:
        """Have it done for *wanted*; the outcome of each. An error is for all whom it was done for together."""
        wanted = set(wanted)
        with self._lock:
            self._waiting |= wanted
        with self._running:
            with self._lock:
                batch, self._waiting = self._waiting, set()
            if batch:
                outcome: dict[int, str | Exception] = {}
                try:
                    outcome.update(self._run(sorted(batch)))
                except Exception as error:  # noqa: BLE001 - raised again in those who asked
                    outcome.update(dict.fromkeys(batch, error))
                except BaseException:  # Ctrl-C is for one of them: the next who waits does it for the others
                    with self._lock:
                        self._waiting |= batch
                    raise
                self._done.update(outcome)
            found = {one: self._done[one] for one in wanted}
        for outcome_of_one in found.values():
            if isinstance(outcome_of_one, Exception):
                raise outcome_of_one
        return {one: str(said) for one, said in found.items()}
