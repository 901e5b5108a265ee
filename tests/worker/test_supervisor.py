"""The supervisor of a worker that is a thread of this process, called over real TLS."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bigm.authority import Authority
from bigm.errors import NoSuchMethod, ServiceFailed
from bigm.rpc.client import Client
from bigm.worker.worker import Worker

CALLS: list[str] = []


class Thing:
    """A service that tells what is done to it."""

    def __init__(self, name: str = "thing", *, fails: str = "") -> None:
        self.name = name
        self.fails = fails

    def setup(self, cluster: Any) -> None:
        CALLS.append(f"{self.name} set up on {cluster.machine} of {cluster.name} at {cluster.addr}")
        if self.fails == "setup":
            raise ValueError("no disk")

    def teardown(self) -> None:
        CALLS.append(f"{self.name} torn down")
        if self.fails == "teardown":
            raise ValueError("no hands")

    def method(self) -> str:
        return self.name

    @staticmethod
    def static() -> str:
        return "static"

    @property
    def prop(self) -> str:
        raise AssertionError("a property was read")

    class Nested:
        pass

    def _private(self) -> None:
        pass


class CannotBeRebuilt:
    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise SystemExit(3)


@pytest.fixture
def worker() -> Iterator[Worker]:
    CALLS.clear()
    worker = Worker(AUTHORITY.worker("m0", 1), procs=2)
    worker.imported()
    yield worker
    worker.close()


@pytest.fixture
def client(worker: Worker) -> Iterator[Client]:
    def connect(timeout: float) -> socket.socket:
        ours, theirs = socket.socketpair()
        worker.adopt(theirs)
        return ours

    identity = AUTHORITY.worker("m0", 1).identity
    client = Client(connect, AUTHORITY.driver(), identity, name="m0 worker 1", dial_timeout=10.0)
    yield client
    client.close()


AUTHORITY = Authority()


def register(client: Client, name: str, service: object) -> None:
    client.call("Supervisor.register", (name, pickle.dumps(service)), timeout=10.0)


def test_a_registered_service_answers_and_a_second_registration_changes_nothing(client: Client):
    register(client, "Thing", Thing("first"))
    register(client, "Thing", Thing("second"))
    assert "first" == client.call("Thing.method", timeout=10.0)
    assert "static" == client.call("Thing.static", timeout=10.0)


@pytest.mark.parametrize("method", ["setup", "teardown", "_private", "__init__", "prop", "name", "Nested"])
def test_only_public_methods_can_be_called(client: Client, method: str):
    register(client, "Thing", Thing())
    with pytest.raises(NoSuchMethod):
        client.call(f"Thing.{method}", timeout=10.0)
    assert [] == CALLS


@pytest.mark.parametrize("name", ["Supervisor", "Agent", "_thing", "", "a.b", "a b"])
def test_reserved_and_unspeakable_names_are_refused(client: Client, name: str):
    with pytest.raises(ServiceFailed, match="cannot be called"):
        register(client, name, Thing())


def test_a_class_in_place_of_an_instance_is_refused(client: Client):
    with pytest.raises(ServiceFailed, match="is the class Thing itself; give an instance of it"):
        register(client, "Thing", Thing)


def test_a_module_that_is_missing_on_the_machine_is_named_with_its_path(client: Client):
    with pytest.raises(ServiceFailed, match="'Thing' could not be rebuilt on m0 worker 1") as caught:
        client.call("Supervisor.register", ("Thing", b"cno_such_module\nThing\n)\x81."), timeout=10.0)
    assert "No module named 'no_such_module'" in str(caught.value)
    assert f"sys.path there is {sys.path}" in str(caught.value)
    assert "pickle.loads" in str(caught.value.__cause__)  # the remote traceback


def test_a_service_that_exits_while_it_is_rebuilt_fails_and_the_worker_lives_on(client: Client):
    with pytest.raises(ServiceFailed, match="could not be rebuilt on m0 worker 1: SystemExit: 3"):
        register(client, "Thing", CannotBeRebuilt())
    register(client, "Thing", Thing())
    assert "thing" == client.call("Thing.method", timeout=10.0)


def test_registration_waits_for_the_import_and_nothing_else_does():
    worker = Worker(AUTHORITY.worker("m0", 0))
    thread = threading.Thread(target=worker.supervisor.register, args=("Thing", pickle.dumps(Thing())))
    thread.start()
    assert worker.supervisor.ping() > 0
    assert thread.is_alive()
    worker.imported()
    thread.join(10.0)
    assert not thread.is_alive()
    worker.close()


def test_services_are_set_up_once_in_their_order_and_torn_down_in_reverse(client: Client):
    for name in ("A", "B"):
        register(client, name, Thing(name))
    for _ in range(2):
        client.call("Supervisor.setup", ("host:1/m0", "mine"), timeout=10.0)
    assert [f"{name} set up on m0 of mine at host:1/m0" for name in "AB"] == CALLS
    CALLS.clear()
    assert () == client.call("Supervisor.teardown", timeout=10.0)
    assert () == client.call("Supervisor.teardown", timeout=10.0)
    assert ["B torn down", "A torn down"] == CALLS


def test_a_setup_that_raises_fails_once_and_for_all_and_names_its_service(client: Client):
    register(client, "A", Thing("A", fails="setup"))
    register(client, "B", Thing("B"))
    for _ in range(2):
        with pytest.raises(ServiceFailed, match="'A' could not be set up on m0 worker 1: ValueError: no disk") as error:
            client.call("Supervisor.setup", ("host:1/m0", "mine"), timeout=10.0)
        assert ", in setup\n" in str(error.value)
        assert "bigm/worker/supervisor.py" not in str(error.value)  # the user's frames only
    assert 1 == len(CALLS)


def test_a_teardown_that_raises_is_reported_and_the_others_have_their_turn(client: Client):
    register(client, "A", Thing("A"))
    register(client, "B", Thing("B", fails="teardown"))
    (failure,) = client.call("Supervisor.teardown", timeout=10.0)
    assert "teardown of service 'B' on m0 worker 1 failed: Traceback" in failure
    assert "ValueError: no hands" in failure
    assert ["B torn down", "A torn down"] == CALLS


def test_it_reports_what_it_runs_in(client: Client):
    info = client.call("Supervisor.info", timeout=10.0)
    assert (os.getpid(), sys.executable, tuple(sys.argv)) == (info.pid, info.executable, info.argv)
    assert (tuple(sys.path), os.getcwd(), dict(os.environ)) == (info.sys_path, info.cwd, info.env)
    assert info.packages == client.call("Supervisor.info", timeout=10.0).packages
    assert os.getpid() == client.call("Supervisor.getpid", timeout=10.0)


def test_it_counts_the_calls_it_answered(client: Client):
    register(client, "Thing", Thing())
    for _ in range(3):
        client.call("Thing.method", timeout=10.0)
    assert 3 == client.call("Supervisor.statistics", timeout=10.0)["Thing.method"].count


def test_the_census_finds_what_there_is_much_of(client: Client):
    much = [Thing() for _ in range(50_000)]
    census = client.call("Supervisor.census", timeout=30.0)
    found = {item.name: item for item in census}[f"{__name__}.Thing"]
    assert found.count >= len(much)
    assert found.size >= len(much) * 16
    assert sorted((item.size for item in census), reverse=True) == [item.size for item in census]
