"""`async def` methods: on one loop, really cancelled, thousands at once; and serial services."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from places import Place

from bigm.errors import DeadlineExceeded, NotPicklable, ServiceError
from bigm.rpc.current import current_call
from bigm.rpc.methods import serial
from waiting import eventually

Make = Callable[..., Place]


class Service:
    def __init__(self) -> None:
        self.events: list[str] = []
        self.inside = 0
        self.most = 0

    async def add(self, a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    async def meet(self, n: int) -> int:
        """Returns when *n* callers are inside."""
        self.inside += 1
        self.most = max(self.most, self.inside)
        while self.most < n:
            await asyncio.sleep(0.001)
        self.inside -= 1
        return self.most

    async def forever(self) -> None:
        self.events.append("running")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise

    async def spawn(self) -> None:
        self.spawned = asyncio.ensure_future(self.forever())

    async def fail(self, text: str) -> None:
        raise ValueError(text)

    async def exit(self) -> None:
        sys.exit(3)

    async def cancel_itself(self) -> None:
        raise asyncio.CancelledError("mine")

    async def unpicklable(self) -> Any:
        return threading.Lock()

    async def big(self) -> bytes:
        return bytes(1 << 20)

    async def thread(self) -> str:
        return threading.current_thread().name

    async def who(self) -> tuple[str, str]:
        before = current_call().method
        await asyncio.sleep(0.01)
        return before, current_call().method

    async def other(self) -> tuple[str, str]:
        return await self.who()

    async def count(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    async def endless(self) -> AsyncIterator[int]:
        try:
            i = 0
            while True:
                yield i
                i += 1
                await asyncio.sleep(0)
        finally:
            self.events.append("closed")

    async def waits(self) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            self.events.append("closed")

    async def late(self) -> AsyncIterator[int]:
        yield 1
        raise ValueError("late")

    async def make(self, n: int) -> Iterator[int]:
        return iter(range(n))

    async def total(self, items: Any) -> int:
        return sum([item async for item in items])

    def plain(self) -> Any:
        return self.add(1, 2)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def here(place: Make, service: Service) -> Place:
    return place(S=service)


def test_a_coroutine_is_called_like_any_method(here: Place) -> None:
    client = here.client()
    assert 3 == client.call("S.add", (1, 2))
    assert 3 == client.submit("S.add", (1, 2)).result(20.0)
    assert 3 == asyncio.run(client.acall("S.add", (1, 2)))
    assert 3 == client.call("S.plain"), "a plain method may return one"
    assert 1 << 20 == len(client.call("S.big"))
    assert client.call("S.thread").startswith("bigm-async")


def test_thousands_of_coroutines_are_inside_at_once(here: Place) -> None:
    client = here.client()

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*[client.acall("S.meet", (3000,)) for _ in range(3000)])

    assert {3000} == set(asyncio.run(all_of_them()))


@pytest.mark.parametrize("how", ["future", "task", "deadline", "lost"])
def test_a_coroutine_is_cancelled_when_nobody_waits_for_it(here: Place, service: Service, how: str) -> None:
    client = here.client()
    if how == "future":
        future = client.submit("S.forever")
        eventually(lambda: service.events)
        future.cancel()
    elif how == "task":

        async def give_up() -> None:
            task = asyncio.create_task(client.acall("S.forever"))
            while not service.events:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(give_up())
    elif how == "deadline":
        with pytest.raises(DeadlineExceeded):
            client.call("S.forever", timeout=0.1)
    else:
        client.submit("S.forever")
        eventually(lambda: service.events)
        here.cut()
    eventually(lambda: service.events == ["running", "cancelled"])
    eventually(lambda: here.server.in_flight == 0)


def test_what_a_coroutine_raises_is_raised_in_the_caller(here: Place) -> None:
    client = here.client()
    with pytest.raises(ValueError, match="text") as caught:
        client.call("S.fail", ("text",))
    assert "in fail" in str(caught.value.__cause__)
    with pytest.raises(ServiceError, match="SystemExit"):
        client.call("S.exit")
    with pytest.raises(ServiceError, match="CancelledError"):
        client.call("S.cancel_itself")
    with pytest.raises(NotPicklable):
        client.call("S.unpicklable")
    assert 3 == client.call("S.add", (1, 2)), "the loop lives on"


def test_each_coroutine_sees_its_own_call(here: Place) -> None:
    client = here.client()

    async def both() -> list[tuple[str, str]]:
        return await asyncio.gather(client.acall("S.who"), client.acall("S.other"), client.acall("S.who"))

    assert [("S.who", "S.who"), ("S.other", "S.other"), ("S.who", "S.who")] == asyncio.run(both())


@pytest.mark.parametrize("direct", [True, False])
def test_an_asynchronous_generator_streams(here: Place, direct: bool) -> None:
    client = here.client()
    assert list(range(5000)) == list(client.call("S.count", (5000,), direct=direct))
    assert [0, 1, 2] == list(client.call("S.make", (3,), direct=direct))
    stream = client.call("S.late", direct=direct)
    assert 1 == next(stream)
    with pytest.raises(ValueError, match="late"):
        next(stream)


@pytest.mark.parametrize("method", ["S.endless", "S.waits"])
def test_it_is_closed_when_its_reader_leaves(here: Place, service: Service, method: str) -> None:
    with here.client().call(method) as stream:
        next(stream)
    eventually(lambda: service.events == ["closed"])
    eventually(lambda: here.server.in_flight == 0)


def test_coroutines_read_streams_without_holding_up_the_loop(here: Place, service: Service) -> None:
    client = here.client()
    release = threading.Event()

    def slow() -> Iterator[int]:
        yield 1
        release.wait(20.0)
        yield 2

    waiting = client.submit("S.total", (slow(),))
    assert 499_500 == client.call("S.total", (iter(range(1000)),))
    release.set()
    assert 3 == waiting.result(20.0)


@pytest.mark.parametrize("method", ["forever", "spawn"])
def test_a_server_that_closes_cancels_its_coroutines_and_their_tasks(
    here: Place, service: Service, method: str
) -> None:
    here.client().submit(f"S.{method}")
    eventually(lambda: service.events)
    here.server.close()
    eventually(lambda: service.events == ["running", "cancelled"])


# Serial services.


class Meter:
    """Counts how many are inside at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.order: list[int] = []

    def enter(self, number: int) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.order.append(number)
        time.sleep(0.002)  # so that others would come in if they could
        self.inside -= 1

    def items(self, number: int) -> Iterator[int]:
        self.enter(number)
        yield from range(3)
        self.enter(number)

    def held(self) -> Iterator[bytes]:
        while True:
            yield bytes(50_000)

    async def aenter(self, number: int) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0.002)
        self.inside -= 1

    def free(self) -> int:
        return self.inside


