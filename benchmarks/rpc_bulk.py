"""How fast 256 MiB travel as a numpy array, each way, what that costs in memory, and what it does to small calls."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable

import numpy
from measure import Row, alternate
from rpc_far import Far, far, peak, receive, reset_peak

from bigm.authority import Authority
from bigm.rpc import interrupts
from bigm.rpc.client import Client

SIZE = 256 << 20
MIB = 1 << 20


def rows(repeats: int) -> list[Row]:
    """Measure all of it."""
    interrupts.install()
    authority = Authority()
    with contextlib.ExitStack() as stack:
        ours, raw = stack.enter_context(far(authority, "ours")), stack.enter_context(far(authority, "raw"))
        client = ours.client()
        stack.callback(client.close)
        client.call("S.null")
        return _measure(client, raw, repeats)


def _measure(client: Client, raw: Far, repeats: int) -> list[Row]:
    array = numpy.ones(SIZE, numpy.uint8)
    peaks: dict[str, int] = {}
    transfers: list[float] = []

    def raw_send() -> float:
        with raw.raw() as tls:
            tls.sendall(SIZE.to_bytes(8, "big") + (1).to_bytes(8, "big"))
            return _rate(lambda: (tls.sendall(array), tls.recv(1)))

    def raw_fetch() -> float:
        with raw.raw() as tls:
            tls.sendall(bytes(8) + SIZE.to_bytes(8, "big"))
            return _rate(lambda: receive(tls, SIZE))

    def send() -> float:
        return _rate(lambda: peaks.__setitem__("there", client.call("S.take", (array,))))

    def fetch() -> float:
        reset_peak()
        before = peak()
        rate = _rate(lambda: client.call("S.give", (SIZE,)))
        peaks["here"] = peak() - before
        return rate

    seen = alternate(
        {
            "raw send": raw_send,
            "send": send,
            "raw fetch": raw_fetch,
            "fetch": fetch,
            "unloaded": lambda: _null(client, 0.3),
            "loaded": lambda: _null_during(client, array, transfers),
        },
        repeats,
    )
    return [
        _bulk(
            "256 MiB array as argument", seen["send"], seen["raw send"], f"peak there {peaks['there'] / 1024:.0f} MiB"
        ),
        _bulk("256 MiB array as reply", seen["fetch"], seen["raw fetch"], f"peak here +{peaks['here'] / 1024:.0f} MiB"),
        Row(
            "null call p50 during such a transfer",
            f"{seen['loaded'] * 1e6:.0f} us",
            f"{seen['unloaded'] * 1e6:.0f} us unloaded",
            seen["loaded"] / seen["unloaded"],
            2.0,
            1.2,
            note=f"{statistics.median(transfers):.0f} calls during a transfer",
        ),
    ]


def _rate(transfer: Callable[[], object]) -> float:
    begin = time.perf_counter()
    transfer()
    return SIZE / (time.perf_counter() - begin)


def _null(client: Client, seconds: float) -> float:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        client.call("S.null")
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _null_during(client: Client, array: object, transfers: list[float]) -> float:
    thread = threading.Thread(target=client.call, args=("S.take", (array,)), name="transfer")
    times: list[float] = []
    thread.start()
    while thread.is_alive():
        begin = time.perf_counter()
        client.call("S.null")
        times.append(time.perf_counter() - begin)
    thread.join()
    transfers.append(len(times))
    return statistics.median(times)


def _bulk(what: str, ours: float, limit: float, note: str) -> Row:
    return Row(
        what,
        f"{ours / 1e9:.2f} GB/s",
        f"{limit / 1e9:.2f} GB/s blocking TLS",
        ours / limit,
        0.6,
        0.95,
        above=True,
        note=note,
    )
