"""bigm in cells of a real kernel."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernels import Notebook, notebook
from pages import snippets
from waiting import eventually

SERVICE = """
import os, pathlib
import bigm

class Result:
    def __init__(self, value):
        self.value = value

class Worker:
    def double(self, n):
        return Result(scale * n)

    def say(self, text):
        print(text, flush=True)

    def pid(self):
        return os.getpid()

    def until_cancelled(self, file):
        pathlib.Path(file).write_text("called")
        if bigm.current_call().wait_cancelled(50.0):
            pathlib.Path(file).write_text("cancelled")

scale = 2
"""
OPEN = """
cluster = bigm.start(%r)
machines = cluster.start(2, services={"W": Worker()})
cluster.wait(machines)
first, second = machines
"""


@pytest.fixture(scope="module", params=["local", "inprocess"])
def cells(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with notebook(tmp_path_factory.mktemp("notebook")) as made:
        assert "" == made.run(SERVICE).error
        opened = made.run(OPEN % request.param)
        assert "" == opened.error, opened
        yield made


def test_what_cells_define_is_served_and_comes_back_as_itself(cells: Notebook):
    cell = cells.run("r = first.call('W.double', 21); print(r.value, type(r) is Result)")
    assert "42 True\n" == cell.stream(), cell
    cell = cells.run("base = 1\ndef f(x):\n    return base + x\nprint(second.run(f, 1), second.run(lambda: f(2)))")
    assert "2 3\n" == cell.stream(), cell
    assert "3\n" == cells.run("print(await first.acall('Functions.run', f, 2))").stream()


def test_machines_and_the_cluster_are_shown_as_tables(cells: Notebook):
    shown = cells.run("machines").shown("text/html")
    assert re.search(r"<td[^>]*>m0</td><td[^>]*>RUNNING</td><td[^>]*>127.0.0.1:\d+/m0</td><td[^>]*>1</td>", shown)
    assert 3 == shown.count("<tr>")
    assert "cluster notebook on" in cells.run("cluster").shown("text/html")
    assert "(True, True)" == cells.run("isinstance(machines, list), cluster.machines == machines").shown()


def test_output_of_workers_arrives_in_the_cell_that_runs(cells: Notebook):
    if "inprocess" in cells.run("cluster").shown("text/html"):
        assert "threads\n" == cells.run("first.call('W.say', 'threads')").stream()
        return
    cell = cells.run(
        "import time\nfirst.call('W.say', 'half-way')\n"
        "deadline = time.monotonic() + 20\n"
        "log = cluster._session.run.folder / 'logs' / 'm0.log'\n"
        "while 'half-way' not in log.read_text() and time.monotonic() < deadline: time.sleep(0.01)\n"
        "cluster._session._output.flush(20)"
    )
    assert "m0 | half-way\n" == cell.stream("stderr"), cell


@pytest.mark.parametrize(
    "wait", ["first.call('W.until_cancelled', {0!r})", "first.submit('W.until_cancelled', {0!r}).result()"]
)
def test_interrupting_a_cell_cancels_the_call_it_waits_for(cells: Notebook, wait: str, tmp_path: Path):
    file = tmp_path / "state"
    cell = cells.run_and_interrupt(wait.format(str(file)), lambda: eventually(file.exists, 20))
    assert "KeyboardInterrupt" == cell.error, cell
    eventually(lambda: file.read_text() == "cancelled", 20)
    assert "4\n" == cells.run("print(first.call('W.double', 2).value)").stream()


def test_interrupting_a_cell_cancels_its_futures_and_no_others(cells: Notebook, tmp_path: Path):
    files = [tmp_path / f"state{n}" for n in range(3)]
    assert "" == cells.run(f"before = first.submit('W.until_cancelled', {str(files[2])!r})").error
    eventually(files[2].exists, 20)
    cell = cells.run_and_interrupt(
        f"two = [first.submit('W.until_cancelled', file) for file in {[str(file) for file in files[:2]]}]\n"
        "[each.result() for each in two]",
        lambda: eventually(lambda: files[0].exists() and files[1].exists(), 20),
    )
    assert "KeyboardInterrupt" == cell.error, cell
    eventually(
        lambda: ["cancelled"] * 2 == [file.read_text() for file in files[:2]],
        20,
        lambda: f"{[file.read_text() for file in files[:2]]} {cell}",
    )
    assert "False True\n" == cells.run("print(before.done(), before.cancel())").stream()
    eventually(lambda: files[2].read_text() == "cancelled", 20)
    assert "4\n" == cells.run("print(second.call('W.double', 2).value)").stream()


def test_interrupting_the_cell_that_opens_a_cluster_leaves_it_usable(cells: Notebook, tmp_path: Path):
    file = tmp_path / "state"
    cell = cells.run_and_interrupt(
        "other = bigm.start(cluster._system.name)\n"
        "(third,) = other.start(1, services={'W': Worker()})\n"
        f"third.call('W.until_cancelled', {str(file)!r})",
        lambda: eventually(file.exists, 20),
    )
    assert "KeyboardInterrupt" == cell.error, cell
    eventually(lambda: file.read_text() == "cancelled", 20)
    assert "4\n" == cells.run("print(third.call('W.double', 2).value)").stream()
    assert "[]" == cells.run("other.shutdown()").shown()


def test_waiting_shows_its_progress_in_the_cell(tmp_path: Path):
    with notebook(tmp_path) as made:
        made.run(SERVICE + "import time\nclass Slow(Worker):\n    def setup(self, cluster): time.sleep(1.5)\n")
        cell = made.run("cluster = bigm.start()\ncluster.wait(cluster.start(1, services={'W': Slow()}))")
        assert re.fullmatch(r"bigm: 1 of 1 machine RUNNING · \d+ s", cell.shown()), cell
        assert "bigm: starting 1 machine on local\n" == cell.stream("stderr")


def test_interrupting_a_wait_leaves_the_start_going(tmp_path: Path):
    begun, go = tmp_path / "begun", tmp_path / "go"
    with notebook(tmp_path) as made:
        made.run(
            f"{SERVICE}\nimport time\nclass Slow(Worker):\n    def setup(self, cluster):\n"
            f"        while not os.path.exists({str(go)!r}): time.sleep(0.01)  # until the test says so\n"
        )
        cell = made.run_and_interrupt(
            "cluster = bigm.start()\nmachines = cluster.start(1, services={'W': Slow()})\n"
            f"open({str(begun)!r}, 'w').close()\ncluster.wait(machines)",
            lambda: eventually(begun.exists, 20),
        )
        assert "KeyboardInterrupt" == cell.error, cell
        go.touch()
        assert "4\n" == made.run("cluster.wait()\nprint(machines[0].call('W.double', 2).value)").stream()


def test_the_cells_of_the_page_on_notebooks_run(tmp_path: Path):
    with notebook(tmp_path) as made:
        cells = [made.run(code) for code in snippets("notebooks.md")]
        assert [""] * 5 == [cell.error for cell in cells]
        assert "1" == cells[1].shown()
        assert "(42, " == cells[2].shown()[:5]
        assert "<td" in cells[3].shown("text/html")
        assert "[]" == cells[4].shown(), "nothing was left"


@pytest.mark.parametrize("end", ["shutdown", "kill"])
def test_the_end_of_a_kernel_ends_its_machines(end: str, tmp_path: Path):
    with notebook(tmp_path) as made:
        made.run(SERVICE)
        cell = made.run(OPEN % "local" + "print(*(m.call('W.pid') for m in machines))")
        assert "" == cell.error, cell
        pids = [int(word) for word in cell.stream().split()]
        assert 2 == len(pids)
        if end == "kill":
            os.kill(made.pid, signal.SIGKILL)
            eventually(lambda: not any(map(_lives, pids)), 20)
    eventually(lambda: not any(map(_lives, pids)), 20)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
