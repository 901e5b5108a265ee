"""Streams in both directions: order, late errors, early ends, back-pressure, lost connections."""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import Place

from bigm.errors import CallError, DeadlineExceeded, MayHaveRun, NoSuchMethod, NotPicklable, ServiceError, Unreachable
from bigm.rpc.current import current_call
from bigm.rpc.sources import streamed
from bigm.rpc.streams import Incoming
from bigm.rpc.streamwire import BYTES, WINDOW, Items
from waiting import eventually

Make = Callable[..., Place]


class Service:
    def __init__(self) -> None:
        self.events: list[str] = []
        self.gate = threading.Event()
        self.produced = 0
        self.attempts = 0

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    def at_once(self) -> Iterator[str]:
        yield "first"
        self.gate.wait(20.0)
        yield "second"

    def fails(self, after: int) -> Iterator[int]:
        yield from range(after)
        raise ValueError("late")

    def fails_before(self) -> Iterator[int]:
        raise ValueError("at once")

    def until_closed(self, size: int = 1) -> Iterator[bytes]:
        try:
            for self.produced in itertools.count(1):
                yield bytes(size)
        finally:
            self.events.append("closed")

    def holds(self) -> Iterator[int]:
        yield 1
        self.events.append(f"cancelled {current_call().wait_cancelled(20.0)}")
        yield 2

    def unpicklable(self) -> Iterator[Any]:
        yield 1
        yield {"lock": threading.Lock()}

    def arrays(self, n: int) -> Iterator[Any]:
        array = np.zeros(100_000)
        for i in range(n):
            array[:] = i
            yield array

    def mixed(self, items: list[Any]) -> Iterator[Any]:
        yield from items

    def total(self, items: Iterator[int]) -> int:
        return sum(items)

    def first(self, items: Iterator[int]) -> int:
        return next(items)

    def ignore(self, items: Iterator[int]) -> str:
        return "ignored"

    def echo(self, items: Iterator[Any]) -> list[Any]:
        return list(items)

    def doubled(self, items: Iterator[int]) -> Iterator[int]:
        for item in items:
            yield 2 * item

    def kept(self, items: Iterator[int]) -> None:
        self.items = items

    def use_kept(self) -> int:
        return next(self.items)

    def contents(self, file: Any) -> bytes:
        assert file.read(0) == b""
        return file.read()

    def lines(self, file: Any) -> list[bytes]:
        return file.readlines()

    def file(self, path: str) -> Any:
        return open(path, "rb")

    def part(self, path: str, offset: int = 0) -> Iterator[bytes]:
        self.attempts += 1
        self.events.append(f"from {offset}")
        with open(path, "rb") as file:
            file.seek(offset)
            while piece := file.read(100_000):
                yield piece

    def save(self, file: Any, path: str, offset: int = 0) -> int:
        self.attempts += 1
        with open(path, "r+b") as target:
            target.seek(offset)
            while piece := file.read(10_000):
                target.write(piece)
        return os.path.getsize(path)

    def attempt(self, items: Iterator[int]) -> int:
        self.attempts += 1
        found = [next(items)]
        if self.attempts == 1:
            self.gate.wait(20.0)
        return sum(found) + sum(items)

    def null(self) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.gate.set()


@pytest.fixture
def here(place: Make, service: Service) -> Place:
    return place(S=service)


# Results.


@pytest.mark.parametrize("n", [0, 1, 10_000])
def test_items_arrive_in_order_however_the_method_is_called(here: Place, n: int) -> None:
    client = here.client()
    expected = list(range(n))
    assert expected == list(client.call("S.count", (n,)))
    assert expected == list(client.call("S.count", (n,), direct=True))
    assert expected == list(client.submit("S.count", (n,)).result(20.0))

    async def awaited(direct: bool) -> list[int]:
        return [item async for item in await client.acall("S.count", (n,), direct=direct)]

    assert expected == asyncio.run(awaited(True))
    assert expected == asyncio.run(awaited(False))


def test_an_item_leaves_before_the_next_one_is_there(here: Place, service: Service) -> None:
    stream = here.client().call("S.at_once")
    assert "first" == next(stream)
    service.gate.set()
    assert ["second"] == list(stream)


