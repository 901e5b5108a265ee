"""Streams: 1 GiB in items of 1 MiB each way beside blocking TLS, small items a second, and what both cost in memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from measure import Row, alternate
from rpc_far import Far, far, peak, receive, reset_peak

from bigm.authority import Authority
from bigm.rpc import interrupts
from bigm.rpc.client import Client
from bigm.rpc.streamwire import WINDOW

MIB = 1 << 20
ITEMS = 1024  # of 1 MiB: 1 GiB
SMALL = 10_000  # small items in a stream


def rows(repeats: int) -> list[Row]:
    """Measure all of it."""
    interrupts.install()
    authority = Authority()
    with contextlib.ExitStack() as stack:
        ours, raw = stack.enter_context(far(authority, "ours")), stack.enter_context(far(authority, "raw"))
        client = ours.client()
        stack.callback(client.close)
        list(client.call("S.count", (1,), direct=True))  # the connection that streams share is there
        return _measure(client, raw, repeats)


def _measure(client: Client, raw: Far, repeats: int) -> list[Row]:
    piece = bytes(MIB)
    peaks: dict[str, int] = {}

    def raw_send() -> float:
        with raw.raw() as tls:
            tls.sendall((ITEMS * MIB).to_bytes(8, "big") + (1).to_bytes(8, "big"))
            return _rate(ITEMS * MIB, lambda: [[tls.sendall(piece) for _ in range(ITEMS)], tls.recv(1)])

    def raw_fetch() -> float:
        with raw.raw() as tls:
            tls.sendall(bytes(8) + (ITEMS * MIB).to_bytes(8, "big"))
            return _rate(ITEMS * MIB, lambda: [receive(tls, MIB) for _ in range(ITEMS)])

    def send() -> float:
        client.call("S.peak")
        before = client.call("S.peak")
        pieces = (piece for _ in range(ITEMS))
        return _rate(ITEMS * MIB, lambda: peaks.__setitem__("sent", client.call("S.drain", (pieces,)) - before))

    def fetch() -> float:
        reset_peak()
        before = peak()
        rate = _rate(ITEMS * MIB, lambda: _drain(client.call("S.pieces", (ITEMS, MIB), direct=True)))
        peaks["fetched"] = peak() - before
        return rate

    seen = alternate(
        {
            "raw send": raw_send,
            "send": send,
            "raw fetch": raw_fetch,
            "fetch": fetch,
            "small": lambda: _rate(SMALL, lambda: _drain(client.call("S.count", (SMALL,), direct=True))),
            "small up": lambda: _rate(SMALL, lambda: client.call("S.total", (iter(range(SMALL)),))),
        },
        repeats,
    )
    bound = f"window {WINDOW // MIB} MiB, peak"
    return [
        _bulk(
            "1 GiB argument, streamed by 1 MiB",
            seen["send"],
            seen["raw send"],
            f"{bound} there +{peaks['sent'] >> 10} MiB",
        ),
        _bulk(
            "1 GiB result, streamed by 1 MiB",
            seen["fetch"],
            seen["raw fetch"],
            f"{bound} here +{peaks['fetched'] >> 10} MiB",
        ),
        _small("small items of a result, 10,000 in a stream", seen["small"]),
        _small("small items of an argument, 10,000 in a stream", seen["small up"]),
    ]


def _drain(stream: Iterator[object]) -> None:
    for _ in stream:
        pass


def _rate(amount: int, transfer: Callable[[], object]) -> float:
    begin = time.perf_counter()
    transfer()
    return amount / (time.perf_counter() - begin)


def _bulk(what: str, ours: float, limit: float, note: str) -> Row:
    shown, beside = f"{ours / 1e9:.2f} GB/s", f"{limit / 1e9:.2f} GB/s blocking TLS"
    return Row(what, shown, beside, ours / limit, 0.6, 0.95, above=True, note=note)


def _small(what: str, rate: float) -> Row:
    return Row(what, f"{rate:,.0f}/s", "", rate / 1000, 100.0, 200.0, above=True, unit="thousand/s")
