"""Calls over real connections: results, errors, deadlines, lost connections, many callers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from places import CLUSTER, Certificates, Place

from bigm.errors import (
    Busy,
    DeadlineExceeded,
    IdentityError,
    MachineStopped,
    MayHaveRun,
    NoSuchMethod,
    NotPicklable,
    PayloadTooLarge,
    ServiceError,
    Unreachable,
)
from bigm.rpc import wire
from bigm.rpc.client import Client
from bigm.rpc.current import current_call
from bigm.rpc.identity import BOOTSTRAP, MACHINE, Identity
from bigm.rpc.wire import Limits
from waiting import eventually

Make = Callable[..., Place]


class Service:
    """What the tests call."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.runs = 0
        self.entered = threading.Semaphore(0)
        self.cancelled: list[bool] = []

    def null(self) -> None:
        pass

    def echo(self, value: Any = None, *, keyword: Any = None) -> Any:
        return value if keyword is None else keyword

    def count(self) -> int:
        self.runs += 1
        return self.runs

    def block(self, timeout: float = 20.0) -> str:
        self.runs += 1
        self.entered.release()
        assert self.gate.wait(timeout)
        return "unblocked"

    def until_cancelled(self) -> None:
        self.entered.release()
        self.cancelled.append(current_call().wait_cancelled(20.0))

    def deadline(self) -> Any:
        deadline = current_call().deadline
        return None if deadline is None else deadline - time.monotonic()

    def who(self) -> tuple[str, str]:
        return current_call().peer.uri, current_call().method

    def boom(self, text: str) -> None:
        raise ValueError(text)

    def leave(self) -> None:
        raise SystemExit(3)

    def interrupt(self) -> None:
        raise KeyboardInterrupt

    def unpicklable(self) -> Any:
        return threading.Lock()

    def give(self, size: int) -> bytes:
        return bytes(size)

    def _private(self) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.gate.set()  # no method stays behind


@pytest.fixture
def here(place: Make, service: Service) -> Place:
    return place(S=service)


@pytest.fixture
def client(here: Place) -> Client:
    return here.client()


def test_a_call_returns_the_methods_result(client: Client) -> None:
    assert client.call("S.null") is None
    assert {"a": [1, 2]} == client.call("S.echo", ({"a": [1, 2]},))
    assert "k" == client.call("S.echo", ("v",), {"keyword": "k"})


def test_a_future_has_the_methods_result(client: Client) -> None:
    future = client.submit("S.echo", (5,))
    assert 5 == future.result(10)
    assert future.exception() is None
    assert future.done()


def test_an_awaited_call_returns_the_methods_result(client: Client) -> None:
    async def many() -> int:
        return sum(await asyncio.gather(*(client.acall("S.echo", (i,)) for i in range(500))))

    assert sum(range(500)) == asyncio.run(many())


def test_the_methods_exception_is_raised_as_itself_in_all_three_ways(client: Client) -> None:
    with pytest.raises(ValueError, match="one"):
        client.call("S.boom", ("one",))
    with pytest.raises(ValueError, match="two"):
        client.submit("S.boom", ("two",)).result(10)
    with pytest.raises(ValueError, match="three"):
        asyncio.run(client.acall("S.boom", ("three",)))
    assert isinstance(client.submit("S.boom", ("x",)).exception(10), ValueError)


def test_the_remote_traceback_begins_in_the_users_method(client: Client) -> None:
    with pytest.raises(ValueError) as caught:
        client.call("S.boom", ("one",))
    text = str(caught.value.__cause__)
    assert "in boom" in text
    assert "server.py" not in text


@pytest.mark.parametrize(("method", "name"), [("S.leave", "SystemExit"), ("S.interrupt", "KeyboardInterrupt")])
def test_a_method_that_would_end_its_process_fails_and_the_server_lives_on(
    client: Client, method: str, name: str
) -> None:
    with pytest.raises(ServiceError, match=name):
        client.call(method)
    assert 1 == client.call("S.echo", (1,))


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("S.ech", "did you mean S.echo"),
        ("T.echo", "there is no service 'T'"),
        ("S._private", "no public method '_private'"),
        ("echo", 'calls take "Service.method"; did you mean S.echo'),
        ("S.runs", "no public method 'runs'"),
    ],
)
def test_an_unknown_method_is_refused_and_near_ones_are_named(client: Client, method: str, text: str) -> None:
    with pytest.raises(NoSuchMethod, match=text):
        client.call(method)


