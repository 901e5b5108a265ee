"""Values to segments and back."""

from __future__ import annotations

import pickle
import sys
import threading
import types
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigm.errors import ConfigError, MachineStopped, NotAllowed, NotPicklable, ServiceError, Unreachable
from bigm.rpc import codec

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@settings(max_examples=25)
@given(st.lists(VALUES, max_size=3), st.dictionaries(st.text(), VALUES, max_size=3))
def test_arguments_come_out_as_they_went_in(args: list[Any], kwargs: dict[str, Any]) -> None:
    assert (tuple(args), kwargs) == codec.loads(codec.dumps_call("S.f", tuple(args), kwargs))


@settings(max_examples=25)
@given(VALUES)
def test_results_come_out_as_they_went_in(value: Any) -> None:
    assert value == codec.loads(codec.dumps_reply("S.f", value))


class Array:
    """Pickles its memory out of band, as numpy's arrays do."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: int) -> Any:
        return Array, (pickle.PickleBuffer(self.memory),)


def test_a_big_buffer_is_sent_from_its_memory_and_rebuilt_on_what_was_received() -> None:
    memory = bytearray(codec.OUT_OF_BAND)
    pickled, segment = codec.dumps_reply("S.f", Array(memory))
    memory[0] = 7
    assert 7 == memoryview(segment)[0], "the segment is the array's memory itself"
    received = bytearray(segment)
    array = codec.loads([pickled, received])
    received[1] = 8
    assert 8 == array.memory[1]


def test_a_small_buffer_travels_inside_the_pickle() -> None:
    assert 1 == len(codec.dumps_reply("S.f", Array(bytearray(codec.OUT_OF_BAND - 1))))


def test_more_buffers_than_segments_are_allowed_travel_inside_the_pickle() -> None:
    arrays = [Array(bytearray(codec.OUT_OF_BAND)) for _ in range(1100)]
    segments = codec.dumps_reply("S.f", arrays)
    assert 1024 == len(segments)
    assert 1100 == len(codec.loads(segments))


# Exceptions.


class WithArguments(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


class WithKeyword(Exception):
    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code = code


class FewerArguments(ValueError):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("has a lock")
        self.lock = threading.Lock()


class FailsToRebuild(Exception):
    def __reduce__(self) -> Any:
        return _fail, ("on purpose",)


class StrFails(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class OwnState(Exception):
    def __init__(self, n: int) -> None:
        self.n = n

    def __reduce__(self) -> Any:
        return OwnState, (self.n,)


def _fail(text: str) -> Any:
    raise RuntimeError(text)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as e:  # noqa: BLE001  # the point of it
        return e


def travel(error: BaseException) -> BaseException:
    return codec.loads_error(codec.dumps_error(raised(error), "m0"))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("plain"),
        WithArguments(3, "three"),
        WithKeyword("keyword", code=4),
        FewerArguments(1, 2),
        OwnState(5),
        KeyError("k"),
        FileNotFoundError(2, "no such file", "x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        StopIteration(3),
        NotAllowed("no", hint="ask"),
        ConfigError("wrong"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_is_raised_in_the_caller_as_itself(error: Exception) -> None:
    result = travel(error)
    assert type(error) is type(result)
    assert (error.args, vars(error), str(error)) == (result.args, vars(result), str(result))
    assert isinstance(result.__cause__, codec.RemoteTraceback)
    assert "on m0:" in str(result.__cause__)
    assert type(error).__name__ in str(result.__cause__)


def test_an_exception_inside_an_exception_is_rebuilt_too() -> None:
    result = travel(ValueError(WithKeyword("inner", code=1)))
    assert 1 == result.args[0].code


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are new in Python 3.11")
def test_an_exception_group_keeps_its_exceptions() -> None:
    result = travel(ExceptionGroup("several", [ValueError("a"), WithKeyword("b", code=2)]))  # noqa: F821
    assert ["ValueError", "WithKeyword"] == [type(each).__name__ for each in result.exceptions]  # type: ignore[attr-defined]
    assert 2 == result.exceptions[1].code  # type: ignore[attr-defined]


def test_a_chained_exception_shows_the_whole_chain() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as e:
            raise ValueError("second") from e
    except ValueError as e:
        text = str(codec.loads_error(codec.dumps_error(e, "m0")).__cause__)
    assert "KeyError: 'first'" in text
    assert "direct cause" in text
    assert "ValueError: second" in text


@pytest.mark.parametrize("error", [Unpicklable(), FailsToRebuild("x"), StrFails("x")], ids=lambda e: type(e).__name__)
def test_an_exception_that_cannot_travel_arrives_as_text_or_as_itself(error: Exception) -> None:
    result = travel(error)
    if isinstance(error, StrFails):
        assert isinstance(result, StrFails)
    else:
        assert isinstance(result, ServiceError)
        assert result.type_name.endswith(type(error).__name__)
    assert type(error).__name__ in str(result.__cause__)


def test_why_an_exception_could_not_be_rebuilt_is_said() -> None:
    assert "RuntimeError: on purpose" in str(travel(FailsToRebuild("x")))


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_what_would_end_the_caller_arrives_as_a_service_error(error: BaseException) -> None:
    result = travel(error)
    assert isinstance(result, ServiceError)
    assert type(error).__name__ == result.type_name


@pytest.mark.parametrize("error", [Unreachable("x"), MachineStopped("y", cause="memory")])
def test_a_wire_error_of_the_method_is_not_mistaken_for_one_of_the_callers_own_connection(error: Exception) -> None:
    result = travel(error)
    assert isinstance(result, ServiceError)
    assert result.type_name == f"bigm.errors.{type(error).__name__}"


def test_garbage_in_place_of_an_error_is_still_an_error() -> None:
    assert isinstance(codec.loads_error([b"\xff{"]), ServiceError)
    assert isinstance(codec.loads_error([b"[]"]), ServiceError)


# What cannot be pickled.


class Config:
    def __init__(self, handlers: Any) -> None:
        self.handlers = handlers


class Slotted:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        ((1, LOCK), {}, "argument 2: "),
        ((), {"config": Config([1, 2, LOCK])}, r"argument 'config'\.handlers\[2\]: "),
        (({"a": {"b": (LOCK,)}},), {}, r"argument 1\['a'\]\['b'\]\[0\]: "),
        ((Slotted(),), {}, r"argument 1\.lock: "),
        ((Config(Config(LOCK)),), {}, r"argument 1\.handlers\.handlers: "),
        ((Config(LOCK).__init__,), {}, r"argument 1\.__self__\.handlers: "),
    ],
)
def test_the_path_to_what_cannot_be_pickled_is_named(args: Any, kwargs: Any, path: str) -> None:
    with pytest.raises(NotPicklable, match=f"cannot call S.f: {path}.*lock"):
        codec.dumps_call("S.f", args, kwargs)


def test_a_service_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(NotPicklable, match=r"cannot send service 'PI': service 'PI'\.handlers: .*lock"):
        codec.dumps(Config(LOCK), "service 'PI'")


def test_what_a_function_would_take_along_is_named_when_it_cannot_be_pickled() -> None:
    inner = {"a": threading.Lock()}
    with pytest.raises(NotPicklable, match=r"argument 1, its variable 'inner'\['a'\]: .*lock"):
        codec.dumps_call("S.f", (lambda: inner,), {})
    with pytest.raises(NotPicklable, match=r"argument 1\.handlers\[0\], its variable 'LOCK': .*lock"):
        codec.dumps_call("S.f", (Config([lambda: LOCK]),), {})
    with pytest.raises(NotPicklable, match=r"argument 1, a default of its arguments\['a'\]: .*lock"):
        codec.dumps_call("S.f", (lambda lock=inner: lock,), {})


def test_a_file_inside_of_something_is_told_where_files_belong() -> None:
    hint = "a file is streamed when it stands beside the other arguments; a service opens it in `setup`"
    with open(__file__, "rb") as file:
        with pytest.raises(NotPicklable, match=r"argument 1\['file'\]: ") as argument:
            codec.dumps_call("S.f", ({"file": file},), {})
        with pytest.raises(NotPicklable, match=r"service 'S'\.handlers\[0\]: ") as service:
            codec.dumps(types.SimpleNamespace(handlers=[file]), "service 'S'")
    assert [argument.value.hint, service.value.hint] == [hint, hint]


def test_a_structure_that_contains_itself_ends_the_search() -> None:
    loop: list[Any] = [LOCK]
    loop.insert(0, loop)
    with pytest.raises(NotPicklable):
        codec.dumps_call("S.f", (loop,), {})
