"""What is shown is whole, marked and in order, and a reader that stops or leaves hurts nobody."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigm.bootstrap.records import LogRecord
from bigm.config import Settings
from bigm.runs import Run
from bigm.terminal import Output, Terminal, short_name
from waiting import eventually


def record(data: bytes, source: str = "w0", stream: str = "o") -> LogRecord:
    return LogRecord(0, time.time(), source, stream, data)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(Settings(home=tmp_path), "x")


class Plain(Terminal):
    """A terminal whose standard error, no terminal, is kept."""

    def __init__(self, **options: str) -> None:
        self.stderr, self.stdout = io.StringIO(), io.StringIO()
        super().__init__(stderr=lambda: self.stderr, stdout=lambda: self.stdout, **options)  # type: ignore[arg-type]

    @property
    def said(self) -> str:
        return self.stderr.getvalue()


class Screen:
    """A pseudo-terminal, and what was written to it."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        self.stream = open(theirs, "w")
        self.seen = b""
        self._reader = threading.Thread(target=self._read, name="screen")
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 65536):
                self.seen += data
        except OSError:
            pass  # its other end is closed

    def terminal(self, **environ: str) -> Terminal:
        return Terminal(environ={"TERM": "xterm", **environ}, stderr=lambda: self.stream)

    def close(self) -> None:
        self.stream.close()
        self._reader.join(5)
        os.close(self._ours)


@pytest.fixture
def screen() -> Iterator[Screen]:
    screen = Screen()
    yield screen
    screen.close()


def test_names_tell_machine_worker_and_agent() -> None:
    assert "m0" == short_name("m0", "w0", 1)
    assert "m0.1" == short_name("m0", "w1", 2)
    assert "m0.agent" == short_name("m0", "agent", 1)


def test_every_line_is_marked_and_unfinished_ones_wait_for_their_end() -> None:
    terminal = Plain()
    terminal.write("m0", [record(b"one\ntw")])
    terminal.write("m1", [record(b"three\n")])
    terminal.write("m0", [record(b"o\nfour")])
    assert "m0 | one\nm1 | three\nm0 | two\n" == terminal.said
    terminal.finish("m0")
    assert "m0 | four" == terminal.said.splitlines()[-1]


def test_the_streams_of_several_workers_do_not_mix_within_a_line() -> None:
    terminal = Plain()
    pieces = [(b"a", "w0", "o"), (b"b", "w1", "o"), (b"c\n", "w0", "e"), (b"A\n", "w0", "o"), (b"B\n", "w1", "o")]
    terminal.write("m0", [record(*piece) for piece in pieces], procs=2)
    assert "m0.0 | c\nm0.0 | aA\nm0.1 | bB\n" == terminal.said


def test_off_a_terminal_control_codes_pass_unchanged() -> None:
    terminal = Plain()
    terminal.write("m0", [record(b"\x1b[31mred\x1b[0m 10%\r20%\n")])
    assert "m0 | \x1b[31mred\x1b[0m 10%\r20%\n" == terminal.said


@pytest.mark.parametrize(
    ("where", "stdout", "stderr"), [("off", "", ""), ("stdout", "m0 | x\n", ""), ("stderr", "", "m0 | x\n")]
)
def test_output_goes_where_machine_output_says(where: str, stdout: str, stderr: str) -> None:
    terminal = Plain(machine_output=where)
    terminal.write("m0", [record(b"x\n")])
    assert (stdout, stderr) == (terminal.stdout.getvalue(), terminal.said)


@pytest.mark.parametrize(
    ("verbosity", "said"),
    [
        ("quiet", "bigm: warned\n"),
        ("normal", "bigm: phase\nbigm: warned\n"),
        ("verbose", "bigm: phase\nbigm: detail\nbigm: warned\nm0.agent | agent\n"),
    ],
)
def test_verbosity_says_what_bigm_says(verbosity: str, said: str) -> None:
    terminal = Plain(verbosity=verbosity)
    terminal.phase("phase")
    terminal.detail("detail")
    terminal.warn("warned")
    terminal.write("m0", [record(b"agent\n", "agent")])
    assert said == terminal.said


def test_off_a_terminal_nothing_is_live() -> None:
    terminal = Plain()
    with terminal.live(lambda: "waiting"):
        assert not terminal.restless
    assert "" == terminal.said


def test_a_program_without_stderr_is_left_alone() -> None:
    terminal = Terminal(stderr=lambda: None)
    terminal.phase("x")
    terminal.write("m0", [record(b"x\n")])


# --- on a terminal


def test_names_have_colours_on_a_terminal(screen: Screen) -> None:
    screen.terminal().write("m0", [record(b"x\n")])
    eventually(lambda: re.fullmatch(rb"\x1b\[\d+mm0 \|\x1b\[0m x\r\n", screen.seen), message=lambda: repr(screen.seen))


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_color_and_a_dumb_terminal_get_none(screen: Screen, environ: dict[str, str]) -> None:
    screen.terminal(**environ).write("m0", [record(b"x\n")])
    eventually(lambda: screen.seen == b"m0 | x\r\n", message=lambda: repr(screen.seen))


