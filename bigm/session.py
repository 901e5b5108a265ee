"""What all clusters of one process share: its run, what it shows, and how it ends.

A driver can end by leaving its `with` block, by an exception, by a signal, or by reaching its last line with a cluster
still open. Every way leads to the clusters' `shutdown`: signals raise SystemExit in the main thread and so take the way
of an exception; `atexit` catches the rest. A second signal, while machines are being ended, ends them at once.

Errors that bigm raised on purpose end a program with one message and the exit code of docs/cli.md; exceptions of the
user's keep their traceback, and so do calls that the program made wrongly: it shows where.
"""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Protocol

from bigm import notebook
from bigm.config import Settings
from bigm.costs import Ledger
from bigm.errors import BigmError, CallError, ServiceError
from bigm.groups import GroupError
from bigm.rpc import interrupts
from bigm.runs import Run
from bigm.terminal import Output, Terminal

_current: Session | None = None  # one execution of a program is one run, whatever its modules do
_next_hook = sys.__excepthook__
_next_exit = sys.exit
_lock = threading.Lock()


def session(settings: Settings) -> Session:
    """This process's session; *settings* are the first cluster's, which makes it."""
    global _current
    with _lock:
        if _current is None or _current.home != settings.home or _current.pid != os.getpid():
            _current = Session(settings)
        return _current


def began() -> bool:
    """Whether this process has had a session, so that a cluster was started in it."""
    return _current is not None


def tell_errors_plainly() -> None:
    """From now on, errors that bigm raised on purpose end this process with one message and their exit status.

    That of `sys.exit` is noted too, for the run's folder: outside a `with` block nothing else tells it.
    """
    global _next_hook, _next_exit
    with _lock:
        if sys.excepthook is not _excepthook:
            _next_hook, sys.excepthook = sys.excepthook, _excepthook
        if sys.exit is not _exit:
            _next_exit, sys.exit = sys.exit, _exit


def _exit(status: Any = None, /) -> NoReturn:
    if _current is not None and _current.pid == os.getpid() and _in_main_thread():
        _current.ends_with(SystemExit(status))
    _next_exit(status)


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    ours = _current if _current is not None and _current.pid == os.getpid() else None
    if ours is not None and not at_prompt():
        ours.ends_with(error)
    if not is_plain(error) or (ours is not None and ours.verbose):
        _next_hook(kind, error, trace)
    if is_plain(error):
        text = str(error) or "interrupted"
        if ours is None or ours.terminal.last != text:  # it may have been said when it happened
            print(f"bigm: {text}", file=sys.stderr)
        if not at_prompt():
            raise SystemExit(exit_status(error))


class Endable(Protocol):
    """A cluster, as far as the session knows it."""

    def _finish(self) -> None:
        """Let what was given to its executors be done."""

    def _hurry(self) -> None:
        """Whoever ends its machines is to do so at once."""

    def shutdown(self) -> object:
        """End all its machines."""


