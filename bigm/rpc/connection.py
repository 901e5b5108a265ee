"""One TLS connection: frames in and out, never blocking but where a caller says so. The same for both sides.

Theory of operation. OpenSSL's objects are not made for two threads at once, and a thread that waits inside one keeps
every other out. So OpenSSL never sees the socket here: ciphertext goes through two memory buffers, each SSL_read and
SSL_write is a piece of computing under a lock, and all waiting happens outside, on the socket. (It is also faster than
`ssl.SSLSocket`, which makes two system calls for each record of 16 KiB that it reads.)

* At any time at most one thread reads: its owner (see `client` and `server`) hands that role on.
* At any time at most one thread writes. Who finds nobody writing becomes the writer, and stays it until all that was
  queued meanwhile is gone or the socket is full; then `on_blocked` is called, which sees to it that `resume` is called
  when there is room again. What has queued up is encrypted and sent together: that is the coalescing.
* An error while writing says nothing by itself. What the other side said before it went (a GOODBYE) can still be read,
  so the reader finds the end.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Callable, Optional

from bigm.rpc.wire import CHUNK, Buffer, Decoder, Event

_DONTWAIT = socket.MSG_DONTWAIT
_SMALL_READ = 64 * 1024  # bytes; what is received at once when no big payload is on its way
_STINT = 1 << 20  # bytes; a writer that does not wait looks after others when it has written as much
_FOREVER = float("inf")
_UNINTERRUPTED = nullcontext(_FOREVER)
_JOIN = 64 * 1024  # bytes; small frames are joined up to this size and encrypted together


class Lost(Exception):
    """The connection ended. Never leaves this package."""


class Connection:
    """A TLS connection over a connected socket.

    Args:
        sock: the connected socket, which now belongs to the connection.
        context: the TLS context.
        decoder: the protocol's receiving half.
        server_name: the TLS server name to ask for; None on the accepting side.
        on_blocked: called by a writer when the socket is full; must arrange for `resume`.
        window: entered to wait for the socket; gives the longest time for that, in seconds. A client's is
            `interrupts.waiting`; a server's threads are never the one that Ctrl-C interrupts.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        decoder: Decoder,
        *,
        server_name: Optional[str] = None,
        on_blocked: Callable[[], None],
        window: Callable[[], AbstractContextManager[float]] = lambda: _UNINTERRUPTED,
    ) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(None)  # each operation says by itself that it will not wait
        self.sock = sock
        self.fd = sock.fileno()
        self.decoder = decoder
        self.bytes_in = 0
        self._on_blocked = on_blocked
        self._window = window
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )
        self._tls_lock = threading.Lock()
        self._out_lock = threading.Lock()
        self._out: deque[Buffer] = deque()
        self._writing = False
        self._ending = False
        self._cipher: Optional[Buffer] = None  # encrypted and not sent; belongs to the writer
        self._cipher_plain = 0
        self._enqueued = 0
        self._offered = 0  # bytes that the socket may have taken: counted before it is asked, for whoever finds it lost
        self._sent = 0
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def __repr__(self) -> str:
        return f"<Connection fd {self.fd}, {self.queued} bytes to send, {self.decoder!r}>"

    @property
    def queued(self) -> int:
        """Bytes that were given to `send` and are not in the kernel's hands."""
        return self._enqueued - self._sent

    @property
    def enqueued(self) -> int:
        """Bytes that were ever given to `send`."""
        return self._enqueued

    @property
    def sent(self) -> int:
        """Bytes of those that the socket was given, or is just now: the other side has not seen more than these."""
        return self._offered

    # The handshake.

    def handshake_step(self) -> bool:
        """Go on with the handshake with what has arrived; whether it is done.

        Raises:
            Lost: the other side went.
            ssl.SSLError: it does not speak TLS, or a certificate is not accepted.
        """
        try:
            data = self.sock.recv(_SMALL_READ, _DONTWAIT)
            if not data:
                raise Lost("the connection was closed during the handshake")
            self._incoming.write(data)
        except BlockingIOError:
            pass
        try:
            self.tls.do_handshake()
            return True
        except ssl.SSLWantReadError:
            return False
        finally:
            self._flush_handshake()

    def handshake(self, deadline: float) -> None:
        """The whole handshake, waiting for the other side until *deadline* (monotonic, inf: without end).

        Raises:
            TimeoutError: the deadline passed.
            Lost, ssl.SSLError, OSError: as `handshake_step`.
        """
        while not self.handshake_step():
            if not self.wait_readable(deadline):
                raise TimeoutError("no answer to the TLS handshake")

    def _flush_handshake(self) -> None:
        data = self._outgoing.read()
        if data:
            try:
                self.sock.sendall(data)  # a few KiB at most, into an empty socket buffer
            except (BrokenPipeError, ConnectionResetError):
                pass  # what the other side said before it went is still to be read

    # Receiving: one thread at a time.

    def wait_readable(self, deadline: float) -> bool:
        """Wait until there is something to read; False when *deadline* passed first. Ctrl-C is let through here."""
        while True:
            left = _FOREVER if deadline == _FOREVER else max(0.0, deadline - time.monotonic())
            with self._window() as most:
                patience = min(left, most)
                if self._poll.poll(None if patience == _FOREVER else patience * 1000):
                    return True
            if patience == left:
                return False

    def read(self) -> list[Event]:
        """What has arrived, without waiting.

        Raises:
            Lost: the other side went, or this side was shut down.
            ProtocolError, PayloadTooLarge: as `Decoder.received`.
        """
        try:
            data = self.sock.recv(CHUNK if self.decoder.receiving_bulk else _SMALL_READ, _DONTWAIT)
        except BlockingIOError:
            return []
        except OSError as e:
            raise Lost(e.strerror or str(e)) from e
        if not data:
            raise Lost("the connection ended without a goodbye")
        self._incoming.write(data)
        return self.decrypt()

    def decrypt(self) -> list[Event]:
        """Events of what was received already; `read` does this, but what came with the handshake needs it once."""
        events: list[Event] = []
        decoder, tls, incoming = self.decoder, self.tls, self._incoming
        try:
            while True:
                room = decoder.buffer()
                with self._tls_lock:
                    size: int = tls.read(len(room), room)  # type: ignore[assignment]  # bytes, says typeshed
                if not size:
                    raise Lost("the other side ended the TLS session")
                self.bytes_in += size
                events += decoder.received(size)
                if not incoming.pending and not tls.pending():
                    return events
        except ssl.SSLWantReadError:
            return events
        except ssl.SSLError as e:
            raise Lost(f"TLS failed: {e.reason or e}") from e

    def discard(self) -> None:
        """Read and throw away, so that a reset does not overtake our goodbye. Raises Lost at the end."""
        try:
            if not self.sock.recv(_SMALL_READ, _DONTWAIT):
                raise Lost("the connection ended")
        except BlockingIOError:
            pass
        except OSError as e:
            raise Lost(str(e)) from e

    # Sending: any thread.

    def enqueue(self, buffers: Sequence[Buffer]) -> int:
        """Queue a frame for whoever writes next; the position after it, to be compared with `sent`."""
        with self._out_lock:
            self._out.extend(buffers)
            for buffer in buffers:
                self._enqueued += len(buffer)
            return self._enqueued

    def send(self, buffers: Sequence[Buffer]) -> int:
        """Send a frame now as far as the socket takes it, the rest later; the position after it as in `enqueue`."""
        if len(buffers) == 1:
            with self._out_lock:
                alone = not self._writing and not self._out
                if alone:  # the usual case: nothing to join, nothing to wait for
                    self._writing = True
                    self._enqueued += len(buffers[0])
                    position = self._enqueued
            if alone:
                self._encrypt(buffers[0])
                if not self._write():
                    self._on_blocked()
                return position
        position = self.enqueue(buffers)
        self.flush()
        return position

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        if self._begin_writing() and not self._write():
            self._on_blocked()

    def send_waiting(self, buffers: Sequence[Buffer], deadline: float, stall: float = _FOREVER) -> bool:
        """Send a frame and wait until it is gone.

        Args:
            deadline: monotonic, or inf.
            stall: seconds within which the other side must take some of it.
        Returns:
            False when one of the two ran out first; the rest is sent later.
        """
        position = self.enqueue(buffers)
        if not self._begin_writing():
            return True  # another thread writes, and will write this too
        done = False
        try:
            while not done:
                done = self._write()
                if self._sent >= position:
                    break
                if not done and not self._wait_writable(min(deadline, time.monotonic() + stall)):
                    return False
            return True
        finally:
            if not done:
                self._on_blocked()

    def resume(self) -> bool:
        """Go on after `on_blocked`; whether all is gone. Only whom `on_blocked` told may call this."""
        return self._write()

    def _begin_writing(self) -> bool:
        with self._out_lock:
            if self._writing or not self._out:
                return False
            self._writing = True
            return True

    def _write(self) -> bool:
        """The writer's loop; True when nothing is left (then nobody writes any more), False when the socket is full.

        Also False after a while of writing, so that nobody is kept by what others queue.
        """
        end = self._sent + _STINT
        while True:
            if self._cipher is not None and not self._send_cipher():
                return False
            if self._sent > end:
                return False
            with self._out_lock:
                if not self._out:
                    self._writing = False
                    if self._ending:
                        self._end_sending()
                    return True
                plain = self._take()
            self._encrypt(plain)

    def _send_cipher(self) -> bool:
        cipher = self._cipher
        assert cipher is not None
        while len(cipher):
            try:
                sent = self.sock.send(cipher, _DONTWAIT)
                if sent == len(cipher):
                    self._sent += self._cipher_plain
                    break
                cipher = memoryview(cipher)[sent:]
            except BlockingIOError:
                self._cipher = cipher
                return False
            except OSError:  # the other side is gone: the reader will find out, and why
                break
        self._cipher = None
        return True

    def _take(self) -> Buffer:
        """Take from the queue what to encrypt next: small buffers together, of big ones a piece."""
        first = self._out.popleft()
        if len(first) > CHUNK:
            view = memoryview(first)
            self._out.appendleft(view[CHUNK:])
            return view[:CHUNK]
        if not self._out or len(first) >= _JOIN:
            return first
        batch, size = [first], len(first)
        while self._out and size + len(self._out[0]) <= _JOIN:
            batch.append(self._out.popleft())
            size += len(batch[-1])
        return b"".join(batch)

    def _encrypt(self, plain: Buffer) -> None:
        tls, size, done = self.tls, len(plain), 0
        self._cipher_plain = size
        self._offered += size
        try:
            with self._tls_lock:
                done = tls.write(plain)
            while done < size:
                with self._tls_lock:
                    done += tls.write(memoryview(plain)[done:])
        except ssl.SSLError:  # the session is over: as for an OSError above
            pass
        self._cipher = self._outgoing.read()

    def _wait_writable(self, deadline: float) -> bool:
        poll = select.poll()
        try:
            poll.register(self.sock, select.POLLOUT)
        except ValueError:  # its reader has closed it: the next attempt to send will find that too
            return True
        timeout = None if deadline == _FOREVER else max(0.0, deadline - time.monotonic()) * 1000
        with self._window():
            return bool(poll.poll(timeout))

    # The end.

    def shutdown(self) -> None:
        """End both directions at once; whoever waits in this connection wakes up. Any thread."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it was not connected any more
            pass

    def end_sending(self) -> None:
        """Say that nothing more will come, after what is queued. Any thread."""
        with self._out_lock:
            self._ending = True
            if not self._writing and not self._out:
                self._end_sending()

    def _end_sending(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        """Let go of the socket. Only by its reader, or when there is none; a writer that waits wakes up."""
        self.shutdown()
        self.sock.close()

    def disown(self) -> None:
        """In a forked child: let go of the descriptor only; the connection is the parent's."""
        self.sock.close()


def describe_tls_failure(error: ssl.SSLError) -> str:
    """An SSLError's reason in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()
