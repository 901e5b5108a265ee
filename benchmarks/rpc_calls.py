"""How long a call takes, and how many there are in a second: beside blocking TLS, and beside grpcio with mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from measure import Row, alternate
from rpc_far import Far, far

from bigm.authority import Authority
from bigm.rpc import interrupts
from bigm.rpc.client import Client
from bigm.rpc.tls import Credentials

CALL_BYTES = 60  # on the wire, of a null call
REPLY_BYTES = 31
SECONDS = 0.5  # each measurement


def rows(repeats: int) -> list[Row]:
    """Measure all of it."""
    interrupts.install()  # as the driver does
    authority = Authority()
    with contextlib.ExitStack() as stack:
        ours = [stack.enter_context(far(authority, "ours", f"m{i}")) for i in range(4)]
        raw = stack.enter_context(far(authority, "raw"))
        grpcs = [stack.enter_context(far(authority, "grpc")) for i in range(4)]
        clients = [each.client() for each in ours]
        for client in clients:
            stack.callback(client.close)
            client.call("S.null")
        return [*_latency(clients[0], raw, repeats), *_throughput(clients, grpcs, repeats)]


# One call at a time.


def _latency(client: Client, raw: Far, repeats: int) -> list[Row]:
    ping = raw.raw()
    message = (CALL_BYTES).to_bytes(8, "big") + REPLY_BYTES.to_bytes(8, "big") + bytes(CALL_BYTES - 16)
    message = (CALL_BYTES - 16).to_bytes(8, "big") + message[8:]

    def pingpong() -> None:
        ping.sendall(message)
        ping.recv(4096)

    def null() -> None:
        client.call("S.null")

    fairness: list[float] = []

    def eight() -> float:
        times, counts = _callers(client, 8)
        fairness.append(min(counts) / max(counts))
        return statistics.median(times)

    seen = alternate(
        {
            "raw": lambda: _median(pingpong),
            "null": lambda: _median(null),
            "sleeping": lambda: _while_sleeping(client, null),
            "eight": eight,
        },
        repeats,
    )
    ping.close()
    return [
        Row("null call", _us(seen["null"]), f"{_us(seen['raw'])} blocking TLS", seen["null"] / seen["raw"], 2.0, 1.6),
        Row(
            "null call while another method sleeps",
            _us(seen["sleeping"]),
            f"{_us(seen['null'])} unloaded",
            seen["sleeping"] / seen["null"],
            1.3,
            1.1,
        ),
        Row(
            "null call, 8 callers at once",
            _us(seen["eight"]),
            f"{_us(seen['null'])} unloaded",
            seen["eight"] / seen["null"],
            note=f"calls of the slowest to the fastest caller {statistics.median(fairness):.2f}",
        ),
    ]


def _median(call: Callable[[], None]) -> float:
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    now = time.perf_counter()
    while now < end:
        call()
        begin, now = now, time.perf_counter()
        times.append(now - begin)
    return statistics.median(times)


def _while_sleeping(client: Client, null: Callable[[], None]) -> float:
    sleeper = client.submit("S.sleep", (SECONDS * 1.5,))
    time.sleep(0.05)  # until it has begun; if it has not, this measures the same
    result = _median(null)
    sleeper.result()
    return result


def _callers(client: Client, count: int) -> tuple[list[float], list[int]]:
    times: list[list[float]] = [[] for _ in range(count)]
    end = time.perf_counter() + SECONDS

    def run(own: list[float]) -> None:
        while (begin := time.perf_counter()) < end:
            client.call("S.null")
            own.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=run, args=(own,), name="caller") for own in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [each for own in times for each in own], [len(own) for own in times]


# Many calls at a time.


def _throughput(clients: list[Client], grpcs: list[Far], repeats: int) -> list[Row]:
    import grpc

    channels = [
        grpc.secure_channel(f"127.0.0.1:{each.port}", _mutual(each.authority.driver()), _OPTIONS) for each in grpcs
    ]
    stubs = [channel.unary_unary("/S/null") for channel in channels]
    ours = [lambda client=client: client.submit("S.null") for client in clients]
    theirs = [lambda stub=stub: stub.future(b"") for stub in stubs]
    seen = alternate(
        {
            "one": lambda: _in_flight(ours[:1], 100),
            "grpc one": lambda: _in_flight(theirs[:1], 100),
            "four": lambda: _in_flight(ours, 25),
            "grpc four": lambda: _in_flight(theirs, 25),
            "await": lambda: asyncio.run(_awaited(clients[0])),
            "grpc await": lambda: _awaited_grpc_alone(grpcs[0]),
        },
        repeats,
    )
    for channel in channels:
        channel.close()
    return [
        _faster("calls a second, 100 in flight by submit", seen["one"], seen["grpc one"], 12, 20),
        _faster("the same over four machines, 25 each", seen["four"], seen["grpc four"], 10, 15),
        _faster("2,000 concurrent acalls", seen["await"], seen["grpc await"], 8, 15),
    ]


def _in_flight(starts: list[Callable[[], object]], each: int) -> float:
    futures = deque(start() for _ in range(each) for start in starts)
    sources = deque(start for _ in range(each) for start in starts)
    count, begin = 0, time.perf_counter()
    end = begin + SECONDS
    while time.perf_counter() < end:
        for _ in range(50):
            futures.popleft().result()
            sources.rotate(-1)
            futures.append(sources[-1]())
        count += 50
    rate = count / (time.perf_counter() - begin)
    for future in futures:
        future.result()
    return rate


async def _awaited(client: Client, rounds: int = 3, count: int = 2000) -> float:
    begin = time.perf_counter()
    for _ in range(rounds):
        await asyncio.gather(*(client.acall("S.null") for _ in range(count)))
    return rounds * count / (time.perf_counter() - begin)


def _awaited_grpc_alone(other: Far) -> float:
    """In a process of its own, which grpc's blocking face has not touched."""
    given = pickle.dumps((other.authority.driver(), other.port))
    return float(subprocess.run([sys.executable, __file__], input=given, stdout=subprocess.PIPE, check=True).stdout)


async def _awaited_grpc(driver: Credentials, port: int, count: int = 2000) -> float:
    import grpc

    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", _mutual(driver), _OPTIONS) as channel:
        stub = channel.unary_unary("/S/null")
        await stub(b"")
        begin = time.perf_counter()
        results = await asyncio.gather(*(stub(b"") for _ in range(count)), return_exceptions=True)
        answered = sum(isinstance(result, bytes) for result in results)  # it cancels a few of so many
        return answered / (time.perf_counter() - begin)


_OPTIONS = (("grpc.ssl_target_name_override", "m0"),)


def _mutual(driver: Credentials) -> object:
    import grpc

    return grpc.ssl_channel_credentials(driver.ca, driver.key, driver.cert)


def _faster(what: str, ours: float, theirs: float, reach: float, aim: float) -> Row:
    return Row(what, f"{ours:,.0f}/s", f"{theirs:,.0f}/s grpcio", ours / theirs, reach, aim, above=True)


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us"


if __name__ == "__main__":
    print(asyncio.run(_awaited_grpc(*pickle.load(sys.stdin.buffer))))
