"""What the driver shows: the machines' output, and what bigm itself has to say. Standard output stays the program's.

`Terminal` knows how things look. Off a terminal a machine's lines are passed on byte by byte behind its name, and bigm
says one line per phase. On one, names have colours (not with `NO_COLOR`), a line that is redrawn with `\\r` is shown in
its latest state, what has no end of line yet is shown after a second, and a live line says what is being waited for.

`Output` is the one thread that writes, to the terminal and to the logs of the run: a reader that has stopped (a pager,
Ctrl-S) or a slow disk must not keep the threads that renew leases. What it is given is bounded by its callers: they
fetch the next piece of a machine's output only when `done` was called for the one before.

A stream that has been closed ends the showing, never the run.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

from bigm import notebook
from bigm.bootstrap.records import LogRecord
from bigm.runs import Lines

if TYPE_CHECKING:
    from bigm.config import Settings
    from bigm.runs import LogWriter

_PATIENCE = 1.0  # seconds after which an unfinished line is shown on a terminal
_FRAME = 0.2  # seconds between two looks at the live line
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_ERASE = "\r\x1b[K"

# Two clusters of one process share the streams: blocks must not be torn.
_WRITING = threading.Lock()


def short_name(machine: str, source: str, procs: int) -> str:
    """How lines of a source are marked: "m0", "m0.1" for one of several workers, "m0.agent"."""
    if source.startswith("w") and procs > 1:
        return f"{machine}.{source[1:]}"
    return machine if source.startswith("w") else f"{machine}.{source}"


class Terminal:
    """Shows machines' output and bigm's own words. Its methods may be called from any thread.

    Args:
        machine_output: "stderr", "stdout" or "off".
        verbosity: "quiet" leaves warnings, "verbose" adds details and the agents' own output.
        environ: `NO_COLOR` and `TERM` are looked up here.
        stderr: where bigm speaks, asked anew each time: tests, notebooks and editors replace it.
        stdout: likewise; used only when machines' output is to go there.
    """

    def __init__(
        self,
        *,
        machine_output: str = "stderr",
        verbosity: str = "normal",
        environ: Mapping[str, str] = os.environ,
        stderr: Callable[[], TextIO | None] = lambda: sys.stderr,
        stdout: Callable[[], TextIO | None] = lambda: sys.stdout,
    ) -> None:
        self._own = _Stream(stderr)
        self._out = {"stderr": self._own, "stdout": _Stream(stdout), "off": None}[machine_output]
        self._verbosity = verbosity
        self._dumb = environ.get("TERM", "") in ("dumb", "")
        self._colour = not self._dumb and not environ.get("NO_COLOR")
        self._lock = threading.RLock()
        self._lines: dict[str, tuple[int, Lines]] = {}
        self._live: list[_Live] = []  # several may wait at once; the last that has something to say is shown
        self._cell: notebook.Line | None = None
        self._drawn = ""
        self.last = ""
        """What bigm itself said last, as long as nothing else was shown after it."""
        self.restless = False
        """Something here changes with time alone, so that `tick` must be called a few times a second."""
        self.wake: Callable[[], None] = lambda: None
        """Called when it has become restless."""

    @classmethod
    def of(cls, settings: Settings) -> Terminal:
        """The terminal that *settings* ask for."""
        return cls(machine_output=settings.machine_output, verbosity=settings.verbosity)

    def __repr__(self) -> str:
        return f"<Terminal {self._verbosity}, {len(self._lines)} machines>"

    def phase(self, text: str) -> None:
        """Something the run does next."""
        if self._verbosity != "quiet":
            self._say(text)

    def detail(self, text: str) -> None:
        """Something only those want to know who ask with -v."""
        if self._verbosity == "verbose":
            self._say(text)

    def warn(self, text: str) -> None:
        """Something the user must know, whatever the verbosity."""
        self._say(text)

    @contextlib.contextmanager
    def live(self, status: Callable[[], str]) -> Iterator[None]:
        """While the body waits, keep *status* as the last line of a terminal, or in the output of a notebook's cell.

        With the seconds it took so far. A cell keeps the last state. Where several wait, the one that began last is
        shown; while its *status* is "", the one before.
        """
        in_cell = notebook.is_notebook()
        if self._verbosity == "quiet" or not (in_cell or (self._own.is_terminal() and not self._dumb)):
            yield
            return
        live = _Live(status, time.monotonic())
        with self._lock:
            if not self._live:
                self._cell = notebook.Line() if in_cell else None
            self._live.append(live)
            self.restless = True
        self.wake()
        try:
            yield
        finally:
            with self._lock:
                if self._drawn and self._cell is not None:
                    self._draw()
                self._live = [other for other in self._live if other is not live]
                self._erase()

    def write(self, machine: str, records: Iterable[LogRecord], *, procs: int = 1) -> None:
        """Show the whole lines in *records*, which follow those given before."""
        with self._lock:
            _, lines = self._lines.setdefault(machine, (procs, Lines(time.monotonic)))
            self._show(machine, procs, lines.feed(records))
            if self._out is not None and self._out.is_terminal():
                self.restless |= any(lines.waiting())

    def finish(self, machine: str) -> None:
        """Show what never got its end of line: *machine* will say no more."""
        with self._lock:
            procs, lines = self._lines.pop(machine, (1, Lines()))
            self._show(machine, procs, lines.rest())

    def tick(self) -> None:
        """Show what only time makes due."""
        with self._lock:
            self.restless = bool(self._live)
            if self._out is not None and self._out.is_terminal():
                for machine, (procs, lines) in self._lines.items():
                    self._show(machine, procs, lines.rest(older=time.monotonic() - _PATIENCE))
                    self.restless |= any(lines.waiting())
            self._draw()

    def _say(self, text: str) -> None:
        with self._lock:
            self.last = text
            self._erase()
            self._own.write(f"bigm: {text}\n".encode())

    def _show(self, machine: str, procs: int, blocks: Iterable[tuple[float, str, str, bytes]]) -> None:
        if self._out is None:
            for _ in blocks:
                pass
            return
        shown = [
            self._marked(machine, short_name(machine, source, procs), block)
            for _, source, _, block in blocks
            if source != "agent" or self._verbosity == "verbose"
        ]
        if shown:
            self.last = ""
            self._erase()
            self._out.write(b"".join(shown))

    def _marked(self, machine: str, name: str, block: bytes) -> bytes:
        assert self._out is not None
        prefix = f"{name} | ".encode()
        if self._out.is_terminal():
            if b"\r" in block:
                block = b"\n".join(line.rstrip(b"\r").rpartition(b"\r")[2] for line in block.split(b"\n"))
            if self._colour:
                colour = _COLOURS[sum(machine.encode()) % len(_COLOURS)]
                prefix = f"\x1b[{colour}m{name} |\x1b[0m ".encode()
        return prefix + block[:-1].replace(b"\n", b"\n" + prefix) + b"\n"

    def _draw(self) -> None:
        now = time.monotonic()
        shown = ((live.status(), now - live.since) for live in reversed(self._live) if now > live.since + _FRAME)
        text = next((f"bigm: {status} · {seconds:.0f} s" for status, seconds in shown if status), "")
        if self._cell is None:
            text = text[: self._own.width() - 1]
        if not text:
            self._erase()
            return
        if text == self._drawn:
            return
        if self._cell is not None:
            self._cell.show(text)
        else:
            self._own.write(f"{_ERASE}{text}".encode())
        self._drawn = text

    def _erase(self) -> None:
        if self._drawn:
            if self._cell is None:
                self._own.write(_ERASE.encode())
            self._drawn = ""


class _Live(NamedTuple):
    status: Callable[[], str]
    since: float


class _Stream:
    """Standard error or output, whatever object it is at the time, written to by whole blocks of bytes."""

    def __init__(self, current: Callable[[], TextIO | None]) -> None:
        self._current = current
        self._broken: object = None

    def is_terminal(self) -> bool:
        try:
            stream = self._current()
            return stream is not None and stream.isatty()
        except ValueError:
            return False  # closed

    def width(self) -> int:
        try:
            stream = self._current()
            return (os.get_terminal_size(stream.fileno()).columns if stream is not None else 0) or 80
        except (OSError, ValueError):
            return 80

    def write(self, data: bytes) -> None:
        stream = self._current()
        if stream is None or stream is self._broken:
            return
        try:
            with _WRITING:
                _write(stream, data)
        except (OSError, ValueError):
            self._broken = stream  # its reader has gone: nobody is left to tell


def _write(stream: TextIO, data: bytes) -> None:
    with contextlib.suppress(BlockingIOError):
        stream.flush()
    fd = _descriptor(stream)
    if fd is None:
        stream.write(data.decode(errors="replace"))
        stream.flush()
        return
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # another program has made the terminal non-blocking
            select.select([], [fd], [], 1.0)


def _descriptor(stream: TextIO) -> int | None:
    """Where bytes can be written past *stream*; None for what is no file: a test's buffer, a notebook's cell."""
    try:
        return stream.fileno() if hasattr(stream, "buffer") else None
    except OSError:
        return None


class _Piece(NamedTuple):
    machine: str
    log: LogWriter
    records: Sequence[LogRecord]
    procs: int
    last: bool
    note: str
    done: Callable[[], None] | None


class Output:
    """Writes machines' output to their logs and the terminal, in one thread of its own."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self._pieces: deque[_Piece] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._closed = False
        terminal.wake = self._wake
        self._thread = threading.Thread(target=self._run, name="bigm-output", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Output {'closed' if self._closed else 'open'}, {len(self._pieces)} pieces waiting>"

    def write(
        self,
        machine: str,
        log: LogWriter,
        records: Sequence[LogRecord],
        *,
        procs: int = 1,
        last: bool = False,
        note: str = "",
        done: Callable[[], None] | None = None,
    ) -> None:
        """Take in *records* of *machine*, in their order, and return at once.

        Args:
            log: where they are kept.
            procs: workers the machine has, which tells how its lines are marked.
            last: nothing more will come.
            note: a remark for the log and the terminal, before the records: what is missing.
            done: called in the thread of this object when all of it is written; must be quick.
        """
        self._put(_Piece(machine, log, records, procs, last, note, done))

    def flush(self, timeout: float) -> bool:
        """Wait until all that was given is written, at most *timeout* seconds; False when it is not."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pieces and not self._busy, timeout)

    def close(self, timeout: float = 5.0) -> bool:
        """Write what is there and end the thread; False when *timeout* seconds were not enough (a stopped reader)."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _put(self, piece: _Piece) -> None:
        with self._changed:
            self._pieces.append(piece)
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if not self._pieces and not self._closed:
                    self._changed.wait(_FRAME if self.terminal.restless else None)
                if not self._pieces and self._closed:
                    return
                pieces, self._busy = list(self._pieces), True
                self._pieces.clear()
            for piece in pieces:
                self._one(piece)
            self.terminal.tick()

    def _one(self, piece: _Piece) -> None:
        if piece.note:
            piece.log.note(piece.note)
            self.terminal.warn(f"{piece.machine}: {piece.note}")
        piece.log.write(piece.records)
        self.terminal.write(piece.machine, piece.records, procs=piece.procs)
        if piece.last:
            piece.log.finish()
            self.terminal.finish(piece.machine)
        if piece.done is not None:
            piece.done()
