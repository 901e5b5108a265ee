"""Exceptions from end to end: pytest is the driver, the service is of a sibling module, one machine serves all."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from trouble import Trouble, Unpicklable, WithArguments, WithKeyword

import bigm
from bigm.errors import CallError, ConfigError, NoSuchMethod, NotPicklable, ServiceError, ServiceFailed

Call = Callable[..., object]


@pytest.fixture(scope="module")
def cluster() -> Iterator[bigm.Cluster]:
    with bigm.start() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def machine(cluster: bigm.Cluster) -> bigm.Machine:
    (machine,) = cluster.start(1, services={"Trouble": Trouble()})
    cluster.wait([machine])
    return machine


@pytest.fixture(params=["call", "submit", "typed handle"])
def call(request: pytest.FixtureRequest, machine: bigm.Machine) -> Iterator[Call]:
    """Each way to call a method of Trouble; whatever was raised, the same process answers afterwards."""
    before = machine.call("Trouble.pid")
    if request.param == "call":
        yield lambda method, *args, **kwargs: machine.call(f"Trouble.{method}", *args, **kwargs)
    elif request.param == "submit":
        yield lambda method, *args, **kwargs: machine.submit(f"Trouble.{method}", *args, **kwargs).result(20.0)
    else:
        handle = machine.service("Trouble", Trouble)
        yield lambda method, *args, **kwargs: getattr(handle, method)(*args, **kwargs)
    assert before == machine.call("Trouble.pid")


def test_a_builtin_exception_is_itself_with_the_remote_traceback_as_its_cause(call: Call, machine: bigm.Machine):
    with pytest.raises(ZeroDivisionError, match=r"^so$") as caught:
        call("raise_", "ZeroDivisionError", "so")
    cause = str(caught.value.__cause__)
    assert machine.id in cause
    assert re.search(r'File ".*trouble.py", line \d+, in raise_', cause)
    assert "ZeroDivisionError: so" in cause
    assert "bigm/rpc" not in cause  # our own frames say nothing to anyone


def test_an_exception_of_the_users_keeps_its_arguments(call: Call):
    with pytest.raises(WithArguments) as caught:
        call("raise_", "WithArguments", 7, "seven")
    assert (7, (7, "seven")) == (caught.value.code, caught.value.args)


def test_an_exception_with_a_required_keyword_is_rebuilt_all_the_same(call: Call):
    with pytest.raises(WithKeyword, match=r"^nine$") as caught:
        call("raise_", "WithKeyword", "nine", code=9)
    assert 9 == caught.value.code


@pytest.mark.parametrize("name", ["HoldsALock", "CannotBeRebuilt"])
def test_an_exception_that_does_not_travel_comes_as_text(call: Call, name: str):
    with pytest.raises(ServiceError, match="no luck") as caught:
        call("raise_", name, "no luck")
    assert (f"trouble.{name}", "no luck") == (caught.value.type_name, caught.value.text)
    assert "in raise_" in caught.value.traceback


def test_a_chained_exception_shows_its_whole_chain(call: Call):
    with pytest.raises(WithArguments) as caught:
        call("chained")
    cause = str(caught.value.__cause__)
    assert "KeyError: 'inner'" in cause
    assert "direct cause" in cause


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_an_exception_group_comes_with_its_exceptions(call: Call):
    with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
        call("group")
    one, two = caught.value.exceptions
    assert (ValueError, ("one",)) == (type(one), one.args)
    assert (WithArguments, 2) == (type(two), two.code)


@pytest.mark.parametrize(("method", "name"), [("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt")])
def test_what_would_end_a_program_ends_neither_worker_nor_driver(call: Call, method: str, name: str):
    with pytest.raises(ServiceError, match=name) as caught:
        call(method, *([3] if method == "exit" else []))
    assert name == caught.value.type_name


def test_a_timeout_of_the_methods_own_is_no_error_of_the_wire(call: Call):
    with pytest.raises(TimeoutError, match=r"^mine$") as caught:
        call("raise_", "TimeoutError", "mine")
    assert TimeoutError is type(caught.value)


def test_an_argument_that_cannot_be_pickled_names_the_path_to_it(call: Call):
    with pytest.raises(NotPicklable, match=r"\['a'\]\[1\]: .*lock"):
        call("echo", {"a": [0, threading.Lock()]})


def test_a_reply_that_cannot_be_pickled_names_the_path_to_it(call: Call):
    with pytest.raises(NotPicklable, match=r"Trouble\.lock: the result\[0\]: .*lock"):
        call("lock")


def test_a_wrong_number_of_arguments_is_a_type_error_as_it_is_here(call: Call):
    with pytest.raises(TypeError, match=r"echo\(\) takes from 1 to 2 positional arguments but 4 were given"):
        call("echo", 1, 2, 3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'valeu'"):
        call("echo", valeu=1)


@pytest.mark.parametrize(
    ("method", "near"),
    [("Trouble.ecko", "Trouble.echo"), ("Truble.echo", "Trouble"), ("Trouble.__init__", ""), ("echo", "")],
)
def test_an_unknown_service_or_method_names_what_is_near(machine: bigm.Machine, method: str, near: str):
    with pytest.raises((NoSuchMethod, ConfigError)) as caught:
        machine.call(method)
    assert near in str(caught.value)
    assert not isinstance(caught.value, CallError) or "Trouble" in str(caught.value)


def test_a_service_that_cannot_be_pickled_names_the_path_to_it(cluster: bigm.Cluster):
    with pytest.raises(NotPicklable, match=r"service 'U'\.config\['handlers'\]\[0\]: .*lock"):
        cluster.start(1, services={"U": Unpicklable()})


@pytest.mark.parametrize("services", [{}, {"T": Trouble}, {"Supervisor": Trouble()}, {"_t": Trouble()}])
def test_what_is_no_service_is_refused_before_anything_is_launched(cluster: bigm.Cluster, services: dict[str, object]):
    before = len(cluster.machines)
    with pytest.raises(ConfigError):
        cluster.start(1, services=services)
    assert before == len(cluster.machines)


def test_a_service_that_cannot_be_rebuilt_stops_its_machine_with_the_reason(cluster: bigm.Cluster):
    (machine,) = cluster.start(1, services={"Bomb": Bomb()})
    with pytest.raises(ServiceFailed, match=r"'Bomb' could not be rebuilt on .*: OSError: no such device"):
        cluster.wait([machine])
    assert bigm.State.STOPPED == machine.state


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Trouble().raise_, ("OSError", "no such device")
