"""What holds for every test: a home and a temporary folder of its own session, and nothing left behind.

The suite starts real processes that start further ones. Every process it starts inherits `TMPDIR`, which is unlike any
other session's, so that what is left over can be found in /proc whoever its parent is by then.

Runs on Python 3.9 too: the tests of what travels do.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from waiting import eventually

# No test is timed: computers that run these are shared.
settings.register_profile("bigm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bigm")

# One per process, started at the first need, ended with the process: not a leak.
SHARED_THREADS = ("bigm-io", "bigm-leases", "bigm-keeper", "bigm-callbacks", "bigm-handshakes", "bigm-turns")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--only-skips", metavar="REGEX", help="fail when a test is skipped for a reason that does not match REGEX"
    )


def pytest_configure(config: pytest.Config) -> None:
    """A shell starts background jobs with Ctrl-C ignored, which all that the tests start would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are cores, since tests wait for a third of their time; with many cores a few."""
    return min(6, (os.cpu_count() or 1) * 3 // 2)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in _unexpected_skips(terminalreporter, config):
        terminalreporter.write_line(f"unexpected skip: {line}", red=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == pytest.ExitCode.OK and reporter and _unexpected_skips(reporter, session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _unexpected_skips(reporter: pytest.TerminalReporter, config: pytest.Config) -> list[str]:
    pattern = config.getoption("--only-skips")
    if pattern is None:
        return []
    reasons = [(report.nodeid, str(report.longrepr)) for report in reporter.stats.get("skipped", ())]
    return [f"{test}: {reason}" for test, reason in reasons if not re.search(pattern, reason)]


@pytest.fixture(scope="session", autouse=True)
def _leaves_nothing_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No process, listening port or file of the suite outlives it; the developer's home and settings are not seen."""
    tmp_path_factory.getbasetemp()  # pytest keeps its own folders, so make them elsewhere
    folder = Path(tempfile.mkdtemp(prefix="bigm-tests-")).resolve()
    temp, home, bigm_home = (folder / name for name in ("tmp", "home", "bigm"))
    for path in (temp, home, bigm_home):
        path.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("BIGM_") or name == "PYTEST_ADDOPTS"]:
            patch.delenv(name)  # the latter was for us, and not for sessions that tests run
        patch.setenv("TMPDIR", str(temp))
        patch.setenv("HOME", str(home))
        patch.setenv("BIGM_HOME", str(bigm_home))
        patch.setattr(tempfile, "tempdir", str(temp))
        yield
    try:
        eventually(lambda: not _processes(temp), 5.0, lambda: f"processes left behind: {_processes(temp)}")
        assert [] == sorted(path.name for path in temp.iterdir()), "files left in the temporary folder"
        assert [] == sorted(path.name for path in home.iterdir()), "files left in the home folder"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _ends_its_threads_and_ports() -> Iterator[None]:
    """Nothing bigm started for a test module, thread or listening socket, outlives the module in this process."""
    threads, ports = set(threading.enumerate()), _listening()
    yield

    def left() -> list[str]:
        new = [thread.name for thread in threading.enumerate() if thread not in threads]
        return [name for name in new if name.startswith("bigm-") and not name.startswith(SHARED_THREADS)] + [
            f"port {port}" for port in _listening() - ports
        ]

    eventually(lambda: not left(), 5.0, lambda: f"left behind by this module: {left()}\n{_stacks(threads)}")


def _stacks(known: set[threading.Thread]) -> str:
    """Where the threads are that are not *known*."""
    frames = sys._current_frames()
    new = [thread for thread in threading.enumerate() if thread not in known and thread.ident in frames]
    return "\n".join(f"{each.name}:\n{''.join(traceback.format_stack(frames[each.ident]))}" for each in new)


def _processes(mark: Path) -> list[str]:
    """Processes, other than this one, that have *mark* in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*") if sys.platform == "linux" else ():
        try:
            if int(entry.name) != os.getpid() and os.fsencode(mark) in (entry / "environ").read_bytes():
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")[:200]
                found.append(f"{entry.name}: {command.decode(errors='replace')}")
        except OSError:
            continue  # ended meanwhile, or another user's
    return found


def _listening() -> set[int]:
    """Ports on which this process listens."""
    if sys.platform != "linux":
        return set()
    inodes = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    ports = set()
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        if os.path.exists(table):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:  # 0A: LISTEN
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports
