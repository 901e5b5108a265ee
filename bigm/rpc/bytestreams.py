"""Streams of bytes as files: what a method gets for a file among its arguments, and `read` and `write` of a machine.

A stream of bytes whose method takes an `offset` can be opened again where it broke: a lost connection is then not the
end of it, and reading can begin anywhere (`seek`).
"""

from __future__ import annotations

import io
from collections import deque
from typing import Any, Callable, Optional

from bigm.errors import CallError, MayHaveRun, Unreachable
from bigm.rpc.iterables import is_binary_file
from bigm.rpc.sources import streamed
from bigm.rpc.streams import Stream
from bigm.rpc.wire import Buffer

ATTEMPTS = 5  # times in a row that a broken stream is opened again without a byte of progress
_LET_GO = 10.0  # seconds for the sender of a failed attempt to notice that nobody reads any more
_LATE = 2  # frames that a method must have asked beyond before one counts as taken: its file reads ahead


class StreamReader(io.RawIOBase):
    """A stream of bytes as a raw file.

    What counts as taken by the method is what it has certainly read, so that a sender who begins anew behind that
    leaves nothing out.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream
        self._rest = memoryview(b"")
        self._untold: deque[int] = deque()

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Some bytes into *buffer*; 0 at the end. Raises what `Stream.__next__` raises."""
        if self.closed:
            raise ValueError("read of a closed file")
        room = memoryview(buffer).cast("B")
        if not room:
            return 0
        while not self._rest:
            data = self._next()
            if data is None:
                return 0
            self._rest = memoryview(data)
        size = min(len(room), len(self._rest))
        room[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        """Read no more: the sender is told to stop."""
        self._stream.drop()  # the garbage collector closes files that nobody has any more
        super().close()

    def _next(self) -> Optional[Buffer]:
        data = self._stream.next_bytes(consume=False)
        self._untold.append(len(data) if data is not None else 0)
        while len(self._untold) > _LATE:
            self._stream.consumed(self._untold.popleft())
        return data


class RemoteFile(StreamReader):
    """The bytes that a method yields, as a raw file: what `read` of a machine gives.

    `io.BufferedReader` around it reads lines. Where the method takes an `offset` (bytes from the beginning) by keyword,
    a lost connection is survived and `seek` works.

    Args:
        stream: what the method yields.
        open: calls the method again, from an offset on.
        start: the offset of the first byte.
    """

    def __init__(self, stream: Stream, open: Callable[[int], Stream], start: int = 0) -> None:
        super().__init__(stream)
        self._open = open
        self._start = start
        self._position = 0

    def __repr__(self) -> str:
        return f"<RemoteFile at {self._position} of {self._stream!r}>"

    def seekable(self) -> bool:
        """Whether the method takes an `offset`."""
        return self._stream.seekable

    def tell(self) -> int:
        """Bytes from the beginning of what was opened."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go on reading elsewhere, counted from the beginning (0) or from here (1); the new position.

        Raises:
            io.UnsupportedOperation: the method takes no `offset`, or *whence* is the end, which nobody knows.
            ValueError: it is before the beginning.
        """
        if not self.seekable():
            raise io.UnsupportedOperation("the method takes no offset, so its stream cannot be opened in the middle")
        if whence not in (io.SEEK_SET, io.SEEK_CUR):
            raise io.UnsupportedOperation("where a stream ends is not known before it does")
        position = offset + (self._position if whence == io.SEEK_CUR else 0)
        if position < 0:
            raise ValueError(f"negative position {position}")
        if position != self._position:
            self._reopen(position)
        return position

    def readinto(self, buffer: Any, /) -> int:
        """As of StreamReader; a broken stream is opened again where it broke, if it can be."""
        attempts = 0
        while True:
            try:
                size = super().readinto(buffer)
                self._position += size
                return size
            except (Unreachable, MayHaveRun) as lost:
                attempts += 1
                if not self.seekable() or attempts > ATTEMPTS:
                    raise
                try:
                    self._reopen(self._position)
                except TypeError as error:
                    if refuses_offset(error):
                        raise lost from error
                    raise

    def _next(self) -> Optional[Buffer]:
        return self._stream.next_bytes()

    def _reopen(self, position: int) -> None:
        self._stream.close()
        self._rest = memoryview(b"")
        self._stream = self._open(self._start + position)
        self._position = position


def refuses_offset(error: TypeError) -> bool:
    """Whether the method could not be called with an `offset`: it was given by position already, or can only be.

    The names of its parameters are not known here, so nothing but the attempt shows it; then it has not begun.
    """
    return "'offset'" in str(error)


class Upload(streamed):
    """A file on its way into a method, which can begin anew behind what the method has taken.

    Args:
        file: a binary file, an iterator of bytes, or a function that returns one, called for each attempt.
    Raises:
        CallError: it is none of these.
    """

    binary = True
    again = False  # it is one file; see `resume`

    def __init__(self, file: Any) -> None:
        super().__init__(self._begin)
        self._file = file
        self._makes = callable(file) and not is_binary_file(file)
        self._seeks = not self._makes and is_binary_file(file) and file.seekable()
        self._origin = file.tell() if self._seeks else 0
        self.done = 0
        self._attempts = 0
        if not (self._makes or is_binary_file(file) or hasattr(type(file), "__next__")):
            raise CallError(
                f"write takes a binary file, an iterator of bytes or a function that returns one, not {file!r}"
            )

    def resume(self) -> bool:
        """Whether another attempt can begin where the method's reading ended; called after a failed one."""
        writer = self.writer
        if writer is None or not writer.seekable or not (self._seeks or self._makes):
            return False
        self._attempts = 0 if writer.taken else self._attempts + 1
        self.done += writer.taken
        return self._attempts < ATTEMPTS and self._has_let_go()

    def _has_let_go(self) -> bool:
        """Whether nobody reads the file any more: two who do would each get half of it."""
        sender, self.writer, self.sender = self.sender, None, None
        if sender is not None:
            sender.join(_LET_GO)
        return sender is None or not sender.is_alive()

    def _begin(self) -> Any:
        if self._seeks:
            self._file.seek(self._origin + self.done)
            return self._file
        made = self._file() if self._makes else self._file
        return _skip(made, self.done) if self.done else made


def _skip(made: Any, size: int) -> Any:
    """What follows the first *size* bytes of a file or an iterator of bytes."""
    if is_binary_file(made):
        while size and (piece := made.read(min(size, 1 << 20))):
            size -= len(piece)
        return made
    return _skipped(made, size)


def _skipped(made: Any, size: int) -> Any:
    for piece in made:
        if size < len(piece):
            yield piece[size:] if size else piece
            size = 0
        else:
            size -= len(piece)