def test_a_wrong_number_of_arguments_is_a_type_error_that_names_the_method(client: Client) -> None:
    with pytest.raises(TypeError, match=r"boom\(\) missing 1 required"):
        client.call("S.boom")


def test_what_cannot_be_pickled_is_refused_before_anything_is_sent(here: Place, client: Client) -> None:
    with pytest.raises(NotPicklable, match="argument 1"):
        client.call("S.echo", (threading.Lock(),))
    assert 0 == here.dialled


def test_a_result_that_cannot_be_pickled_is_named(client: Client) -> None:
    with pytest.raises(NotPicklable, match=r"S\.unpicklable on m0: .*the result: .*lock"):
        client.call("S.unpicklable")


class OnlyHere:
    """Cannot be rebuilt."""

    def __reduce__(self) -> Any:
        return _fail, ()


def _fail() -> None:
    raise RuntimeError("not here")


def test_arguments_that_cannot_be_rebuilt_are_refused_before_the_method_starts(client: Client) -> None:
    with pytest.raises(NotPicklable, match="cannot be rebuilt on m0: RuntimeError: not here"):
        client.call("S.echo", (OnlyHere(),))


def test_the_method_knows_who_called(client: Client) -> None:
    assert (f"bigm://{CLUSTER}/driver", "S.who") == client.call("S.who")


def test_outside_of_a_call_there_is_no_current_call() -> None:
    with pytest.raises(RuntimeError, match="outside"):
        current_call()


# Deadlines and cancellation.


def test_a_call_past_its_deadline_fails_and_its_method_is_told(client: Client, service: Service) -> None:
    with pytest.raises(DeadlineExceeded, match=r"S\.until_cancelled on m0: no reply within 0\.1"):
        client.call("S.until_cancelled", timeout=0.1)
    eventually(lambda: service.cancelled == [True])


def test_a_future_past_its_deadline_fails(client: Client, service: Service) -> None:
    with pytest.raises(DeadlineExceeded):
        client.submit("S.until_cancelled", timeout=0.1).result(10)
    eventually(lambda: service.cancelled == [True])


def test_an_awaited_call_past_its_deadline_fails(client: Client, service: Service) -> None:
    with pytest.raises(DeadlineExceeded):
        asyncio.run(client.acall("S.until_cancelled", timeout=0.1))
    eventually(lambda: service.cancelled == [True])


def test_the_deadline_travels(client: Client) -> None:
    assert 50 < client.call("S.deadline", timeout=60) < 60
    assert client.call("S.deadline") is None


def test_a_cancelled_future_cancels_its_method(client: Client, service: Service) -> None:
    future = client.submit("S.until_cancelled")
    assert service.entered.acquire(timeout=10)
    assert future.cancel()
    eventually(lambda: service.cancelled == [True])
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(1)
    assert 0 == client.in_flight


def test_a_cancelled_task_cancels_its_method(client: Client, service: Service) -> None:
    async def run() -> None:
        task = asyncio.ensure_future(client.acall("S.until_cancelled"))
        await asyncio.get_running_loop().run_in_executor(None, service.entered.acquire)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    eventually(lambda: service.cancelled == [True])


def test_a_finished_future_cannot_be_cancelled(client: Client) -> None:
    future = client.submit("S.echo", (1,))
    assert 1 == future.result(10)
    assert not future.cancel()


# Futures are the standard library's.


def test_wait_and_as_completed_know_these_futures(client: Client) -> None:
    futures = [client.submit("S.echo", (i,)) for i in range(20)]
    assert set(range(20)) == {future.result() for future in concurrent.futures.as_completed(futures, timeout=10)}
    failing = client.submit("S.boom", ("x",))
    done, _ = concurrent.futures.wait([failing], timeout=10, return_when="FIRST_EXCEPTION")
    assert {failing} == done


