"""Functions and classes by value, between real processes where the other side is the point."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import os
import pickle
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from bigm.errors import NotPicklable, ServiceError
from bigm.rpc import codec
from interpreters import find_python

ROOT = Path(__file__).parents[2]
ANSWER = """
import pickle, sys
from bigm.errors import BigmError
from bigm.rpc import codec
try:
    answer = pickle.load(sys.stdin.buffer)()
except BigmError as error:
    answer = f"{type(error).__name__}: {error}"
except ImportError as error:
    answer = str(error)
sys.stdout.buffer.write(codec.dumps_bytes(answer, "the answer"))
"""


def elsewhere(function: Any, python: str = sys.executable, *options: str) -> Any:
    """What *function*, sent to another process, returns there, or what that says."""
    done = subprocess.run(
        [python, *options, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{ANSWER}"],
        input=codec.dumps_bytes(function, "it"),
        capture_output=True,
        timeout=30,
    )
    assert 0 == done.returncode, done.stderr.decode()
    return pickle.loads(done.stdout)


def there_and_back(value: Any) -> Any:
    return codec.loads(codec.dumps_call("S.f", (value,), {}))[0][0]


def test_a_closure_works_in_another_process():
    base = 40
    assert 42 == elsewhere(lambda: base + 2)
    assert os.getpid() != elsewhere(lambda: os.getpid())


def test_a_function_with_an_import_path_travels_as_that():
    assert b"\x8c\x04math" in codec.dumps_bytes(math.sqrt, "it")
    assert len(codec.dumps_bytes(there_and_back, "it")) < 100
    assert there_and_back is there_and_back_again(there_and_back)


there_and_back_again = there_and_back


def test_an_instance_of_a_local_class_comes_back_as_one_of_that_class():
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def moved(self) -> Point:
            return Point(self.x + 1)

    point = elsewhere(Point(1).moved)
    assert 2 == point.x
    assert type(point) is Point


def test_a_class_defined_anew_is_another_one_there_too():
    def define(version: int) -> type:
        class Thing:
            number = version

        return Thing

    old, new = define(1), define(2)
    assert (1, 2) == elsewhere(lambda: (old.number, new.number))
    back = elsewhere(lambda: [old(), new()])
    assert [old, new] == [type(each) for each in back]


def test_a_class_that_comes_back_is_left_as_it_is_here():
    class Counter:
        seen = 0

        def same(self) -> Counter:
            return self

    method = Counter.same
    sent = codec.dumps_bytes(Counter(), "it")
    Counter.seen = 5
    assert type(pickle.loads(sent)) is Counter
    assert 5 == Counter.seen
    assert method is Counter.same


def test_a_local_enum_keeps_its_members():
    class Colour(enum.Enum):
        RED = 1

    assert Colour.RED is elsewhere(lambda: Colour.RED)


@pytest.mark.skipif(sys.version_info < (3, 10), reason="slots of dataclasses came with Python 3.10")
def test_instances_of_a_local_class_with_slots_come_back():
    class Slotted:
        __slots__ = ("__hidden", "open")

        def __init__(self, number: int) -> None:
            self.open, self.__hidden = number, number + 1

        def anew(self) -> Slotted:
            assert not hasattr(self, "__dict__")
            return Slotted(self.__hidden)

    @dataclasses.dataclass(frozen=True, slots=True)
    class Frozen:
        number: int

    class Pair(typing.NamedTuple):
        first: int
        second: str = "x"

    assert 2 == elsewhere(Slotted(1).anew).open
    assert Pair(1) == elsewhere(lambda: Pair(1))
    assert Frozen(3) == elsewhere(lambda: Frozen(3))


def test_a_local_function_with_a_cache_travels_with_an_empty_one():
    @functools.lru_cache(maxsize=3)
    def double(n: int) -> int:
        return 2 * n

    double(1)
    assert (4, 1, 3) == elsewhere(lambda: (double(2), double.cache_info().currsize, double.cache_info().maxsize))


def test_a_class_used_by_many_threads_while_it_arrives_is_never_half_done():
    script = """