def test_an_error_arrives_behind_the_items_before_it(here: Place) -> None:
    stream = here.client().call("S.fails", (3,))
    assert [0, 1, 2] == list(itertools.islice(stream, 3))
    with pytest.raises(ValueError, match="late") as caught:
        next(stream)
    assert "on m0" in str(caught.value.__cause__)
    assert [] == list(stream), "after its error a stream is at its end"


def test_a_method_that_raises_before_it_yields_is_an_error_of_the_call(here: Place) -> None:
    with pytest.raises(ValueError, match="at once"):
        here.client().call("S.fails_before")


def test_an_item_that_cannot_be_pickled_is_named_and_comes_behind_the_others(here: Place) -> None:
    stream = here.client().call("S.unpicklable")
    assert 1 == next(stream)
    with pytest.raises(NotPicklable, match=r"an item of S\.unpicklable\['lock'\]"):
        next(stream)


@pytest.mark.parametrize("leave", ["close", "with", "break", "let go", "async break"])
def test_a_reader_that_leaves_closes_the_generator(here: Place, service: Service, leave: str) -> None:
    client = here.client()
    stream = client.call("S.until_closed")
    next(stream)
    if leave == "close":
        stream.close()
        assert [] == list(stream)
    elif leave == "with":
        with stream:
            pass
    elif leave == "break":
        for _ in stream:
            break
    elif leave == "async break":
        asyncio.run(first_of(stream))
    del stream
    gc.collect()
    eventually(lambda: service.events == ["closed"])
    eventually(lambda: here.server.in_flight == 0 and client.in_flight == 0)


async def first_of(stream: Any) -> Any:
    async for item in stream:
        return item
    return None


@pytest.mark.parametrize("how", ["leader", "other", "coroutine"])
def test_a_stream_that_is_closed_ends_for_whoever_waits_for_its_next_item(
    here: Place, service: Service, how: str
) -> None:
    client = here.client()
    streams = [client.call("S.at_once") for _ in range(2 if how == "other" else 1)]
    left: list[str] = []

    async def arest(stream: Any) -> None:
        async for item in stream:
            left.append(item)

    def rest(stream: Any) -> None:
        if how == "coroutine":
            asyncio.run(arest(stream))
        else:
            left.extend(stream)

    readers = [threading.Thread(target=rest, args=(stream,), daemon=True) for stream in streams]
    for reader in readers:  # the first one reads the connection for the second
        reader.start()
        time.sleep(0.1)  # it must be inside its read, which nothing shows
    for reader, stream in list(zip(readers, streams))[::-1]:
        stream.close()
        reader.join(10.0)
        assert not reader.is_alive()
    assert "second" not in left
    service.gate.set()


def test_a_future_that_nobody_asks_for_its_stream_closes_the_generator(here: Place, service: Service) -> None:
    future = here.client().submit("S.until_closed")
    future.exception(20.0)
    eventually(lambda: service.produced > 0)
    del future
    gc.collect()
    eventually(lambda: service.events == ["closed"])


def test_a_cancelled_call_never_opens_its_stream(here: Place, service: Service) -> None:
    client = here.client()
    client.call("S.null")
    for _ in range(20):
        client.submit("S.until_closed").cancel()
    eventually(lambda: here.server.in_flight == 0)


def test_the_method_sees_that_its_reader_has_left(here: Place, service: Service) -> None:
    stream = here.client().call("S.holds")
    next(stream)
    stream.close()
    eventually(lambda: service.events == ["cancelled True"])


