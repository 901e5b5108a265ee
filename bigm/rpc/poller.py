"""Waiting for many connections at once: epoll where there is one, else what `selectors` offers.

Interest may be changed by any thread while one waits; that is the difference from `selectors` alone.
"""

from __future__ import annotations

import os
import select
import selectors
import threading

READ = select.POLLIN
WRITE = select.POLLOUT
_WAKE = b"\0"


class Poller:
    """Which of many descriptors can be read or written, and a way to wake who waits for that."""

    def __init__(self) -> None:
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        self._backend = _Epoll() if hasattr(select, "epoll") else _Selector()
        self._backend.set(self._wake_read, READ)
        self._woken = False
        self._closing = threading.Lock()
        self._closed = False

    def set(self, fd: int, interest: int) -> None:
        """Watch *fd* for READ, WRITE, both or (0) for nothing but its end."""
        if not self._closed:
            self._backend.set(fd, interest)

    def remove(self, fd: int) -> None:
        """Forget *fd*; before it is closed."""
        if not self._closed:
            self._backend.remove(fd)

    def wake(self) -> None:
        """Make the current or the next `wait` return at once. Any thread."""
        if self._woken or self._closed:
            return
        try:
            self._woken = True  # a byte is in the pipe, or about to be
            with self._closing:  # or the byte would go to whoever is given the descriptor next
                if not self._closed:
                    os.write(self._wake_write, _WAKE)
        except BlockingIOError:  # it is as awake as it can be
            pass
        except BaseException:  # Ctrl-C where it is not deferred: there may be no byte
            self._woken = False
            raise

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        """Descriptors and what they are ready for, after at most *timeout* seconds (negative: no limit)."""
        ready = self._backend.wait(timeout)
        for item in ready:
            if item[0] == self._wake_read:
                ready.remove(item)
                os.read(self._wake_read, 4096)
                self._woken = False  # after reading: a byte written between the two would be read, and the flag stay
                break
        return ready

    def close(self) -> None:
        """Let go of its own descriptors. By who waits, or when nobody does; then nothing else has an effect."""
        with self._closing:
            self._closed = True
            self._backend.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def disown(self) -> None:
        """In a forked child: as `close`, whatever other threads were doing when it was forked."""
        self._closing = threading.Lock()
        if not self._closed:  # else its descriptors are somebody else's by now
            self.close()


class _Epoll:
    def __init__(self) -> None:
        self._epoll = select.epoll()

    def set(self, fd: int, interest: int) -> None:
        try:
            self._epoll.modify(fd, interest)
        except FileNotFoundError:
            self._epoll.register(fd, interest)

    def remove(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except (FileNotFoundError, ValueError):
            pass

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        return self._epoll.poll(timeout)

    def close(self) -> None:
        self._epoll.close()


class _Selector:
    """kqueue and the like: no descriptor is watched for nothing, so that is kept as not being registered."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()

    def set(self, fd: int, interest: int) -> None:
        events = (selectors.EVENT_READ if interest & READ else 0) | (selectors.EVENT_WRITE if interest & WRITE else 0)
        with self._lock:
            known = fd in self._selector.get_map()
            if known and events:
                self._selector.modify(fd, events)
            elif known:
                self._selector.unregister(fd)
            elif events:
                self._selector.register(fd, events)

    def remove(self, fd: int) -> None:
        self.set(fd, 0)

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        ready = self._selector.select(timeout if timeout >= 0 else None)
        return [
            (key.fd, (READ if mask & selectors.EVENT_READ else 0) | (WRITE if mask & selectors.EVENT_WRITE else 0))
            for key, mask in ready
        ]

    def close(self) -> None:
        self._selector.close()
