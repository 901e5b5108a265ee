"""The two sides of a connection, as the streams on it see them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, Optional, Union

from bigm.rpc import streamwire, wire
from bigm.rpc.calls import NEVER
from bigm.rpc.codec import Home
from bigm.rpc.streams import Incoming, Side
from bigm.rpc.writers import Writer

if TYPE_CHECKING:
    from bigm.rpc.caller import Caller
    from bigm.rpc.channel import Channel


class ClientSide(Side):
    """A client's."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    @property
    def home(self) -> Optional[Home]:
        return self._channel.client._home

    def enqueue(self, frames: Sequence[wire.Buffer]) -> None:
        self._channel.connection.enqueue(frames)

    def flush(self) -> None:
        if not self._channel.closed:
            self._channel.connection.flush()

    def send_waiting(self, frames: Sequence[wire.Buffer]) -> None:
        self._channel.connection.send_waiting(frames, NEVER)

    def soon(self, function: Callable[[], None]) -> None:
        self._channel._io.post(function)

    def wait(self, incoming: Incoming) -> None:
        self._channel.client._wait_stream(self._channel, incoming)

    def want(self, incoming: Incoming) -> None:
        incoming.needs_reader = True
        self._channel.want_reading()

    def abandon(self, incoming: Incoming) -> None:
        if self._channel.streams.pop((incoming.id, incoming.stream), None) is not None:
            self._channel.cancel(incoming.id)
            self._channel.rouse(incoming)

    def forget(self, stream: Union[Incoming, Writer]) -> None:
        self._channel.streams.pop((stream.id, stream.stream), None)


class ServerSide(Side):
    """A server's."""

    __slots__ = ("_peer",)

    def __init__(self, peer: Caller) -> None:
        self._peer = peer

    @property
    def home(self) -> Optional[Home]:
        return self._peer.server.home

    def enqueue(self, frames: Sequence[wire.Buffer]) -> None:
        self._peer.connection.enqueue(frames)

    def flush(self) -> None:
        if not self._peer.closed:
            self._peer.connection.flush()

    def send_waiting(self, frames: Sequence[wire.Buffer]) -> None:
        self._peer.server._send_big(self._peer, list(frames))

    def soon(self, function: Callable[[], None]) -> None:
        self._peer.server.soon(function)

    def wait(self, incoming: Incoming) -> None:
        if incoming.gate is None:
            incoming.gate = threading.Lock()
            incoming.gate.acquire()
            return  # whoever looked before there was a gate has left its mark: look again
        left = incoming.deadline - time.monotonic()
        incoming.gate.acquire(timeout=-1 if left == NEVER else max(0.0, min(left, 1e6)))

    def want(self, incoming: Incoming) -> None:
        pass  # a server always reads

    def abandon(self, incoming: Incoming) -> None:
        if self._peer.streams.pop((incoming.id, incoming.stream), None) is not None:
            self.enqueue([streamwire.stop(incoming.id, incoming.stream)])
            self.flush()

    def forget(self, stream: Union[Incoming, Writer]) -> None:
        self._peer.streams.pop((stream.id, stream.stream), None)
