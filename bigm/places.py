"""What a scheduler knows of the machines it gives tasks to, and of what it has given them. For its thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from bigm.backlog import TARGET
from bigm.machine import Machine
from bigm.rpc.calls import CallFuture
from bigm.tasks import Piece

LATE = 0.050  # seconds after which a batch that should have ended is recalled
ASIDE_FIRST = 1.0  # seconds for which a machine with errors of the wire is given nothing; doubled each time, up to
ASIDE_MOST = 60.0


class Batch:
    """Tasks on their way to a worker and back."""

    __slots__ = ("expected", "late", "parts", "patience", "pieces", "reply", "ticket", "told", "worker")

    def __init__(self, ticket: int, worker: Worker, pieces: list[Piece], expected: float | None) -> None:
        self.ticket = ticket
        self.worker = worker
        self.pieces = pieces
        self.expected = expected  # seconds; None: not known
        self.parts: list[tuple[Callable[..., Any] | None, int]] = []
        self.reply: CallFuture | None = None
        self.told = 0  # outcomes that were told before its end
        self.patience = max(LATE, 2 * (expected or 0.0))  # seconds; doubled each time it is recalled
        self.late = math.inf  # when (monotonic) it should be recalled

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def short(self, now: float) -> bool:
        """Whether another can wait behind it."""
        return self.expected is not None and self.expected <= 2 * TARGET and now < self.late

    def wait(self) -> None:
        """Begin to count, or begin again."""
        self.late = time.monotonic() + self.patience
        self.patience *= 2

    def drop(self) -> list[Piece]:
        """Its pieces, which it lets go of, as of all else."""
        pieces, self.pieces = self.pieces, []
        self.parts, self.reply = [], None
        return pieces


class Worker:
    """A worker of a machine, and what it has been given."""

    __slots__ = ("back", "batches", "last", "place", "proc")

    def __init__(self, place: Place, proc: int) -> None:
        self.back: object = None  # what is done when it, having died, is back
        self.place = place
        self.proc = proc
        self.last = -1  # ticket
        self.batches: dict[int, Batch] = {}

    @property
    def idleness(self) -> tuple[int, int, int]:
        """Least: nothing to do for longest. No two have the same."""
        return len(self.batches), self.last, id(self)


class Place:
    """A machine, as the scheduler knows it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.workers: list[Worker] = []  # none while it cannot be called
        self.aside = 0.0  # until when (monotonic) it is given nothing
        self.pause = ASIDE_FIRST
        self.draining = False

    @property
    def busy(self) -> bool:
        """Whether it was given something that it has not answered."""
        return any(worker.batches for worker in self.workers)

    def set_aside(self) -> None:
        """Give it nothing for a while, longer each time."""
        self.aside = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, ASIDE_MOST)

    def works(self) -> None:
        """It has answered: the next time counts as the first."""
        self.pause = ASIDE_FIRST
