"""Programs that no machine could import: `python -c`, standard input, the prompt. What they define travels by value."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from screens import Screen
from waiting import eventually

PROGRAM = """
import os
import bigm

base = 40

class Odd(Exception):
    def __init__(self, text, *, code):
        super().__init__(text)
        self.code = code

class Result:
    def __init__(self, value):
        self.value = value

class Adder:
    def __init__(self):
        self.calls = 0

    def add(self, n):
        self.calls += 1
        return Result(helper(n))

    def apply(self, function, *args):
        return function(*args)

    def fail(self):
        raise Odd("no", code=7)

    def pid(self):
        return os.getpid()

def helper(n):
    return base + n

with bigm.start({system!r}) as cluster:
    first, second = cluster.start(2, services={{"Adder": Adder()}})
    result = first.call("Adder.add", 2)
    print(result.value, type(result) is Result)
    print(first.call("Adder.apply", lambda x, y: x * y + base, 2, 1), first.call("Adder.apply", helper, 5))
    print(type(first.call("Adder.apply", lambda: Result(1))) is Result)
    base = 100
    print(first.call("Adder.apply", helper, 5), Adder.add.__globals__ is globals())
    try:
        second.call("Adder.fail")
    except Odd as error:
        print(error, error.code, "in fail" in str(error.__cause__))
    print((second.call("Adder.pid") == os.getpid()) is ({system!r} == "inprocess"))
    class Result:
        def __init__(self, value):
            self.value = -value
    anew = first.call("Adder.apply", lambda: Result(1))
    print(anew.value, type(anew) is Result)
    # A machine keeps the class that was sent; threads of this process share its classes and globals.
    print((type(first.call("Adder.add", 1)) is Result) is ({system!r} == "inprocess"))
    try:
        first.call("Adder.apply", lambda: cluster)
    except bigm.NotPicklable as error:
        print(*error.message.split("; ")[0].split(": ")[1:])
"""
SAYS = """42 True
42 45
True
105 True
no 7 True
True
-1 True
True
argument 1, its variable 'cluster' a cluster belongs to the process that opened it
"""


@pytest.mark.parametrize("system", ["local", "inprocess"])
@pytest.mark.parametrize("way", ["-c", "stdin"])
def test_what_no_machine_could_import_travels_by_value(way: str, system: str, tmp_path: Path):
    program = PROGRAM.format(system=system)
    done = subprocess.run(
        [sys.executable, *(["-c", program] if way == "-c" else ["-"])],
        input=program if way == "stdin" else "",
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert SAYS == done.stdout, done.stderr


@pytest.fixture
def screen(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Screen]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))

    def make(*command: str) -> Screen:
        made = Screen(
            command,
            HOME=str(tmp_path),
            NO_COLOR="1",
            PYTHON_HISTORY=os.devnull,
            PYTHONSTARTUP="",
            PYTHON_BASIC_REPL="1",
        )
        request.addfinalizer(made.close)
        return made

    return make


AT_THE_PROMPT = [
    "import bigm, os, pathlib",
    "class Worker: add = lambda self, n: [n + base, os.getpid()]; nap = lambda self, f: nap(f)",
    "",
    "nap = lambda f: (pathlib.Path(f).write_text('called'), bigm.current_call().wait_cancelled(50)"
    " and pathlib.Path(f).write_text('cancelled'))",
    "base = 40",
    "cluster = bigm.start()",
    "machines = cluster.start(2, services={'W': Worker()})",
    "cluster.wait(machines)",
    "pids = [m.call('W.add', 2)[1] for m in machines]",
    "print('SUM', machines[0].call('W.add', 2)[0], machines[1].run(lambda n: n * base, 2), 'END')",
]
TELL_WHEN_IT_WAITS = """
import sys, threading, time, traceback
def tell(main=threading.get_ident()):
    while not any(f.f_code.co_name == 'wait_done' for f, _ in traceback.walk_stack(sys._current_frames()[main])):
        time.sleep(0.01)
    print('NOW IT', 'WAITS')
threading.Thread(target=tell, daemon=True).start()
"""
IPYTHON = [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--no-confirm-exit"]
PYTHONS = [[sys.executable, "-q"], IPYTHON]


@pytest.mark.parametrize("command", PYTHONS, ids=["python", "ipython"])
def test_a_prompt_forms_machines_goes_on_after_errors_and_interrupts_and_ends_them(
    command: list[str], screen: Callable[..., Screen], tmp_path: Path
):
    shown = screen(*command)
    for line in AT_THE_PROMPT:
        shown.type(line)
    shown.read_until("SUM 42 80 END")
    shown.type("print('PIDS', *pids, 'END')")
    pids = shown.search(r"PIDS (\d+) (\d+) END").groups()
    called, awaited = tmp_path / "called", tmp_path / "awaited"
    shown.type(f"machines[0].call('W.nap', {str(called)!r})")
    eventually(called.exists, 20, lambda: shown.seen)
    os.killpg(shown.process.pid, signal.SIGINT)
    eventually(lambda: called.read_text() == "cancelled", 20, lambda: shown.seen)
    shown.type(f"future = machines[0].submit('W.nap', {str(awaited)!r})")
    eventually(awaited.exists, 20, lambda: shown.seen)

    shown.type(f"exec({TELL_WHEN_IT_WAITS!r}); future.result()")
    shown.read_until("NOW IT WAITS")
    os.killpg(shown.process.pid, signal.SIGINT)
    shown.type("print('CANCELLED', future.cancelled(), 'END')")
    shown.read_until("CANCELLED True END")
    eventually(lambda: awaited.read_text() == "cancelled", 20, lambda: shown.seen)
    shown.type("machines[0].call('W.nope')")
    shown.read_until("has no public method 'nope'")
    shown.type("cluster.start(0, services={'W': Worker()})")
    shown.read_until("a cluster starts 1 machine or more")
    shown.type("print('STILL', machines[0].call('W.add', 3)[0], 'HERE')")
    shown.read_until("STILL 43 HERE")
    shown.type("exit()")
    assert 0 == shown.end()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20)


def test_what_is_added_to_a_program_at_the_prompt_travels_too(screen: Callable[..., Screen], tmp_path: Path):
    (tmp_path / "prog.py").write_text(
        "import bigm\nclass Echo:\n    def apply(self, f, *args): return f(*args)\n"
        "if __name__ == '__main__':\n    cluster = bigm.start()\n"
        "    (machine,) = cluster.start(1, services={'E': Echo()})\n"
    )
    shown = screen(sys.executable, "-q", "-i", str(tmp_path / "prog.py"))
    shown.type("def later(n): return n + 40")
    shown.type("")
    shown.type("print('SUM', machine.call('E.apply', later, 2), 'END')")
    shown.read_until("SUM 42 END")
    shown.type("exit()")
    assert 0 == shown.end()
