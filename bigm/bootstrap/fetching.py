"""Parts brought from another machine's store. Whatever comes is verified; whoever sends something else is given up."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Optional

from bigm.bootstrap.store import Store
from bigm.parts import PartError
from bigm.routes import connect, parse_address
from bigm.rpc.client import Client
from bigm.rpc.identity import MACHINE, Identity
from bigm.rpc.tls import Credentials

PIECE = 1 << 20  # bytes asked for at once: of a big part, or many small parts
_AHEAD = 3  # pieces asked for before the first of them is there
_DIAL = 10.0  # seconds at most for connecting and the handshake


class Source:
    """Another machine that may have parts. A context: closes its connections.

    Args:
        address: "locator/machine": where to dial and whom to expect there.
        credentials: who we are.
        stall: seconds that a piece may take.
    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, address: str, credentials: Credentials, stall: float) -> None:
        locator, machine = parse_address(address)
        self._name = machine
        self._stall = stall
        self._client = Client(
            lambda timeout: connect(locator, timeout),
            credentials,
            Identity(credentials.identity.cluster, MACHINE, machine),
            name=f"agent of {machine}",
            dial_timeout=min(_DIAL, stall),
        )

    def __repr__(self) -> str:
        return f"<Source {self._name}>"

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._client.close()

    def bring(self, store: Store, missing: Mapping[str, int]) -> None:
        """Bring what is missing and is there; goes on with what an earlier source has left unfinished.

        Args:
            store: where it is to be kept.
            missing: digests, each with the count of its bytes already received.
        Raises:
            PartError: what came is not what was asked for, or cannot be kept here.
            WireError: the other machine does not answer.
        """
        sizes: Mapping[str, int] = self._client.call(
            "Installer.sizes", (list(missing),), timeout=self._stall, idempotent=True
        )
        asked: deque[tuple[_Piece, Any]] = deque()
        for piece in _pieces(sizes, missing):
            asked.append((piece, self._ask(piece)))
            if len(asked) == _AHEAD:
                self._take(store, *asked.popleft())
        while asked:
            self._take(store, *asked.popleft())

    def _ask(self, piece: _Piece) -> Any:
        args: tuple[Any, ...] = (list(piece.digests),) if piece.whole else (piece.digests[0], piece.offset, PIECE)
        method = "Installer.get_many" if piece.whole else "Installer.get"
        return self._client.submit(method, args, timeout=self._stall, idempotent=True)

    def _take(self, store: Store, piece: _Piece, reply: Any) -> None:
        data: Any = reply.result()
        if piece.whole:
            for digest, each in zip(piece.digests, data):
                store.take(digest, each)
            return
        end = piece.offset + len(data)
        received = store.put(piece.digests[0], piece.offset, data, last=piece.last)
        if received < end or (piece.last and store.have(piece.digests)):
            raise PartError(f"part {piece.digests[0][:12]} ended at {received} bytes on {self._name}")


class _Piece:
    """What is asked for at once: some whole parts, or a piece of one."""

    __slots__ = ("digests", "last", "offset", "whole")

    def __init__(self, digests: Sequence[str], offset: int = 0, *, whole: bool = True, last: bool = True) -> None:
        self.digests = digests
        self.offset = offset
        self.whole = whole
        self.last = last


def _pieces(sizes: Mapping[str, int], received: Mapping[str, int]) -> Iterator[_Piece]:
    """Big parts piece by piece, small ones together, as they come."""
    small: list[str] = []
    room = PIECE
    for digest, size in sizes.items():
        if size > PIECE:
            for offset in range(received.get(digest, 0), size, PIECE):
                yield _Piece([digest], offset, whole=False, last=offset + PIECE >= size)
            continue
        if size > room:
            yield _Piece(small)
            small, room = [], PIECE
        small.append(digest)
        room -= size
    if small:
        yield _Piece(small)