def test_callbacks_run_neither_on_the_io_thread_nor_hold_up_calls(client: Client) -> None:
    names: list[str] = []
    done = threading.Event()

    def callback(future: Any) -> None:
        names.append(threading.current_thread().name)
        names.append(client.submit("S.echo", ("inner",)).result(10))
        done.set()

    client.submit("S.block")
    future = client.submit("S.echo", (1,))
    future.add_done_callback(callback)
    assert done.wait(10)
    assert "bigm-io" not in names
    assert "inner" in names


def test_internal_completions_run_on_the_io_thread(client: Client) -> None:
    names: list[str] = []
    done = threading.Event()

    def note(future: Any) -> None:
        names.append(threading.current_thread().name)
        done.set()

    client.submit_internal("S.echo", (1,), done=note)
    assert done.wait(10)
    assert ["bigm-io"] == names


# Many callers at once.


def test_callers_of_all_kinds_share_a_connection(here: Place, client: Client) -> None:
    errors: list[BaseException] = []

    def run(kind: int) -> None:
        try:
            for i in range(100):
                if kind % 3 == 0:
                    assert i == client.call("S.echo", (i,))
                elif kind % 3 == 1:
                    assert i == client.submit("S.echo", (i,)).result(20)
                else:
                    assert [i] * 3 == asyncio.run(three(i))
        except BaseException as e:  # noqa: BLE001  # shown by the assertion below
            errors.append(e)

    async def three(i: int) -> Any:
        return await asyncio.gather(*(client.acall("S.echo", (i,)) for _ in range(3)))

    threads = [threading.Thread(target=run, args=(kind,)) for kind in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [] == errors
    assert 1 == here.dialled


def test_a_waiting_call_does_not_hold_up_the_others(client: Client, service: Service) -> None:
    """Whoever reads the connection for all hands that on when its own reply has come."""
    blocked = [threading.Thread(target=client.call, args=("S.block",)) for _ in range(3)]
    for thread in blocked:
        thread.start()
    for _ in blocked:
        assert service.entered.acquire(timeout=10)
    for i in range(50):
        assert i == client.call("S.echo", (i,), timeout=10)
    service.gate.set()
    for thread in blocked:
        thread.join(10)
        assert not thread.is_alive()


def test_futures_complete_while_no_thread_waits(client: Client, service: Service) -> None:
    """A leaving leader re-arms the I/O thread."""
    future = client.submit("S.block")
    assert service.entered.acquire(timeout=10)
    assert 1 == client.call("S.echo", (1,), timeout=10)
    service.gate.set()
    eventually(future.done)


def test_the_reply_carries_the_servers_load(client: Client, service: Service) -> None:
    futures = [client.submit("S.block") for _ in range(3)]
    for _ in futures:
        assert service.entered.acquire(timeout=10)
    client.call("S.null")
    assert 3 == client.load
    assert 3 == client.in_flight
    service.gate.set()
    for future in futures:
        future.result(10)
    client.call("S.null")
    assert 0 == client.load


def test_calls_are_counted_on_both_sides(here: Place, client: Client) -> None:
    for _ in range(3):
        client.call("S.echo", ("x" * 1000,))
    with pytest.raises(ValueError):
        client.call("S.boom", ("x",))
    eventually(lambda: "S.boom" in here.server.stats.snapshot(), 5)  # counted once the reply is on its way
    for stats in (client.stats.snapshot(), here.server.stats.snapshot()):
        assert (3, 0) == (stats["S.echo"].count, stats["S.echo"].errors)
        assert (1, 1) == (stats["S.boom"].count, stats["S.boom"].errors)
        assert min(stats["S.echo"].bytes_in, stats["S.echo"].bytes_out) > 3000
        assert 3 == sum(stats["S.echo"].histogram)


# Lost connections.


def test_an_idle_connection_that_was_lost_is_redialled_unnoticed(here: Place, client: Client, service: Service) -> None:
    assert 1 == client.call("S.count")
    here.cut()
    eventually(lambda: "not connected" in repr(client), message="the I/O thread watches idle connections")
    assert 2 == client.call("S.count")
    assert 2 == here.dialled


@pytest.mark.parametrize("how", ["call", "submit"])
def test_a_call_in_flight_on_a_lost_connection_may_have_run(
    here: Place, client: Client, service: Service, how: str
) -> None:
    future = in_thread(lambda: client.call("S.block")) if how == "call" else client.submit("S.block")
    assert service.entered.acquire(timeout=10)
    here.cut()
    with pytest.raises(MayHaveRun, match=r"S\.block on m0: the connection was lost"):
        future.result(10)
    service.gate.set()
    assert 5 == client.call("S.echo", (5,))


def test_a_call_whose_connection_is_lost_before_its_sender_is_back_may_have_run(
    here: Place, client: Client, service: Service
) -> None:
    client.call("S.null")
    channel = client._main
    assert channel is not None
    send = channel.connection.send

    def send_and_be_late(buffers: Any) -> int:
        position = send(buffers)
        eventually(lambda: channel.closed, 10)
        return position

    channel.connection.send = send_and_be_late  # type: ignore[method-assign]
    future = in_thread(lambda: client.call("S.block"))
    assert service.entered.acquire(timeout=10)
    here.cut()
    with pytest.raises(MayHaveRun):
        future.result(10)
    assert 1 == service.runs
    service.gate.set()


@pytest.mark.parametrize("how", ["call", "submit"])
def test_an_idempotent_call_on_a_lost_connection_is_sent_again(
    here: Place, client: Client, service: Service, how: str
) -> None:
    if how == "call":
        future: Any = in_thread(lambda: client.call("S.block", idempotent=True))
    else:
        future = client.submit("S.block", idempotent=True)
    assert service.entered.acquire(timeout=10)
    here.cut()
    assert service.entered.acquire(timeout=10)
    service.gate.set()
    assert "unblocked" == future.result(10)
    assert 2 == service.runs


def in_thread(function: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as e:  # noqa: BLE001  # it is the future's
            future.set_exception(e)

    threading.Thread(target=run).start()
    return future


def test_calls_that_the_goodbye_says_were_not_started_go_to_the_next_connection(
    here: Place, client: Client, service: Service
) -> None:
    """A server that is replaced while it is called starts each call exactly once."""
    stop = threading.Event()
    results: list[int] = []
    errors: list[BaseException] = []

    def run() -> None:
        while not stop.is_set():
            try:
                results.append(client.submit("S.echo", (1,)).result(10))
            except BaseException as e:  # noqa: BLE001  # shown by the assertion below
                errors.append(e)
                return

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        before = len(results)
        eventually(lambda: len(results) > before + 20 or errors)  # noqa: B023  # called at once
        here.server.renew(here.certificates.machine())
    stop.set()
    for thread in threads:
        thread.join(10)
    assert [] == errors
    assert here.dialled >= 5


def test_the_call_that_renews_the_identity_gets_its_reply(place: Make, certificates: Certificates) -> None:
    class Enrolment:
        def enrol(self) -> str:
            here.server.renew(certificates.machine("m7"))
            return "enrolled"

    here = place(E=Enrolment())
    client = here.client()
    assert "enrolled" == client.call("E.enrol")
    with pytest.raises(IdentityError, match="machine/m7 answers there"):
        client.call("E.enrol")
    assert "enrolled" == here.client(machine="m7").call("E.enrol")


def test_a_refused_dial_is_unreachable(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    client = Client(
        lambda timeout: socket.create_connection(address, timeout),
        certificates.driver(),
        Identity(CLUSTER, MACHINE, "m0"),
        name="agent of m0",
    )
    for call in (lambda: client.call("S.f"), lambda: client.submit("S.f").result(10)):
        with pytest.raises(Unreachable, match="cannot call agent of m0: Connection refused"):
            call()


def test_a_dial_that_gets_no_answer_ends_with_the_calls_deadline(place: Make, certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(
            lambda timeout: socket.create_connection(listener.getsockname(), timeout),
            certificates.driver(),
            Identity(CLUSTER, MACHINE, "m0"),
            name="m0",
            dial_timeout=None,
        )
        with pytest.raises(DeadlineExceeded):
            client.call("S.f", timeout=0.2)
        client.close()


def test_a_dial_that_gets_no_answer_ends_with_the_dial_timeout(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(
            lambda timeout: socket.create_connection(listener.getsockname(), timeout),
            certificates.driver(),
            Identity(CLUSTER, MACHINE, "m0"),
            name="m0",
            dial_timeout=0.2,
        )
        with pytest.raises(Unreachable, match="no answer to the TLS handshake"):
            client.call("S.f")


def test_a_closed_client_fails_its_calls_at_once_with_the_given_error(client: Client, service: Service) -> None:
    futures = [client.submit("S.block"), in_thread(lambda: client.call("S.block"))]
    for _ in futures:
        assert service.entered.acquire(timeout=10)
    client.close(MachineStopped("m0 was stopped", cause="memory"))
    for future in futures:
        with pytest.raises(MachineStopped, match="m0 was stopped"):
            future.result(10)
    with pytest.raises(MachineStopped):
        client.call("S.null")
    with pytest.raises(MachineStopped):
        client.submit("S.null").result(10)
    service.gate.set()


def test_closing_ends_a_dial_that_hangs(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(
            lambda timeout: socket.create_connection(listener.getsockname(), timeout),
            certificates.driver(),
            Identity(CLUSTER, MACHINE, "m0"),
            name="m0",
            dial_timeout=None,
        )
        future = client.submit("S.f")
        silent, _ = listener.accept()
        with silent:  # else it would be closed at once, and the dial would end by itself
            client.close(MachineStopped("m0 was stopped"))
            with pytest.raises(MachineStopped):
                future.result(10)
        eventually(lambda: not any("bigm-dial" in thread.name for thread in threading.enumerate()))


# Identity.


def test_a_server_that_is_somebody_else_is_not_called(here: Place, service: Service) -> None:
    with pytest.raises(IdentityError, match=f"expected bigm://{CLUSTER}/machine/m1, but .*/m0 answers there"):
        here.client(machine="m1").call("S.count")
    assert 0 == service.runs


def test_a_client_of_another_cluster_is_refused_and_nothing_is_started(here: Place, service: Service) -> None:
    from bigm.authority import Authority

    stranger = Authority(CLUSTER)
    with pytest.raises(IdentityError):
        here.client(stranger.driver()).call("S.count")
    assert 0 == service.runs


def test_the_extra_check_after_the_handshake_is_asked(here: Place, service: Service) -> None:
    def check(tls: Any) -> None:
        raise IdentityError("not the pinned certificate")

    with pytest.raises(IdentityError, match="cannot call m0: not the pinned certificate"):
        here.client(check=check).call("S.count")
    assert 0 == service.runs


def test_a_bootstrap_certificate_is_a_member_of_the_cluster_that_authorize_judges(
    place: Make, certificates: Certificates
) -> None:
    from bigm.errors import NotAllowed

    def authorize(peer: Identity, service: str, method: str) -> None:
        if peer.role == BOOTSTRAP:
            raise NotAllowed(f"{peer.uri} may not call {service}.{method}", hint="ask the driver")

    here = place(authorize=authorize, S=Service())
    assert 1 == here.client().call("S.count")
    with pytest.raises(NotAllowed, match=r"may not call S\.count; ask the driver"):
        here.client(certificates.of(Identity(CLUSTER, BOOTSTRAP, "l0"))).call("S.count")


# Big payloads.


def test_a_big_payload_travels_both_ways_on_a_connection_of_its_own(here: Place, client: Client) -> None:
    big = bytes(range(256)) * 8192
    client.call("S.null")
    assert big == client.call("S.echo", (big,))
    assert 2 == here.dialled
    assert bytes(3 << 20) == client.call("S.give", (3 << 20,))
    assert bytes(3 << 20) == client.submit("S.give", (3 << 20,)).result(10)
    assert big == client.submit("S.echo", (big,)).result(10)
    assert big == asyncio.run(client.acall("S.echo", (big,)))
    assert here.dialled <= 5
    eventually(lambda: not here.server._parked, message="fetched replies are let go")


def test_a_numpy_array_is_rebuilt_writable_on_the_memory_it_was_received_into(client: Client) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1 << 18)
    result = client.call("S.echo", (array,))
    assert (array == result).all()
    result[0] = 7


def test_a_payload_above_the_servers_limit_is_refused_in_the_caller(place: Make) -> None:
    client = place(limits=Limits(payload=1 << 20), S=Service()).client()
    client.call("S.null")
    for call in (client.call, lambda *args: client.submit(*args).result(10)):
        with pytest.raises(PayloadTooLarge, match="at most 1048576"):
            call("S.echo", (bytes(2 << 20),))
    with pytest.raises(PayloadTooLarge, match="reply of 2097"):
        client.call("S.give", (2 << 20,))


def test_big_payloads_are_logged_but_not_each_of_them(
    place: Make, caplog: pytest.LogCaptureFixture, service: Service
) -> None:
    client = place(S=service).client(limits=Limits(log_payload=1 << 18))
    for _ in range(3):
        client.call("S.echo", (bytes(1 << 19),))
    assert 1 == len([r for r in caplog.records if "S.echo on m0: a payload of 0.5 MiB" in r.getMessage()])


def test_a_lost_bulk_connection_fails_the_call_that_was_on_it(here: Place, client: Client, service: Service) -> None:
    client.call("S.null")
    future = client.submit("S.block", (10.0,), {})
    big = in_thread(lambda: client.call("S.echo", (bytes(16 << 20),)))
    eventually(lambda: here.dialled >= 2)
    here.cut()
    with pytest.raises(MayHaveRun):
        future.result(10)
    try:
        assert 16 << 20 == len(big.result(20)), "it had not been sent in full, so it was sent again"
    except (MayHaveRun, Unreachable):
        pass
    service.gate.set()
    assert 1 == client.call("S.echo", (1,))


# Limits.


def test_above_the_in_flight_limit_callers_get_busy_and_it_passes(place: Make, service: Service) -> None:
    client = place(limits=Limits(in_flight=3), S=service).client()
    futures = [client.submit("S.block") for _ in range(3)]
    for _ in futures:
        assert service.entered.acquire(timeout=10)
    with pytest.raises(Busy, match="m0 has 3 calls in flight"):
        client.call("S.null")
    service.gate.set()
    for future in futures:
        future.result(10)
    client.call("S.null")


def test_a_method_name_that_is_too_long_fails_in_the_caller(client: Client) -> None:
    for call in (client.call, lambda *args: client.submit(*args).result(10)):
        with pytest.raises(Exception, match="at most 1024"):
            call("S." + "x" * 2000)
    assert 1 == client.call("S.echo", (1,))
    assert 0 == client.in_flight


def test_a_call_back_into_the_caller_does_not_deadlock(place: Make) -> None:
    """A calls B calls A calls B ... on one connection each way."""

    class Node:
        other: Client

        def down(self, n: int) -> int:
            return 0 if n == 0 else 1 + self.other.call("N.down", (n - 1,), timeout=20)

    a, b = Node(), Node()
    place_a, place_b = place(N=a), place(N=b)
    a.other, b.other = place_b.client(), place_a.client()
    assert 30 == place_a.client().call("N.down", (30,), timeout=20)
    futures = [a.other.submit("N.down", (8,)) for _ in range(20)]
    assert [8] * 20 == [future.result(20) for future in futures]


def test_the_frames_of_a_null_call_are_as_small_as_the_benchmark_says(client: Client) -> None:
    assert 60 >= sum(map(len, wire.call(1, "S.null", 1.0, [b"x" * 10])))