class Session:
    """One execution of a driver program."""

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home
        self.pid = os.getpid()
        self.terminal = Terminal.of(settings)
        self.run = Run.create(settings, program(), sys.argv[1:], warn=self.terminal.warn)
        self.costs = Ledger()
        self._clusters: list[Endable] = []
        self._names: set[str] = set()
        self._output: Output | None = None
        self._installed: list[int] = []
        self._cells = notebook.Cells()
        self.verbose = settings.verbosity == "verbose"
        self._status: int | None = 0
        self._error = ""
        _before_exit(self._at_exit)

    def __repr__(self) -> str:
        return f"<Session {self.run.id}: {len(self._clusters)} clusters>"

    def name(self, wanted: str) -> str:
        """*wanted*, or where another cluster of this run has that name, the next number of it."""
        numbered = (f"{wanted}-{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([wanted], numbered) if name not in self._names)
        self._names.add(name)
        return name

    def label(self, cluster: str, machine: str) -> str:
        """What *machine* is called in this run: its id, and from the second cluster on the cluster's name before it."""
        return machine if self._names <= {cluster} else f"{cluster}.{machine}"

    def open(self, cluster: Endable) -> Output:
        """A cluster is open from now on."""
        if not self._clusters:
            self._output = Output(self.terminal)
            self._install()
        self._status, self._error = 0, ""  # whatever ended an earlier cluster did not end the program
        self._clusters.append(cluster)
        assert self._output is not None
        return self._output

    def closed(self, cluster: Endable) -> None:
        """A cluster has ended all its machines."""
        if cluster not in self._clusters:
            return
        self._clusters.remove(cluster)
        if not self._clusters and self._output is not None:
            self._restore()
            self._output.close()

    def ends_with(self, error: BaseException) -> None:
        """*error* ends the program, or is about to: remember the status that this leads to."""
        self._status, self._error = exit_status(error), str(error)

    @property
    def interrupted(self) -> bool:
        """Whether a signal is what ends the program."""
        return self._status is not None and self._status > 128

    # --- signals

    def _install(self) -> None:
        """Handle signals where nobody else does."""
        self._cells.on()
        if not _in_main_thread():
            return
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._install_one(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                self._install_one(number, self._on_signal)

    def _install_one(self, number: int, handler: interrupts.Handler) -> None:
        interrupts.install(number, handler)
        self._installed.append(number)

    def _restore(self) -> None:
        self._cells.off()
        self.restore_signals()

    def restore_signals(self) -> None:
        """Leave signals as they were found, where no cluster is open any more. Only the main thread can."""
        if self._clusters or not _in_main_thread():
            return
        while self._installed:
            interrupts.uninstall(self._installed.pop())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.pid:  # a forked child dies of it as it would without us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        error = SystemExit(128 + number)
        self.ends_with(error)  # where it cancels tasks, clusters see no more of it than that
        raise error

    # --- the end

    def _at_exit(self) -> None:
        if os.getpid() != self.pid:
            return
        try:
            for cluster in list(self._clusters) if self.interrupted else []:
                cluster._hurry()  # a task that was cancelled ends it, and that was interrupted again
            _await_threads()
            for cluster in [] if self.interrupted else list(self._clusters):
                cluster._finish()
            for cluster in list(self._clusters):
                cluster.shutdown()
        except (KeyboardInterrupt, SystemExit) as error:  # the second signal: the machines were ended at once
            self._end_now(exit_status(error))
        finally:
            if self.run.folder.is_dir():  # not removed meanwhile, as a test's is
                self.run.finish(self._status, self._error, self.costs.total())

    def _end_now(self, status: int) -> NoReturn:
        self.run.finish(status, "interrupted", self.costs.total())
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):  # None, closed, or of a reader that is gone
                pass
        os._exit(status)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _before_exit(function: Callable[[], None]) -> None:
    """Have *function* called when the main thread is done, while threads can still be made.

    `atexit` is too late for that from Python 3.12 on, and ending machines takes threads. concurrent.futures uses the
    same hook. In 3.12.0 to 3.12.2 even this is too late (gh-113964): there the machines are ended without ceremony.
    """
    try:
        threading._register_atexit(function)  # type: ignore[attr-defined]  # no public way
    except (AttributeError, RuntimeError):
        atexit.register(function)


def _await_threads() -> None:
    """Wait for the program's own threads, as the interpreter would next: they may be calling machines."""
    ours = {threading.current_thread(), threading.main_thread()}
    executors = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", {})  # told to end after us
    for thread in threading.enumerate():
        if not thread.daemon and thread not in ours and thread not in executors:
            thread.join()


def can_start_threads() -> bool:
    """Whether threads can be made: not while the interpreter shuts down."""
    try:
        threading.Thread(target=int, name="bigm-probe").start()
    except RuntimeError:
        return False
    return True


def at_prompt() -> bool:
    """Whether this is Python's own interactive prompt, which goes on after an error."""
    return hasattr(sys, "ps1") and notebook.shell() is None


def program() -> str:
    """What is run, as the user named it."""
    if notebook.is_notebook():
        return notebook.name()
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0] or "python").name


def is_plain(error: BaseException) -> bool:
    """Whether a user is told *error* in one message, because its traceback would say nothing of their own code."""
    if isinstance(error, GroupError):
        return all(map(is_plain, error.exceptions))
    return isinstance(error, (BigmError, KeyboardInterrupt)) and not isinstance(error, (ServiceError, CallError))


def exit_status(error: BaseException) -> int:
    """The exit status of a program that *error* ends."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return error.exit_code if isinstance(error, BigmError) else 1