import pickle, sys, threading
data = sys.stdin.buffer.read()
barrier, wrong = threading.Barrier(8), []
def arrive():
    barrier.wait()
    for _ in range(50):
        value = pickle.loads(data)
        if value.answer() != 42:
            wrong.append(value)
threads = [threading.Thread(target=arrive) for _ in range(8)]
sys.setswitchinterval(1e-6)
for each in threads: each.start()
for each in threads: each.join()
print(len(wrong))
"""

    class Answer:
        def answer(self) -> int:
            return 42

    done = subprocess.run(
        [sys.executable, "-c", script], input=codec.dumps_bytes(Answer(), "it"), capture_output=True, timeout=60
    )
    assert (b"0\n", b"") == (done.stdout, done.stderr)


class Array:
    """Pickles its memory out of band, as numpy's arrays do."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: int) -> Any:
        return Array, (pickle.PickleBuffer(self.memory),)


def test_big_buffers_stay_out_of_band_beside_what_travels_by_value():
    first, second = bytearray(b"1" * codec.OUT_OF_BAND), bytearray(b"2" * codec.OUT_OF_BAND)
    small = bytearray(b"3" * 10)
    segments = codec.dumps_call("S.f", (lambda: 1, Array(first), Array(small), Array(second)), {})
    assert [codec.OUT_OF_BAND] * 2 == [len(memoryview(each)) for each in segments[1:]]
    first[0] = 0
    assert 0 == memoryview(segments[1])[0], "the segment is the array's memory itself"
    function, *arrays = codec.loads(segments)[0]
    assert 1 == function()
    assert [first, small, second] == [bytes(each.memory) for each in arrays]


def test_an_exception_of_a_local_class_arrives_as_itself():
    class Odd(Exception):
        def __init__(self, text: str, *, code: int) -> None:
            super().__init__(text)
            self.code = code

    error = codec.loads_error(codec.dumps_error(Odd("x", code=3), "m0"))
    assert (Odd, ("x",), 3) == (type(error), error.args, error.code)  # type: ignore[attr-defined]


HERE = "{}.{}".format(*sys.version_info)
OTHER = next((found for found in map(find_python, {"3.12", "3.13", "3.10", "3.9"} - {HERE}) if found), "")


@pytest.mark.skipif(not OTHER, reason="there is no other Python on this computer")
def test_another_minor_version_refuses_before_it_reads_bytecode_and_names_both():
    said = elsewhere(lambda: "ran", OTHER)
    assert f"by Python {HERE}, and this is Python 3." in said
    assert "use the same minor version" in said


def test_a_receiver_without_cloudpickle_says_so():
    assert "need cloudpickle, which" in elsewhere(lambda: "ran", sys.executable, "-S")


def test_a_module_that_is_missing_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "onlyhere.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    import onlyhere  # type: ignore[import-not-found]

    assert "No module named 'onlyhere'" in elsewhere(lambda: onlyhere.answer)


def test_plain_data_needs_no_cloudpickle():
    code = (
        "from bigm.rpc import codec; codec.dumps_call('S.f', ([1, {'a': None}],), {}); import sys; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30).stdout.split()
    assert "bigm.rpc.codec" in loaded
    assert not {"cloudpickle", "bigm.rpc.byvalue"} & set(loaded)


def test_an_exception_whose_class_cannot_be_sent_arrives_as_text():
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + RAISE],
        capture_output=True,
        timeout=30,
    )
    error = codec.loads_error(pickle.loads(done.stdout))
    assert isinstance(error, ServiceError)
    assert "x" == error.text


RAISE = """
import pickle
from bigm.rpc import codec
def define():
    class Odd(Exception): pass
    return Odd
sys.stdout.buffer.write(pickle.dumps([bytes(each) for each in codec.dumps_error(define()("x"), "m0")]))
"""


def test_what_cannot_travel_by_value_either_is_refused():
    with pytest.raises(NotPicklable, match=r"argument 1\[0\]: .*frame"):
        codec.dumps_call("S.f", ([sys._getframe()],), {})