def test_an_unread_stream_stops_its_writer_at_the_window(here: Place, service: Service) -> None:
    size = 50_000
    stream = here.client().call("S.until_closed", (size,))
    most = WINDOW // size + 2  # one item is on its way when the window is full, and one in the generator's hand
    eventually(lambda: service.produced >= WINDOW // size)
    assert next(stream) == bytes(size)
    assert service.produced <= most + 1
    for _ in range(3 * most):
        next(stream)
    assert service.produced <= 4 * most + 2
    stream.close()


class _TakenMeanwhile(bytes):
    """A segment during whose measuring the reader takes what came before it, as another thread may."""

    def __new__(cls, data: bytes, take: Callable[[], None]) -> _TakenMeanwhile:
        made = super().__new__(cls, data)
        made.take = take
        return made

    take: Callable[[], None]

    def __len__(self) -> int:
        self.take()
        return super().__len__()


def test_room_that_is_given_while_an_item_arrives_is_not_forgotten() -> None:
    """Else a writer that keeps to what it was promised would be taken for one that does not."""

    class Side:
        def enqueue(self, frames: Any) -> None: ...

        def flush(self) -> None: ...

    incoming = Incoming(Side(), 1, 0, "S.m", float("inf"), room=WINDOW)  # type: ignore[arg-type]  # a part of one
    half = WINDOW // 2
    incoming.deliver(Items(1, 0, BYTES, [bytes(half)]))
    incoming.deliver(Items(1, 0, BYTES, [_TakenMeanwhile(bytes(half), lambda: incoming.consumed(half))]))
    incoming.deliver(Items(1, 0, BYTES, [b"there was room for this"]))


def test_an_unread_stream_stops_nobody_else(here: Place) -> None:
    client = here.client()
    unread = [client.call("S.until_closed", (50_000,)) for _ in range(10)]
    assert list(range(1000)) == list(client.call("S.count", (1000,)))
    client.call("S.null", timeout=20.0)
    for stream in unread:
        assert bytes(50_000) == next(stream)
        stream.close()


def test_a_generator_may_change_an_array_that_it_has_yielded(here: Place) -> None:
    assert [0.0, 1.0, 2.0, 3.0] == [float(array[-1]) for array in here.client().call("S.arrays", (4,))]


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.integers(),
            st.none(),
            st.text(max_size=20),
            st.binary(max_size=20),
            st.sampled_from([b"x" * 20_000, b"y" * 300_000, "z" * 50_000, [1] * 20_000]),
            st.lists(st.floats(allow_nan=False), max_size=5),
        ),
        max_size=30,
    )
)
def test_items_of_any_size_arrive_as_they_were(here: Place, items: list[Any]) -> None:
    client = here.clients[0] if here.clients else here.client()
    found = list(client.call("S.mixed", (items,)))
    assert items == found
    assert [type(item) for item in items] == [type(item) for item in found]
    assert items == client.call("S.echo", (iter(items),))


def test_a_deadline_is_that_of_the_whole_stream(here: Place, service: Service) -> None:
    client = here.client()
    stream = client.call("S.at_once", timeout=1.0)
    assert "first" == next(stream)
    with pytest.raises(DeadlineExceeded, match="not ended within"):
        next(stream)
    eventually(lambda: client.in_flight == 0)

    async def awaited() -> None:
        stream = await client.acall("S.at_once", timeout=1.0)
        await stream.__anext__()
        with pytest.raises(DeadlineExceeded):
            await stream.__anext__()

    asyncio.run(awaited())
    service.gate.set()
    eventually(lambda: here.server.in_flight == 0)


@pytest.mark.parametrize("awaited", [False, True])
def test_a_lost_connection_ends_the_stream_behind_the_items_that_came(
    here: Place, service: Service, awaited: bool
) -> None:
    client = here.client()
    stream = client.call("S.holds")
    assert 1 == next(stream)
    here.cut()
    with pytest.raises(MayHaveRun, match="in the middle of a stream"):
        asyncio.run(first_of(stream)) if awaited else next(stream)
    eventually(lambda: service.events == ["cancelled True"])
    assert [0, 1] == list(client.call("S.count", (2,), idempotent=True)), "the next call dials anew"


def test_a_closed_client_ends_its_streams_with_its_error(here: Place, service: Service) -> None:
    client = here.client()
    stream = client.call("S.at_once")
    next(stream)
    threading.Timer(0.05, client.close, [KeyError("the machine")]).start()
    with pytest.raises(KeyError, match="the machine"):
        next(stream)


def test_a_server_that_closes_ends_its_streams(here: Place, service: Service) -> None:
    stream = here.client().call("S.until_closed", (50_000,))
    next(stream)
    here.server.close()
    eventually(lambda: service.events == ["closed"])
    with pytest.raises((MayHaveRun, Unreachable)):
        for _ in stream:
            pass


def test_streams_of_several_threads_do_not_mix(here: Place) -> None:
    client = here.client()
    sums: list[int] = []

    def run() -> None:
        sums.append(sum(client.call("S.count", (3000,))))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert [sum(range(3000))] * 8 == sums


# Arguments.


