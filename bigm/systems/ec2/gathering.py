"""One request for what many threads ask at about the same time, and never more requests than a few a second.

Fifty machines whose connections break at once ask fifty times whether their instances live. Whoever comes first waits
until a request may be sent, and sends one for all who have come meanwhile; who comes while it is on its way is in the
next one, since its answer may be older than the question.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Gathering(Generic[T]):
    """Gathers questions. May be used from several threads.

    Args:
        request: given the ids that were asked about, answers for all of them. Not called by two threads at once.
        interval: seconds from one request to the next, at least.
        moment: seconds that are waited for others before a request.
    """

    def __init__(self, request: Callable[[set[str]], T], *, interval: float, moment: float = 0.0) -> None:
        self._request = request
        self._interval = interval
        self._moment = moment
        self._changed = threading.Condition()
        self._round = _Round[T]()  # the one that is gathered now
        self._sending = False
        self._earliest = 0.0  # monotonic clock, of the next request

    def ask(self, ids: Iterable[str] = ()) -> T:
        """The answer of a request that was sent after this was called.

        Raises:
            What the request raises, in every thread that has asked.
        """
        with self._changed:
            mine = self._round
            mine.ids.update(ids)
            while self._sending and not mine.over:
                self._changed.wait()
            if mine.over:
                return mine.result()
            self._sending = True
        try:
            self._send(mine)
        finally:
            with self._changed:
                self._sending = False
                self._changed.notify_all()
        return mine.result()

    def _send(self, mine: _Round[T]) -> None:
        now = time.monotonic()
        time.sleep(max(self._moment, self._earliest - now))  # AWS counts requests; who comes meanwhile is served too
        with self._changed:
            self._round = _Round()
            self._earliest = time.monotonic() + self._interval
        try:
            mine.answer = [self._request(mine.ids)]
        except Exception as error:  # noqa: BLE001  # it is raised where it was asked
            mine.error = error


class _Round(Generic[T]):
    """Those who share a request, and what became of it."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.answer: list[T] = []
        self.error: Exception | None = None

    @property
    def over(self) -> bool:
        return bool(self.answer) or self.error is not None

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return self.answer[0]
