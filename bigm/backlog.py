"""What an executor has to do, and how much of it makes a batch. No clock, worker or connection here.

A batch holds as many tasks as take a hundredth of a second, as far as their function was measured; one that was not
goes alone, and so does one that was lost with its machine. It is never more than a share of what waits, so that the
last batches end together.

Source: guided self-scheduling (Polychronopoulos and Kuck, 1987) for the shares.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from bigm.tasks import Piece, Stretch, Sweep, Task, another, fail

TARGET = 0.010  # seconds of work in a batch
LEAST = 0.001  # seconds of work that are worth a call of their own, however little of what waits is left
MOST = 16384  # tasks in a batch
_FORGETTING = 0.5  # of what is known of a function, at each further measurement
_KNOWN = 1024  # functions whose pace is remembered

Entry = Task | Sweep


class Pace:
    """How long the calls of each function take, as far as that was seen. For one thread."""

    def __init__(self) -> None:
        self._seen: dict[object, tuple[float, float]] = {}

    def of(self, function: Callable[..., Any] | None) -> float | None:
        """Seconds of one call, transport excluded; None while that is not known."""
        seen = self._seen.get(_identity(function))
        return None if seen is None else seen[0] / seen[1]

    def saw(self, function: Callable[..., Any] | None, calls: int, seconds: float) -> None:
        """*calls* of it took *seconds* altogether."""
        if not calls:
            return
        identity = _identity(function)
        if len(self._seen) > _KNOWN:
            self._seen.clear()  # a program that makes functions all the time
        before, count = self._seen.get(identity, (0.0, 0.0))
        self._seen[identity] = (before * _FORGETTING + seconds, count * _FORGETTING + calls)


def _identity(function: Callable[..., Any] | None) -> object:
    """Functions that share it run the same code. Never hashes the function itself, which may not be hashable."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    return id(code) if code is not None else getattr(function, "__qualname__", type(function))


class Backlog:
    """Tasks and sweeps in their order. For the scheduler's thread, but for `put`."""

    def __init__(self) -> None:
        self.pace = Pace()
        self._entries: deque[Entry] = deque()
        self._sweeps: set[Sweep] = set()  # those among the entries

    def __len__(self) -> int:
        """Tasks that can be given out, and some that were cancelled."""
        return len(self._entries) - len(self._sweeps) + sum(map(len, list(self._sweeps)))

    def put(self, task: Task) -> None:
        """Add a task at the end. Any thread."""
        self._entries.append(task)

    def put_sweep(self, sweep: Sweep) -> None:
        """Add a sweep at the end, unless it is there or has nothing to do."""
        if sweep and sweep not in self._sweeps:
            self._sweeps.add(sweep)
            self._entries.append(sweep)

    def give_back(self, pieces: Sequence[Piece]) -> None:
        """Let *pieces* be given out again, before all others."""
        for piece in reversed(pieces):
            if isinstance(piece, Task):
                piece.take_back()
                self._entries.appendleft(piece)
                continue
            piece.sweep.give_back(piece)
            if piece.sweep not in self._sweeps:
                self._sweeps.add(piece.sweep)
                self._entries.appendleft(piece.sweep)

    def head(self) -> Entry | None:
        """What is to be given out next; what is not to be any more is let go."""
        while self._entries:
            entry = self._entries[0]
            if isinstance(entry, Task):
                if not entry.cancelled():
                    return entry
                self._entries.popleft()
                entry.set_running_or_notify_cancel()
            elif entry:
                return entry
            else:
                self._entries.popleft()
                self._sweeps.discard(entry)
        return None

    def is_short(self, entry: Entry) -> bool:
        """Whether it is known to take less time than a batch should."""
        pace = self._pace_of(entry)
        return pace is not None and pace <= TARGET

    def gather(self, slots: int) -> tuple[list[Piece], float | None]:
        """Take what makes the next batch.

        Args:
            slots: batches that can run at a time.
        Returns:
            The pieces, and the seconds that they should take; None where that is not known.
        """
        share = math.ceil(len(self) / (2 * slots))
        pieces: list[Piece] = []
        seconds, count = 0.0, 0
        while (entry := self.head()) is not None:
            pace = self._pace_of(entry)
            if pace is None and pieces:
                break
            room = 1 if pace is None else self._room(entry, pace, seconds, count, share)
            if room < 1 and pieces:
                break
            piece = self._take(entry, max(1, room))
            if piece is None:
                continue
            pieces.append(piece)
            if pace is None or piece.lost:
                return pieces, None
            count += len(piece)
            seconds += len(piece) * pace
        return pieces, seconds

    def cancel(self) -> None:
        """Cancel all."""
        while (entry := self.head()) is not None:
            entry.cancel()

    def fail(self, error: BaseException) -> None:
        """Let all fail with *error*."""
        while (entry := self.head()) is not None:
            if isinstance(entry, Sweep):
                entry.fail(another(error))
            elif (task := self._take(entry, 1)) is not None:
                fail(task, another(error))

    def _pace_of(self, entry: Entry) -> float | None:
        """Seconds of one call; None: not known, or it was lost, and others are not to suffer from it."""
        if isinstance(entry, Task) and entry.lost:
            return None
        function: Callable[..., Any] | None = entry.function
        pace = self.pace.of(function)
        return None if pace is None else max(pace, 1e-9)

    def _room(self, entry: Entry, pace: float, seconds: float, count: int, share: int) -> int:
        """How many calls of *entry* a batch still takes that has *count*, of *seconds*."""
        if isinstance(entry, Sweep) and entry.most:  # as its user wants it
            return 0 if count else entry.most
        return min(int((TARGET - seconds) / pace), max(share, int(LEAST / pace)) - count, MOST - count)

    def _take(self, entry: Entry, most: int) -> Piece | None:
        if isinstance(entry, Sweep):
            return self._take_stretch(entry, most)
        self._entries.popleft()
        return entry if entry.set_running_or_notify_cancel() else None

    def _take_stretch(self, sweep: Sweep, most: int) -> Stretch | None:
        return sweep.take(max(most, sweep.most))
