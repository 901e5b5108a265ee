"""What a stream can be made of: iterators, asynchronous ones, binary files; told apart, and closed."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

from bigm.rpc.streams import Stream

PIECE = 256 * 1024  # bytes; what is read of a file at once

logger = logging.getLogger("bigm.rpc")


def is_async(value: Any) -> bool:
    """Whether *value* is iterated by `async for` only."""
    return hasattr(type(value), "__anext__") and not hasattr(type(value), "__next__")


def is_binary_file(value: Any) -> bool:
    """Whether *value* is a file of bytes: it is streamed in pieces, not by lines."""
    read = getattr(value, "read", None)
    if read is None or not callable(read) or isinstance(value, Stream):
        return False
    return "b" in mode if isinstance(mode := getattr(value, "mode", None), str) else hasattr(value, "readinto")


def pieces(file: Any) -> Iterator[bytes]:
    """The rest of a binary file."""
    while piece := file.read(PIECE):
        yield piece


def close_quietly(iterator: Any, method: str) -> None:
    """Close a generator or file that nobody reads any more; what its cleaning up raises is only logged."""
    close = getattr(iterator, "close", None)
    if callable(close):
        try:
            close()
        except BaseException:  # sys.exit too: whoever closes it has a call to see to its end
            logger.exception("%s: closing its stream failed", method)


async def aclose_quietly(iterator: AsyncIterator[Any], method: str) -> None:
    """The same for an asynchronous one."""
    close = getattr(iterator, "aclose", None)
    if callable(close):
        try:
            await close()
        except BaseException:  # as above
            logger.exception("%s: closing its stream failed", method)
