"""What is sent back over HTTP."""

from __future__ import annotations

from typing import NamedTuple


class Reply(NamedTuple):
    """What is sent back: an HTTP status, the type of the content, and the content."""

    status: int
    kind: str
    body: bytes
