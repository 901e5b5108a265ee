"""The examples and the README's program run as they are, and print what they say."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import bigpi
from example_programs import BIGM, EXAMPLES, ROOT, run

BIGPI = EXAMPLES / "bigpi.py"
DOCS = ROOT / "docs"

MARK = r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d "


def expected(machines: int, n: int, locator: str) -> str:
    lines = [
        "waiting for machines to come online",
        *[rf"machine {locator}/m{index} RUNNING" for index in range(machines)],
        "all machines are ready",
        rf"distributing work among {machines} cores",
        rf"total=\d+ nsamples={n}",
        rf"π = 3\.\d+  \(± 0\.\d+, {machines} machines?, \d+\.\d s, \d+ M samples/s\)",
    ]
    return "".join(rf"{MARK}{line}\n" for line in lines)


def test_bigpi_on_local_machines_prints_what_it_has_always_printed():
    shown = run(*BIGM, "run", BIGPI, "--nmach", "2", "--", "-n", "1000003")
    assert re.fullmatch(expected(2, 1000003, r"127\.0\.0\.1:\d+"), shown.stdout)
    assert "\x1b" not in shown.stderr, "control codes off a terminal"
    assert "Traceback" not in shown.stderr


def test_bigpi_runs_in_process():
    shown = run(*BIGM, "run", "--system", "inprocess", "--nmach", "2", BIGPI, "-n", "100000")
    assert re.fullmatch(expected(2, 100000, r"127\.0\.0\.1:\d+"), shown.stdout)


def test_bigpi_is_a_plain_python_program_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BIGM_NMACH", "1")
    shown = run(sys.executable, BIGPI, "-n", "100000")
    assert re.fullmatch(expected(1, 100000, r"127\.0\.0\.1:\d+"), shown.stdout)


def test_multisys_has_two_clusters_on_two_systems():
    lines = run(sys.executable, EXAMPLES / "multisys.py").stdout.splitlines()
    assert [
        "processes m0 is another process",
        "processes m1 is another process",
        "threads m0 is here",
        "threads m1 is here",
    ] == [re.sub(r": \S+/(m\d)", r" \1", line) for line in lines]


def documented() -> list[tuple[str, list[str]]]:
    """The commands of docs/examples.md, and the lines each is said to print."""
    blocks = re.findall(
        r"^```console\n\$ (.*?)\n(.*?)^```", (DOCS / "examples.md").read_text(), re.DOTALL | re.MULTILINE
    )
    return [(command, lines.splitlines()) for command, lines in blocks]


def shape(line: str) -> str:
    """A line with any number in the place of its numbers, and any blanks."""
    return re.sub(r"\s+", " ", re.sub(r"\d[\d.,:]*", "0", line)).strip()


@pytest.fixture(scope="module")
def examples_on_the_web() -> Iterator[str]:
    """The URL of what the page has its reader serve."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=EXAMPLES)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("command", [command for command, _ in documented()])
def test_a_command_of_the_page_prints_what_the_page_says(command: str, examples_on_the_web: str):
    """All of its lines, whatever their numbers, and no others but where `...` stands."""
    said = [shape(line) for line in dict(documented())[command]]
    command = command.replace("http://127.0.0.1:8000/", examples_on_the_web)
    path = f"{BIGM[0].parent}{os.pathsep}{os.environ['PATH']}"
    shown = subprocess.run(
        command, shell=True, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60
    )
    found = [shape(line) for line in (shown.stderr + shown.stdout).splitlines()]
    assert [] == [line for line in said if line not in [*found, "..."]], found
    if "..." not in said:
        progress = [line for line in found if line.endswith("pages/s") and " to go, " in line]  # where it takes seconds
        assert [] == [line for line in found if line not in [*said, *progress]]


def test_the_page_has_every_example():
    programs = {path.stem for path in EXAMPLES.glob("*.py")}
    text = (DOCS / "examples.md").read_text()
    assert programs == set(re.findall(r"^## (\w+)$", text, re.MULTILINE))
    assert programs == set(re.findall(r"^\| \[(\w+)\]\(#\1\) \|", text, re.MULTILINE))
    assert programs == {name for command, _ in documented() for name in re.findall(r"examples/(\w+)\.py", command)}


def test_the_readmes_program_runs(tmp_path: Path):
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "counter.py").write_text(program)
    assert "[42, 42]\n" == run(*BIGM, "run", "counter.py", cwd=tmp_path).stdout


def test_the_readme_names_two_commands_first():
    commands = re.search(r"On a fresh machine.*?\n\n((?:    .*\n)+)", (ROOT / "README.md").read_text())
    assert ["make bigpi", "make test"] == [line.split("#")[0].strip() for line in commands[1].splitlines()]


def test_bigpis_summary_reads_as_promised():
    assert "π = 3.141552796  (± 0.0001, 5 machines, 3.1 s, 320 M samples/s)" == bigpi.summary(
        785388199, 10**9, 5, 3.125
    )


@pytest.mark.parametrize("n", [1, 2, 5])
def test_bigpis_summary_does_not_overstate_what_few_samples_tell(n: int):
    pi, error = bigpi.estimate(n, n)
    assert abs(pi - 3.14159) < error


@pytest.mark.parametrize(("n", "parts"), [(10**9, 5), (10, 3), (2, 3), (1, 1)])
def test_bigpi_draws_exactly_what_was_asked_for(n: int, parts: int):
    shares = bigpi.shares(n, parts)
    assert (n, parts) == (sum(shares), len(shares))
    assert max(shares) - min(shares) <= 1


def test_bigpis_estimate_is_within_its_error_bar():
    """Five standard errors, that is: one run in two million may fail."""
    n = 1_000_001
    pi, error = bigpi.estimate(bigpi.CirclePI().sample(n), n)
    assert abs(pi - 3.141592653589793) < 2.5 * error


@pytest.mark.parametrize("n", ["0", "-5", "many", "1.5"])
def test_bigpi_refuses_what_is_no_number_of_samples(n: str):
    shown = subprocess.run([sys.executable, str(BIGPI), "-n", n], capture_output=True, text=True, timeout=30)
    assert (2, "") == (shown.returncode, shown.stdout)
    assert "argument -n: invalid positive value" in shown.stderr


def test_bigpi_says_how_to_get_numpy_when_it_is_missing():
    code = f"import runpy, sys; sys.modules['numpy'] = None; runpy.run_path({str(BIGPI)!r}, run_name='__main__')"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (1, "") == (shown.returncode, shown.stdout)
    assert "pip install 'bigm[examples]'" in shown.stderr
    assert "Traceback" not in shown.stderr
