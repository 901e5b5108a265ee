"""The wire core: whole results compared, everything fed in pieces too."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigm.errors import PayloadTooLarge, ProtocolError
from bigm.rpc import streamwire, wire
from bigm.rpc.wire import Decoder, Limits

ALL = {**streamwire.FROM_SERVER, **streamwire.FROM_CLIENT}
LIMITS = Limits()
IDS = st.integers(0, 2**64 - 1)
SEGMENTS = st.lists(st.binary(max_size=300), min_size=1, max_size=6)
STREAMS = st.integers(0, 65535)
NAMES = st.text(min_size=1, max_size=40)
TIMEOUTS = st.floats(min_value=0, allow_nan=False)


def decoder(limits: Limits = LIMITS, accepts: Any = ALL) -> Decoder:
    return Decoder(limits, accepts)


def joined(buffers: Any) -> bytes:
    return b"".join(bytes(buffer) for buffer in ([buffers] if isinstance(buffers, bytes) else buffers))


def plain(event: Any) -> Any:
    """An event with its segments as bytes, to be compared."""
    if hasattr(event, "segments"):
        return event._replace(segments=[bytes(segment) for segment in event.segments])
    return event


def decode(data: bytes, piece: int = 1 << 30, limits: Limits = LIMITS) -> list[Any]:
    events: list[Any] = []
    reader = decoder(limits)
    for start in range(0, len(data), piece):
        events += reader.feed(data[start : start + piece])
    assert not reader.partial
    return [plain(event) for event in events]


FRAMES = st.one_of(
    st.builds(
        lambda id, flags, name, timeout, segments: (
            wire.call(id, name, timeout, segments, flags=flags),
            wire.Call(id, flags, name, timeout, segments),
        ),
        IDS,
        st.sampled_from([0, wire.DIRECT]),
        NAMES,
        TIMEOUTS,
        SEGMENTS,
    ),
    st.builds(
        lambda id, load, s: (wire.reply(id, load, s), wire.Reply(id, load, s)), IDS, st.integers(0, 65535), SEGMENTS
    ),
    st.builds(
        lambda id, load, code, s: (wire.error(id, load, code, s), wire.Error(id, load, code, s)),
        IDS,
        st.integers(0, 65535),
        st.integers(0, 255),
        SEGMENTS,
    ),
    st.builds(lambda id, t, n: (wire.parked(id, 3, t, n), wire.Parked(id, 3, t, n)), IDS, IDS, IDS),
    st.builds(lambda id, token: (wire.fetch(id, token), wire.Fetch(id, token)), IDS, IDS),
    st.builds(lambda id: (wire.cancel(id), wire.Cancel(id)), IDS),
    st.builds(lambda last, text: (wire.goodbye(last, text), wire.Goodbye(last, text)), IDS, st.text(max_size=40)),
    st.builds(lambda id, s: (streamwire.opened(id, 3, s), streamwire.Opened(id, 3, s)), IDS, st.booleans()),
    st.builds(
        lambda id, n, how, s: (streamwire.items(id, n, how, s), streamwire.Items(id, n, how, s)),
        IDS,
        STREAMS,
        st.sampled_from([streamwire.BYTES, streamwire.ONE, streamwire.MANY]),
        SEGMENTS,
    ),
    st.builds(
        lambda id, n, size, s: (streamwire.credit(id, n, size, seekable=s), streamwire.Credit(id, n, size, s)),
        IDS,
        STREAMS,
        IDS,
        st.booleans(),
    ),
    st.builds(lambda id, n: (streamwire.end(id, n), streamwire.End(id, n, streamwire.CLEAN, [])), IDS, STREAMS),
    st.builds(
        lambda id, n, code, s: (streamwire.end(id, n, code, s), streamwire.End(id, n, code, s)),
        IDS,
        STREAMS,
        st.integers(1, 255),
        SEGMENTS,
    ),
    st.builds(lambda id, n: (streamwire.stop(id, n), streamwire.Stop(id, n)), IDS, STREAMS),
    st.builds(
        lambda name: (wire.hello(Limits(), name), wire.Hello(wire.VERSION, 8192, 64 << 30, name)), st.text(max_size=40)
    ),
)


@settings(max_examples=50)
@given(st.lists(FRAMES, max_size=5))
def test_frames_come_out_as_they_went_in_however_they_are_cut(frames: list[Any]) -> None:
    data = b"".join(joined(frame) for frame, _ in frames)
    expected = [event for _, event in frames]
    assert expected == decode(data)
    assert expected == decode(data, piece=1)
    assert expected == decode(data, piece=7)


@settings(max_examples=50)
@given(st.lists(FRAMES, min_size=1, max_size=3), st.data())
def test_a_truncated_stream_gives_a_prefix_of_its_events(frames: list[Any], data: Any) -> None:
    whole = b"".join(joined(frame) for frame, _ in frames)
    cut = data.draw(st.integers(0, len(whole)))
    events = [plain(event) for event in decoder().feed(whole[:cut])]
    assert [event for _, event in frames][: len(events)] == events
    assert cut < len(whole) or len(events) == len(frames)


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_random_bytes_give_events_or_a_documented_error(data: bytes) -> None:
    try:
        decoder(Limits(payload=1 << 20)).feed(data)
    except (ProtocolError, PayloadTooLarge):
        pass


@given(FRAMES, st.data())
@settings(max_examples=100)
def test_a_flipped_byte_gives_events_or_a_documented_error(frame: Any, data: Any) -> None:
    raw = bytearray(joined(frame[0]))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decoder(Limits(payload=1 << 20)).feed(bytes(raw))
    except (ProtocolError, PayloadTooLarge):
        pass


@pytest.mark.parametrize("piece", [1000, 65536, 1 << 30])
@pytest.mark.parametrize("size", [wire.BULK - 1, wire.BULK, wire.BULK + 1, 3 * wire.CHUNK + 5])
def test_a_big_payload_is_received_into_memory_of_its_own(size: int, piece: int) -> None:
    big = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    data = joined(wire.reply(1, 0, [b"first", big, b"", b"last"])) + joined(wire.reply(2, 0, [b"next"]))
    assert [wire.Reply(1, 0, [b"first", big, b"", b"last"]), wire.Reply(2, 0, [b"next"])] == decode(data, piece)


def test_out_of_band_segments_can_be_written_to() -> None:
    for size in (10, wire.BULK + 1):
        (event,) = decoder().feed(joined(wire.reply(1, 0, [b"pickle", bytes(size)])))
        memoryview(event.segments[1])[0] = 1  # type: ignore[union-attr]  # a Reply


def test_many_small_frames_in_one_piece_larger_than_the_buffer_all_come_out() -> None:
    frames = [wire.Reply(i, 0, [bytes(1000)]) for i in range(1000)]
    data = b"".join(joined(wire.reply(frame.id, 0, frame.segments)) for frame in frames)
    assert frames == decode(data)


def test_a_big_segment_is_not_copied_for_sending() -> None:
    big = bytes(1 << 20)
    assert any(part is big for part in wire.reply(1, 0, [b"x", big]))


def test_a_small_frame_is_one_buffer_for_one_write() -> None:
    assert len(wire.call(1, "S.f", 1.0, [b"x"])) == 1
    assert len(wire.reply(1, 0, [b"x"])) == 1


HEAD = struct.Struct("!BBHIQ")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "a frame of type 71"),
        (HEAD.pack(99, 0, 0, 0, 1), "a frame of type 99"),
        (HEAD.pack(wire.CALL, 0, 0, wire.MAX_HEADER + 1, 1), f"at most {wire.MAX_HEADER}"),
        (HEAD.pack(wire.CALL, 0, 0, 3, 1) + b"abc", "malformed header"),
        (HEAD.pack(wire.CALL, 0, 0, 12, 1) + struct.pack("!dHH", 1.0, 0, 2000), "at most 1024"),
        (HEAD.pack(wire.CALL, 0, 0, 12, 1) + struct.pack("!dHH", 1.0, 5, 0), "does not add up"),
        (joined(wire.call(1, "S.f", math.nan, [b"x"])), "not a number"),
        (HEAD.pack(wire.HELLO, 0, 0, 18, 1) + struct.pack("!4sHIQ", b"HTTP", 1, 1, 1), "begins with b'HTTP'"),
        (HEAD.pack(wire.HELLO, 0, 0, 18, 1) + struct.pack("!4sHIQ", b"bigm", 7, 1, 1), "speaks version 7"),
        (HEAD.pack(wire.REPLY, 0, 0, 2, 1) + b"\0\0", "does not add up"),
        (HEAD.pack(wire.CANCEL, 0, 0, 2, 1) + b"\0\0", "does not add up"),
        (HEAD.pack(streamwire.ITEMS, 0, 0, 5, 1) + struct.pack("!HBH", 0, 0, 0), "does not add up"),
        (HEAD.pack(streamwire.ITEMS, 0, 0, 13, 1) + struct.pack("!HBHQ", 0, 9, 1, 0), "does not add up"),
        (HEAD.pack(streamwire.END, 0, 0, 5, 1) + struct.pack("!HBH", 0, 16, 0), "does not add up"),
        (HEAD.pack(streamwire.STOP, 0, 0, 3, 1) + b"abc", "malformed header"),
    ],
)
def test_what_is_not_the_protocol_is_named(data: bytes, error: str) -> None:
    with pytest.raises(ProtocolError, match=error):
        decoder().feed(data)


def test_a_payload_above_the_limit_is_refused_before_memory_is_taken() -> None:
    def allocate(size: int) -> bytearray:
        raise AssertionError("memory was taken")

    data = joined(wire.reply(1, 0, [b"x", bytes(2000)]))
    with pytest.raises(PayloadTooLarge, match="at most 1000"):
        Decoder(Limits(payload=1000), ALL, allocate).feed(data)


def test_each_side_accepts_only_the_frames_of_the_other() -> None:
    with pytest.raises(ProtocolError, match="not allowed here"):
        decoder(accepts=wire.FROM_CLIENT).feed(joined(wire.reply(1, 0, [b"x"])))


def test_a_method_name_above_the_limit_cannot_be_sent() -> None:
    with pytest.raises(ProtocolError, match="at most 1024"):
        wire.call(1, "x" * 1025, 1.0, [b""])


def test_the_longest_small_frame_fits_the_common_buffer() -> None:
    assert wire.HEAD_SIZE + wire.MAX_HEADER + wire.BULK <= wire.CHUNK
    assert 12 + wire.MAX_METHOD + 8 * wire.MAX_SEGMENTS <= wire.MAX_HEADER
