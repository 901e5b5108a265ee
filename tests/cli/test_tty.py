"""What a person sees on a terminal of 80 columns, and what nobody else is bothered with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from commanding import Said, bigm_line

from bigm.config import load
from bigm.runs import Run
from screens import Screen

SLOW = "\nif not bigm.is_driver():\n    time.sleep(1.0)  # what the live line is for\n"


@pytest.fixture
def screen(request: pytest.FixtureRequest) -> Callable[..., Screen]:
    def make(*words: str, **variables: str) -> Screen:
        made = Screen(bigm_line(*words), **variables)
        request.addfinalizer(made.close)
        return made

    return make


def test_a_terminal_shows_colours_and_a_live_line_that_goes(talk: Path, screen: Callable[..., Screen]) -> None:
    talk.write_text(talk.read_text().replace("class Talk", SLOW + "class Talk"))
    shown = screen("run", "talk.py")
    assert 0 == shown.end()
    assert re.search(r"\r\x1b\[Kbigm: 0 of 1 machine RUNNING · 1 starting workers · \d s", shown.seen)
    assert re.search(r"\x1b\[\d+mm0 \|\x1b\[0m line 0\r\n", shown.seen)
    after = shown.seen[shown.seen.rindex("RUNNING") :]
    assert "\r\x1b[K" in after, "the live line was erased"
    assert "\n3\r\n" in shown.seen or "\x1b[K3\r\n" in shown.seen, "the program's own line is unmarked"


@pytest.mark.slow
def test_no_color_leaves_the_live_line_and_no_colour(talk: Path, screen: Callable[..., Screen]) -> None:
    shown = screen("run", "talk.py", NO_COLOR="1")
    assert 0 == shown.end()
    assert "m0 | line 0\r\n" in shown.seen
    assert not re.search(r"\x1b\[\d*m", shown.seen)


def test_ctrl_c_at_the_keyboard_ends_it_with_130_and_no_stack_trace(talk: Path, screen: Callable[..., Screen]) -> None:
    shown = screen("run", "talk.py", "nap", "60", NO_COLOR="1")
    shown.read_until("m0 | napping")
    os.killpg(shown.process.pid, signal.SIGINT)  # as the terminal does it: to the whole group
    assert 130 == shown.end()
    assert "Traceback" not in shown.seen


def listed(home: Path) -> Run:
    run = Run.create(load(), "talk.py", ["--a-long-argument"])
    run.event("machine", machine="m0", state="RUNNING", addr="127.0.0.1:40001/m0")
    text = "a worker was killed by a signal: worker 0 (pid 9707) was killed by signal 11 (SIGSEGV)"
    run.event("machine", machine="m0", state="STOPPED", cause="signal", text=text)
    run.finish(78)
    return run


def test_ps_fits_a_terminal_by_folding_and_is_whole_elsewhere(
    home: Path, screen: Callable[..., Screen], command: Callable[..., Said]
) -> None:
    run = listed(home)
    shown = screen("ps", NO_COLOR="1")
    assert 0 == shown.end()
    lines = re.sub(r"\x1b\[\d*m", "", shown.seen).splitlines()
    assert max(map(len, lines)) <= 80
    assert run.id in shown.seen
    plain = command("ps").out
    assert "was killed by signal 11 (SIGSEGV)" in plain
    assert "\x1b" not in plain
    assert "signal 11 (SIGSEGV)" in " ".join(" ".join(lines).split())


def test_following_on_a_terminal_ends_with_ctrl_c_and_130(home: Path, screen: Callable[..., Screen]) -> None:
    run = Run.create(load(), "x")
    run.log("m0").note("hello")
    shown = screen("logs", "-f")
    shown.read_until("m0.bigm | hello")
    os.killpg(shown.process.pid, signal.SIGINT)
    assert 130 == shown.end()
    assert "Traceback" not in shown.seen
    run.finish(0)


def test_completion_knows_commands_runs_and_machines(home: Path) -> None:
    run = listed(home)

    def complete(line: str, word: str) -> str:
        environ = {**os.environ, "_BIGM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": word}
        return subprocess.run(bigm_line(), env=environ, capture_output=True, text=True, timeout=30).stdout

    assert {"run", "logs", "ps", "config"} <= set(complete("bigm ", "1").split())
    assert run.id in complete("bigm logs ", "2").split()
    assert "m0" in complete("bigm logs last --machine ", "4").split()


def test_commands_start_quickly_and_import_neither_rich_nor_the_cluster(home: Path) -> None:
    listed(home)
    code = "import sys, atexit; sys.argv[1:] = ['ps']; atexit.register(lambda: print(sorted(set(sys.modules) & {%s})))"
    heavy = "'rich', 'yaml', 'bigm.cluster', 'bigm.rpc', 'bigm.authority', 'boto3', 'requests'"
    done = subprocess.run(
        [*bigm_line()[:1], "-c", f"{code % heavy}\nimport bigm.cli; bigm.cli.main()"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "[]" == done.stdout.splitlines()[-1]