class Loose(Meter):
    """Not serial."""


@serial
class Strict(Meter):
    """Serial as a whole."""

    def exits(self) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            sys.exit(3)

    async def aexits(self) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0)
        finally:
            raise asyncio.CancelledError


class Partly(Meter):
    """Some methods are."""

    @serial
    def one(self, number: int) -> None:
        self.enter(number)

    @serial
    def two(self, number: int) -> None:
        self.enter(number)


def test_a_service_that_is_not_serial_has_several_callers_inside(place: Make) -> None:
    meter = Loose()
    client = place(S=meter).client()
    for future in [client.submit("S.enter", (i,)) for i in range(60)]:
        future.result(20.0)
    assert meter.most > 1, "else the tests below say nothing"


@pytest.mark.parametrize("methods", [["S.enter"], ["S.enter", "S.aenter", "S.items"]])
def test_a_serial_service_has_one_caller_inside(place: Make, methods: list[str]) -> None:
    meter = Strict()
    here = place(S=meter)
    client = here.client()
    for future in [client.submit(methods[i % len(methods)], (i,)) for i in range(60)]:
        result = future.result(20.0)
        if result is not None:
            assert [0, 1, 2] == list(result)
    assert 1 == meter.most
    if len(methods) == 1:
        assert list(range(60)) == meter.order
    eventually(lambda: here.server.in_flight == 0)


def test_serial_methods_of_one_service_exclude_each_other(place: Make) -> None:
    meter = Partly()
    client = place(S=meter).client()
    calls = [client.submit(["S.one", "S.two"][i % 2], (i,)) for i in range(40)]
    for future in calls:
        future.result(20.0)
    assert 1 == meter.most


@pytest.mark.parametrize("method", ["S.exits", "S.aexits"])
def test_a_generator_that_exits_while_it_is_closed_lets_the_next_one_in(place: Make, method: str) -> None:
    here = place(S=Strict())
    client = here.client()
    with client.call(method) as stream:
        next(stream)
    client.call("S.enter", (1,), timeout=20.0)
    eventually(lambda: here.server.in_flight == 0)


def test_a_cancelled_call_leaves_the_queue_of_a_serial_service(place: Make) -> None:
    meter = Strict()
    here = place(S=meter)
    client = here.client()
    stream = client.call("S.held")
    waiting = [client.submit("S.enter", (i,)) for i in (1, 2)]
    with pytest.raises(DeadlineExceeded):
        client.call("S.enter", (3,), timeout=0.05)
    waiting[0].cancel()
    stream.close()
    waiting[1].result(20.0)
    eventually(lambda: here.server.in_flight == 0)
    assert 1 not in meter.order
    assert 3 not in meter.order
