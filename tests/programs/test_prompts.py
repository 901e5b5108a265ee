"""Programs that no machine could import: `python -c`, standard input, the prompt. What they define travels by value."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
        print(*str(error).split(": ")[1:])
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