def test_on_a_terminal_a_redrawn_line_is_shown_in_its_latest_state(screen: Screen) -> None:
    screen.terminal(NO_COLOR="1").write("m0", [record(b"10%\r20%\r30%\r\n")])
    eventually(lambda: screen.seen == b"m0 | 30%\r\n", message=lambda: repr(screen.seen))


def test_on_a_terminal_an_unfinished_line_is_shown_after_a_while(screen: Screen, run: Run) -> None:
    output = Output(screen.terminal(NO_COLOR="1"))
    output.write("m0", run.log("m0"), [record(b"working...")])
    eventually(lambda: screen.seen == b"m0 | working...\r\n", message=lambda: repr(screen.seen))
    output.write("m0", run.log("m0"), [record(b" done\n")])
    assert output.close()
    eventually(lambda: screen.seen.endswith(b"m0 |  done\r\n"), message=lambda: repr(screen.seen))
    assert b"working... done\n" in (run.folder / "logs/m0.log").read_bytes()


def test_the_live_line_is_drawn_makes_room_and_goes(screen: Screen, run: Run) -> None:
    terminal = screen.terminal(NO_COLOR="1")
    output = Output(terminal)
    with terminal.live(lambda: "3/5 machines running"):
        eventually(lambda: b"bigm: 3/5 machines running" in screen.seen, message=lambda: repr(screen.seen))
        output.write("m0", run.log("m0"), [record(b"hello\n")])
        eventually(lambda: b"\r\x1b[Km0 | hello\r\n" in screen.seen, message=lambda: repr(screen.seen))
    assert output.close()
    eventually(lambda: screen.seen.endswith(b"\r\x1b[K"), message=lambda: repr(screen.seen))


def test_of_several_that_wait_the_last_with_something_to_say_is_shown(screen: Screen) -> None:
    output = Output(terminal := screen.terminal(NO_COLOR="1"))
    said = ""
    with terminal.live(lambda: "outer"):
        with terminal.live(lambda: said):
            eventually(lambda: b"bigm: outer" in screen.seen, message=lambda: repr(screen.seen))
            said = "inner"
            eventually(lambda: b"bigm: inner" in screen.seen, message=lambda: repr(screen.seen))
        before = len(screen.seen)
        eventually(lambda: b"bigm: outer" in screen.seen[before:], message=lambda: repr(screen.seen))
    assert output.close()


# --- readers that stop or leave


def test_all_of_it_is_logged_and_shown_in_order_by_the_time_flush_returns(run: Run) -> None:
    terminal = Plain()
    output = Output(terminal)
    done: list[int] = []
    for n in range(100):
        output.write("m0", run.log("m0"), [record(b"%d\n" % n)], done=lambda n=n: done.append(n))  # type: ignore[misc]
    output.write("m0", run.log("m0"), [record(b"end")], last=True, note="3 bytes of output are lost")
    assert output.flush(10)
    expected = [f"m0 | {n}" for n in range(100)]
    assert [*expected, "bigm: m0: 3 bytes of output are lost", "m0 | end"] == terminal.said.splitlines()
    assert list(range(100)) == done
    assert 102 == len((run.folder / "logs/m0.log").read_text().splitlines())
    assert output.close()


def test_a_reader_that_stopped_holds_up_nobody_but_the_showing(run: Run, tmp_path: Path) -> None:
    """The thread that hands output over returns at once, though the pipe is full and nobody reads it."""
    code = f"""
import sys, time
sys.path[:0] = {[str(path) for path in sys.path]!r}
from pathlib import Path
from bigm.bootstrap.records import LogRecord
from bigm.config import Settings
from bigm.runs import Run
from bigm.terminal import Output, Terminal
run = Run.create(Settings(home=Path({str(tmp_path)!r})), "x")
output = Output(Terminal())
began = time.monotonic()
for n in range(10):
    output.write("m0", run.log("m0"), [LogRecord(0, 0.0, "w0", "o", b"x" * 99999 + b"\\n")])
print(time.monotonic() - began < 1, output.flush(0.2), output.close(0.2), flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert b"True False False\n" == child.stdout.readline()
    finally:
        child.kill()
        child.communicate()


def test_a_closed_stderr_ends_the_showing_and_not_the_run(run: Run) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        output = Output(Terminal(stderr=lambda: stream))
        for _ in range(3):
            output.write("m0", run.log("m0"), [record(b"x\n")])
        assert output.flush(5)
        assert output.close()
    assert 3 == len((run.folder / "logs/m0.log").read_text().splitlines())


def test_a_hundred_thousand_lines_a_second_are_no_burden(run: Run) -> None:
    terminal = Plain()
    chunk = b"".join(b"line %d\n" % n for n in range(5000))
    output = Output(terminal)
    began = time.monotonic()
    for _ in range(20):
        output.write("m0", run.log("m0"), [record(chunk)])
    assert output.flush(10)
    assert time.monotonic() - began < 1.0
    assert 100_000 == terminal.said.count("\n")
    output.close()
