"""Following an agent: one long poll brings its machine's output, by offset, and the deaths of its workers.

Nobody waits for the poll, so a thousand machines cost no thread. Output is shown and kept by `bigm.terminal.Output`,
and fetched no faster than that gets rid of it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence

from bigm.bootstrap.records import LogRecord, Report
from bigm.errors import BigmError
from bigm.rpc.calls import CallFuture
from bigm.rpc.client import Client
from bigm.timeouts import Timeouts

_MAX_BACKLOG = 1 << 20  # bytes of one machine's output that wait to be shown before no more is fetched
_NO_OUTPUT = 1 << 62  # an offset no log reaches: a watch from there wakes for deaths alone

Show = Callable[..., None]


class Watch:
    """Follows one agent by a long poll: shows and keeps its output, and tells the steward the rest.

    While showing lags behind, the poll waits for deaths alone.

    Args:
        agent: whom to ask.
        timeouts: `watch` and `ping` of them.
        show: takes in records; with the keywords `last`, `note` and `done` of `terminal.Output.write`.
        reported: is given each report, on the I/O thread.
        broken: is called on the I/O thread when the poll broke; whoever wants it to go on calls `ask`.
    """

    def __init__(
        self,
        agent: Client,
        timeouts: Timeouts,
        *,
        show: Show,
        reported: Callable[[Report], None],
        broken: Callable[[], None],
    ) -> None:
        self._agent = agent
        self._timeouts = timeouts
        self._show_records = show
        self._reported = reported
        self._broken = broken
        self._changed = threading.Condition()
        self._offset = 0
        self._version = 0
        self._backlog = 0
        self._fetching = False  # a poll for output and deaths is out
        self._guarding = False  # a poll for deaths alone is out
        self._lost = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<Watch at {self._offset}, {self._backlog} bytes not shown yet>"

    def ask(self) -> None:
        """Ask for news, unless that was done already. Blocks nobody."""
        with self._changed:
            fetch = self._backlog < _MAX_BACKLOG
            if self._closed or self._fetching or (self._guarding and not fetch):
                return
            self._fetching, self._guarding = fetch, not fetch
            offset = self._offset if fetch else _NO_OUTPUT
        wait = self._timeouts.watch
        self._agent.submit_internal(
            "Agent.watch",
            (offset, self._version, wait),
            timeout=wait + self._timeouts.ping,
            done=functools.partial(self._answered, fetch),
        )

    def finish(self, end: int, timeout: float) -> None:
        """Wait until all output up to *end* is taken in, at most *timeout* seconds and as long as the agent lives."""
        with self._changed:
            self._changed.wait_for(lambda: self._offset >= end or self._lost, timeout)
            missing = end - self._offset
            why = "the agent is gone" if self._lost else f"it took longer than {timeout:g} s"
        self._close(f"{missing} bytes of output could not be read: {why}" if missing > 0 else "")

    def lost(self) -> None:
        """The agent is known to be gone: nothing more will come."""
        with self._changed:
            self._lost = True
            self._changed.notify_all()

    def abandon(self, why: str) -> None:
        """Close: the agent cannot be asked any more."""
        self._close(f"output after byte {self._offset} could not be read: {why}")

    def _close(self, note: str) -> None:
        with self._changed:
            self._closed = True
        self._show((), last=True, note=note)

    def _answered(self, fetched: bool, reply: CallFuture) -> None:
        """Take in an answer; on the I/O thread."""
        with self._changed:
            if fetched:
                self._fetching = False
            else:
                self._guarding = False
            if self._closed:
                return
        try:
            report: Report = reply.result()
        except BigmError:
            self._broken()
            return
        self._version = report.version
        if fetched:
            self._take_in(report)
        self._reported(report)
        self.ask()

    def _take_in(self, report: Report) -> None:
        note = f"{report.dropped_bytes} bytes of output are lost" if report.dropped_bytes else ""
        if report.records or note:
            self._show(report.records, note=note)
        with self._changed:
            self._offset = report.next_offset
            self._changed.notify_all()

    def _show(self, found: Sequence[LogRecord], *, last: bool = False, note: str = "") -> None:
        size = sum(len(record.data) for record in found)
        with self._changed:
            self._backlog += size
        self._show_records(found, last=last, note=note, done=functools.partial(self._shown, size))

    def _shown(self, size: int) -> None:
        with self._changed:
            self._backlog -= size
            lagging = self._guarding
        if lagging:
            self.ask()