def test_an_iterator_is_streamed_to_the_method(here: Place) -> None:
    client = here.client()
    assert 499_500 == client.call("S.total", (iter(range(1000)),))
    assert 499_500 == client.call("S.total", (), {"items": (i for i in range(1000))})
    assert 499_500 == client.submit("S.total", (iter(range(1000)),)).result(20.0)
    assert 0 == client.call("S.total", (iter(()),))


def test_an_asynchronous_iterator_is_streamed_by_acall(here: Place) -> None:
    async def items() -> Any:
        for i in range(1000):
            yield i

    client = here.client()
    assert 499_500 == asyncio.run(client.acall("S.total", (items(),)))
    with pytest.raises(CallError, match=r"asynchronous iterator.*await acall"):
        client.call("S.total", (items(),))


def test_streams_flow_both_ways_at_once(here: Place) -> None:
    sent: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100_000):
            sent.append(i)
            yield i

    stream = here.client().call("S.doubled", (items(),))
    assert [0, 2, 4] == list(itertools.islice(stream, 3))
    stream.close()
    eventually(lambda: len(sent) > 0)


def test_a_stream_that_was_received_can_be_sent_on(here: Place) -> None:
    client = here.client()
    assert 4950 == client.call("S.total", (client.call("S.count", (100,)),))


def test_what_an_iterator_raises_is_raised_in_the_method_and_comes_back(here: Place) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        here.client().call("S.total", (items(),))


@pytest.mark.parametrize("method", ["S.first", "S.ignore"])
def test_a_method_that_reads_no_further_closes_the_iterator(here: Place, method: str) -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from itertools.count(7)
        finally:
            closed.set()

    here.client().call(method, (items(),))
    assert closed.wait(20.0)


def test_an_iterator_that_exits_ends_its_stream_too(here: Place) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise SystemExit("enough")

    with pytest.raises(ServiceError, match="enough"):
        here.client().call("S.total", (numbers(),), timeout=20.0)


def test_an_asynchronous_iterator_that_is_cancelled_ends_its_stream_too(here: Place) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise asyncio.CancelledError("enough")

    with pytest.raises(ServiceError, match="enough"):
        asyncio.run(here.client().acall("S.total", (numbers(),), timeout=20.0))


def test_small_items_never_exceed_the_room_that_their_reader_has(here: Place, service: Service) -> None:
    sent = 0

    def items() -> Iterator[int]:
        nonlocal sent
        for sent in range(100_000):  # noqa: B007
            yield 1 << 800

    future = here.client().submit("S.attempt", (items(),))
    eventually(lambda: sent * 100 > WINDOW * 0.8)
    before = -1
    while before < sent:
        before = sent
        time.sleep(0.2)  # no more is sent: nothing tells of that but time
    assert sent * 100 < WINDOW
    service.gate.set()
    assert future.result(60.0) == 100_000 << 800


def test_an_iterator_that_gives_nothing_holds_up_only_its_call(here: Place) -> None:
    release = threading.Event()

    def items() -> Iterator[int]:
        release.wait(20.0)
        yield 1

    client = here.client()
    with pytest.raises(DeadlineExceeded):
        client.call("S.total", (items(),), timeout=0.2)
    release.set()
    eventually(lambda: here.server.in_flight == 0)
    client.call("S.null")


def test_a_refused_call_has_not_touched_the_iterator(here: Place) -> None:
    items = iter(range(3))
    with pytest.raises(NoSuchMethod):
        here.client().call("S.nothing", (items,))
    assert [0, 1, 2] == list(items)


def test_one_stream_cannot_go_two_ways(here: Place, service: Service) -> None:
    client = here.client()
    items = iter(range(3))
    with pytest.raises(CallError, match="twice"):
        client.call("S.echo", (items,), {"more": items})

    def slow() -> Iterator[int]:
        yield 1
        service.gate.wait(20.0)
        yield 2

    given = slow()
    first = client.submit("S.echo", (given,))
    eventually(lambda: given.gi_frame is not None and given.gi_frame.f_lineno > slow.__code__.co_firstlineno + 1)
    with pytest.raises(CallError, match="being sent by another call"):
        client.call("S.echo", (given,))
    service.gate.set()
    assert [1, 2] == first.result(20.0)


def test_arguments_end_with_their_call(here: Place) -> None:
    client = here.client()
    client.call("S.kept", (itertools.count(),))
    with pytest.raises(Exception, match="its call has ended"):
        client.call("S.use_kept")


