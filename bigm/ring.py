"""A bounded log with absolute offsets: what is read by offset is never lost unseen and never repeated.

Every byte ever appended has an offset, whether it is still kept or not. Records go to segment files in a folder, the
oldest of which is removed when there are too many, and the newest also stay in memory, where a reader that keeps up
finds them. A disk that is full costs the older records, never the writer: from then on only memory is kept, and a
reader is told how many bytes it missed.

It is not a log format for people (`bigm.runs` writes that) and knows nothing of who writes or reads.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Optional

DISK_LIMIT = 64 << 20  # bytes of all segments together
MEMORY_LIMIT = 1 << 20  # bytes of the newest records kept in memory
_SEGMENTS = 8
_MAX_RECORDS = 4096  # of one read: a reply of many one-byte records would cost more than its bytes
_FRAME = struct.Struct("<QdcBI")  # offset, time, stream, length of source, length of data
_RECORD_COST = 200  # bytes of memory a record takes beside its data


class LogRecord(NamedTuple):
    """A piece of output, as it was read from a pipe: not necessarily whole lines.

    Args:
        offset: absolute offset of its first byte; the next record's is `offset + len(data)` unless bytes were dropped.
        time: wall clock at which it was read.
        source: "agent" or "w<proc>".
        stream: "o" (standard output) or "e" (standard error).
        data: the bytes, never empty.
    """

    offset: int
    time: float
    source: str
    stream: str
    data: bytes

    @property
    def end(self) -> int:
        """Offset behind its last byte."""
        return self.offset + len(self.data)


class Slice(NamedTuple):
    """What a read found.

    Args:
        records: oldest first; the first one is cut to begin at the asked offset.
        next_offset: offset to ask for next.
        dropped: bytes from the asked offset on that are no longer kept.
        end: offset behind the newest byte.
    """

    records: tuple[LogRecord, ...]
    next_offset: int
    dropped: int
    end: int


class _Segment:
    def __init__(self, fd: int, path: str, first: int) -> None:
        self.fd = fd
        self.path = path
        self.first = first  # offset of its first record
        self.size = 0  # bytes of the file that hold whole records


class Ring:
    """A log of one machine. Its methods may be called by any thread.

    Args:
        folder: where segment files go (they are removed by `close`); "" keeps memory only.
        disk_limit: bytes of segment files kept at most.
        memory_limit: bytes of records kept in memory at most.
    """

    def __init__(self, folder: str = "", *, disk_limit: int = DISK_LIMIT, memory_limit: int = MEMORY_LIMIT) -> None:
        self._folder = folder
        self._segment_limit = max(1, disk_limit // _SEGMENTS)
        self._memory_limit = memory_limit
        self._memory_used = 0
        self._recent: deque[LogRecord] = deque()
        self._segments: deque[_Segment] = deque()
        self._cursor = (0, 0, 0)  # of the last read from disk: offset, first of its segment, position
        self._end = 0
        self._lock = threading.Lock()
        self.disk_error = "" if folder else "kept in memory only"  # why segments are no longer written, or ""

    def __repr__(self) -> str:
        return f"<Ring end={self._end} segments={len(self._segments)} recent={len(self._recent)} {self.disk_error}>"

    @property
    def end(self) -> int:
        """Offset behind the newest byte."""
        return self._end

    def append(self, source: str, stream: str, data: bytes, time: float) -> int:
        """Keep *data* (not empty) and return the offset behind it. Never fails: see `disk_error`."""
        with self._lock:
            record = LogRecord(self._end, time, source, stream, data)
            self._end = record.end
            self._recent.append(record)
            self._memory_used += len(data) + _RECORD_COST
            if not self.disk_error:
                self._write(record)
            while self._memory_used > self._memory_limit and len(self._recent) > 1:
                self._memory_used -= len(self._recent.popleft().data) + _RECORD_COST
            return self._end

    def read(self, offset: int, limit: int) -> Slice:
        """Read from *offset* on: at least one record if there is any, and no further one beyond *limit* bytes."""
        with self._lock:
            offset = min(max(0, offset), self._end)
            found: list[LogRecord] = []
            room = limit
            for record in self._from(offset):
                if found and (len(record.data) > room or len(found) >= _MAX_RECORDS):
                    break
                found.append(record)
                room -= len(record.data)
            return self._slice(offset, found)

    def close(self) -> None:
        """Remove the segment files. Reading goes on from memory."""
        with self._lock:
            self.disk_error = "closed"
            while self._segments:
                self._drop_oldest()

    def _slice(self, offset: int, found: list[LogRecord]) -> Slice:
        if not found:
            return Slice((), offset, 0, self._end)
        first = found[0]
        if first.offset < offset:
            found[0] = first = first._replace(offset=offset, data=first.data[offset - first.offset :])
        # What the disk lost may also lie between two records of one read.
        kept = sum(len(record.data) for record in found)
        return Slice(tuple(found), found[-1].end, found[-1].end - offset - kept, self._end)

    def _write(self, record: LogRecord) -> None:
        source = record.source.encode("ascii")
        frame = _FRAME.pack(record.offset, record.time, record.stream.encode("ascii"), len(source), len(record.data))
        frame += source + record.data
        try:
            segment = self._segment(record.offset)
            written = os.pwrite(segment.fd, frame, segment.size)
            while written < len(frame):  # a disk that has just become full takes a part, then refuses the rest
                written += os.pwrite(segment.fd, frame[written:], segment.size + written)
            segment.size += len(frame)
        except OSError as error:
            self.disk_error = f"{error.strerror or error} ({self._folder})"

    def _segment(self, offset: int) -> _Segment:
        if self._segments and self._segments[-1].size < self._segment_limit:
            return self._segments[-1]
        path = os.path.join(self._folder, f"log.{offset:016d}")
        segment = _Segment(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), path, offset)
        self._segments.append(segment)
        if len(self._segments) > _SEGMENTS:
            self._drop_oldest()
        return segment

    def _drop_oldest(self) -> None:
        segment = self._segments.popleft()
        os.close(segment.fd)
        try:
            os.unlink(segment.path)
        except OSError:
            pass  # somebody cleaned up before us

    def _from(self, offset: int) -> Iterator[LogRecord]:
        """Records that end behind *offset*, oldest first."""
        if self._recent and offset < self._recent[0].offset:
            for record in self._on_disk(offset):
                offset = record.end
                yield record
        newer: deque[LogRecord] = deque()
        for record in reversed(self._recent):  # from the new end: a reader that keeps up has few to look at
            if record.end <= offset:
                break
            newer.appendleft(record)
        yield from newer

    def _on_disk(self, offset: int) -> Iterator[LogRecord]:
        for number, segment in enumerate(self._segments):
            newest = number + 1 == len(self._segments)
            if not newest and self._segments[number + 1].first <= offset:
                continue
            position = self._cursor[2] if self._cursor[:2] == (offset, segment.first) else 0
            while position < segment.size:
                record, after = _unpack(segment.fd, position)
                if record is None:
                    return
                if record.end > offset:
                    self._cursor = (record.offset, segment.first, position)  # here the next read begins if this stops
                    yield record
                position = after


def _unpack(fd: int, position: int) -> tuple[Optional[LogRecord], int]:
    head = os.pread(fd, _FRAME.size, position)
    if len(head) < _FRAME.size:
        return None, position
    offset, time, stream, source_size, data_size = _FRAME.unpack(head)
    body = os.pread(fd, source_size + data_size, position + _FRAME.size)
    if len(body) < source_size + data_size:
        return None, position
    source = body[:source_size].decode("ascii")
    record = LogRecord(offset, time, source, stream.decode("ascii"), body[source_size:])
    return record, position + _FRAME.size + len(body)