def test_a_binary_file_arrives_as_one_and_in_its_middle(here: Place, tmp_path: Path) -> None:
    data = os.urandom(700_000)
    (tmp_path / "data").write_bytes(data)
    client = here.client()
    with open(tmp_path / "data", "rb") as file:
        assert data == client.call("S.contents", (file,))
        file.seek(100)
        assert data[100:] == client.call("S.contents", (file,))
    with open(tmp_path / "data", "rb", buffering=0) as raw:
        assert io.BytesIO(data).readlines() == client.call("S.lines", (raw,))
    assert b"in memory" == client.call("S.contents", (io.BytesIO(b"in memory"),))


def test_a_streamed_argument_is_made_anew_when_its_call_is_sent_again(here: Place, service: Service) -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        made.append(1)
        return iter(range(10))

    future = here.client().submit("S.attempt", (streamed(make),), idempotent=True)
    eventually(lambda: service.attempts == 1)
    here.cut()
    assert 45 == future.result(20.0)
    assert 2 == len(made)


def test_an_iterator_that_was_begun_is_not_sent_again(here: Place, service: Service) -> None:
    future = here.client().submit("S.attempt", (iter(range(10)),), idempotent=True)
    eventually(lambda: service.attempts == 1)
    here.cut()
    with pytest.raises(MayHaveRun, match=r"bigm\.streamed"):
        future.result(20.0)
    assert 1 == service.attempts


def test_what_is_no_stream_is_refused_before_anything_is_sent(here: Place) -> None:
    with pytest.raises(CallError, match="a function that makes the stream"):
        streamed([1, 2])  # type: ignore[arg-type]
    with pytest.raises(CallError, match="no iterator"):
        here.client().call("S.total", (streamed(lambda: [1, 2]),))
    with pytest.raises(NotPicklable, match="beside the others only"):
        here.client().call("S.total", ([streamed(lambda: iter([1]))],))


@pytest.mark.slow
def test_ctrl_c_while_a_stream_is_read_leaves_it_usable(here: Place, service: Service) -> None:
    client = here.client()
    reading = threading.Event()

    def read(stream: Any) -> Any:
        reading.set()
        return next(stream)

    def interrupt() -> None:
        reading.wait(20.0)
        os.kill(os.getpid(), signal.SIGINT)

    for _ in range(50):
        service.gate.clear()
        reading.clear()
        stream = client.call("S.at_once")
        next(stream)
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            read(stream)
        service.gate.set()
        assert ["second"] == list(stream)


def test_a_fork_leaves_the_stream_to_its_parent(here: Place, service: Service) -> None:
    stream = here.client().call("S.at_once")
    next(stream)
    pid = os.fork()
    if pid == 0:
        try:
            next(stream)
        except Unreachable:
            os._exit(7)
        os._exit(1)
    assert 7 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    service.gate.set()
    assert ["second"] == list(stream)


def test_an_idle_stream_costs_no_processor(here: Place, service: Service) -> None:
    stream = here.client().call("S.at_once")
    next(stream)
    before = time.process_time()
    reader = threading.Thread(target=lambda: list(stream))
    reader.start()
    service.gate.wait(0.5)
    assert time.process_time() - before < 0.25
    service.gate.set()
    reader.join(20.0)


def test_a_call_that_is_given_up_while_its_stream_is_fetched_leaves_no_thread(here: Place) -> None:
    client = here.client()
    client.call("S.null")
    for _ in range(30):
        future = client.submit("S.until_closed")
        eventually(lambda future=future: client._fetching or future.done(), poll=0.0)
        future.cancel()
    del future
    eventually(lambda: not [each for each in threading.enumerate() if each.name.startswith("bigm-bulk")])
    eventually(lambda: here.server.in_flight == 0)


def test_a_connection_that_is_lost_as_soon_as_it_was_dialled_is_not_used_for_ever(here: Place) -> None:
    client = here.client()
    dial, lost = client._dial, []

    def lose_the_first(deadline: float, flags: int) -> Any:
        channel = dial(deadline, flags)
        if flags and not lost:
            here.cut()
            eventually(lambda: channel.closed)
            lost.append(channel)
        return channel

    client._dial = lose_the_first  # type: ignore[method-assign]  # the moment cannot be hit otherwise
    assert [0, 1] == list(client.call("S.count", (2,), timeout=20.0, direct=True))
    assert lost
