"""The ways to call a machine: a result, a future, an awaitable, a stream, a file; by name or through a typed handle.

What they go to, a machine's worker, is chosen in `bigm.peer`. This module travels: standard library alone.

Source: bigmachine machine.go (Call, RetryCall).
"""

from __future__ import annotations

import abc
import concurrent.futures
import difflib
import functools
import io
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Optional, TypeVar

from bigm.errors import (
    BigmError,
    CallError,
    ConfigError,
    MayHaveRun,
    NoSuchMethod,
    Unreachable,
    WorkerDied,
)
from bigm.groups import gather
from bigm.rpc import interrupts
from bigm.rpc.calls import notify_cancelled, wait_done
from bigm.rpc.client import Client
from bigm.timeouts import Timeouts

if TYPE_CHECKING:
    from bigm.rpc.streams import Stream

T = TypeVar("T")

_RUN = "Functions.run"
_RETRY_FIRST = 0.05  # seconds before the first further attempt of retry_call; doubled from there
_RETRY_MOST = 5.0


class Calls(abc.ABC):
    """The ways to call a machine, with the options that these calls carry. See `Peer`."""

    _timeout: Optional[float] = None
    _idempotent: bool = False

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a service's method and wait for what it returns.

        Args:
            method: "Service.method".
            args: the method's own arguments, as are *kwargs*; all are pickled.
        Returns:
            what the method returned, pickled there and rebuilt here.
        Raises:
            Exception: the method's own, as itself, with the remote traceback as its `__cause__`.
            ServiceError: the method's own, when it cannot be rebuilt here.
            CallError: the call was refused before the method started; fix the call.
            Unreachable: certainly did not start; trying again can help, as `retry_call` does.
            MayHaveRun: the connection was lost while it ran; only the caller knows whether trying again is safe.
            DeadlineExceeded: the timeout passed; may have run.
            MachineStopped: the machine ended, with its cause; may have run.
        """
        if not isinstance(method, str):
            raise _no_name("call", method)
        client, timeout = self._route(self._timeout)
        return client.call(method, args, kwargs, timeout=timeout, idempotent=self._idempotent)

    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """The same without waiting: a future, whose `cancel` reaches the machine."""
        if not isinstance(method, str):
            raise _no_name("submit", method)
        opened = self._opened()
        if not opened.done():
            return _Deferred(opened, functools.partial(self.submit, method, *args, **kwargs), self._where())
        client, timeout = self._route(self._timeout)
        return client.submit(method, args, kwargs, timeout=timeout, idempotent=self._idempotent)

    async def acall(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """The same for `await`; cancelling the task reaches the machine."""
        if not isinstance(method, str):
            raise _no_name("acall", method)
        await self._aopened()
        client, timeout = self._route(self._timeout)
        return await client.acall(method, args, kwargs, timeout=timeout, idempotent=self._idempotent)

    def stream(self, method: str, /, *args: Any, **kwargs: Any) -> Stream:
        """Call a method that returns an iterator; its items come one by one, each as soon as it is there.

        `call` gives the same where the method streams; this spares it a round trip, and wants a stream. Of what has
        not been read at most 4 MiB and one item more are in memory, here and there together. The timeout is the
        whole stream's.

        Args:
            method: as for `call`, as are the others.
        Returns:
            a `Stream`, for `for` and for `async for`; letting go of it, or leaving its `with` block, ends the method.
        Raises:
            CallError: the method returned no iterator; it has run.
            Exception: as for `call`, here or from the iteration, behind the items before it.
        """
        if not isinstance(method, str):
            raise _no_name("stream", method)
        client, timeout = self._route(self._timeout)
        result = client.call(method, args, kwargs, timeout=timeout, idempotent=self._idempotent, direct=True)
        return _as_stream(method, result)

    def astream(self, method: str, /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """The same for `async for`: the method is called when the first item is asked for."""
        if not isinstance(method, str):
            raise _no_name("astream", method)
        return _LaterStream(functools.partial(self._astream, method, args, kwargs))

    async def _astream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Stream:
        await self._aopened()
        client, timeout = self._route(self._timeout)
        result = await client.acall(method, args, kwargs, timeout=timeout, idempotent=self._idempotent, direct=True)
        return _as_stream(method, result)

    def read(self, method: str, /, *args: Any, **kwargs: Any) -> io.RawIOBase:
        """Call a method that yields bytes or returns a binary file; read these as a raw file.

        Put `io.BufferedReader` around it for lines and peeking. Where the method takes an `offset` (bytes from the
        beginning), the file is seekable, and a connection lost in the middle is survived: the method is called again
        from there on.

        Args:
            method: as for `call`, as are the others. An `offset` is given by keyword; given by position, it leaves
                nothing to call the method again with, and a lost connection is the end.
        Raises:
            CallError: the method returned no iterator, or one of something else than bytes.
            Exception: as for `call`, here or from reading.
        """
        if not isinstance(method, str):
            raise _no_name("read", method)
        from bigm.rpc.bytestreams import RemoteFile

        def open(offset: int) -> Stream:
            return self.stream(method, *args, **{**kwargs, "offset": offset})

        return RemoteFile(self.stream(method, *args, **kwargs), open, kwargs.get("offset", 0))

    def write(self, method: str, file: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method with a file, which it reads from a binary file of its own while this one is sent.

        Where the method takes an `offset` (bytes from the beginning; it must then write what it reads to there), a
        connection lost in the middle is survived: it is called again behind what it has certainly read, if *file* can
        go there.

        Args:
            method: as for `call`, as are the others; its first argument is the file, and an `offset` is given by
                keyword, as for `read`.
            file: a binary file, an iterator of bytes, or a function that makes one, called anew for each attempt.
        Returns:
            what the method returns.
        Raises:
            CallError: *file* is none of these.
            Exception: as for `call`.
        """
        if not isinstance(method, str):
            raise _no_name("write", method)
        from bigm.rpc.bytestreams import Upload, refuses_offset

        upload = Upload(file)
        lost: Optional[BigmError] = None
        while True:
            again = {"offset": kwargs.get("offset", 0) + upload.done} if upload.done else {}
            try:
                return self.call(method, upload, *args, **{**kwargs, **again})
            except (Unreachable, MayHaveRun) as error:
                if not upload.resume():
                    raise
                lost = error
            except TypeError as error:
                if again and lost is not None and refuses_offset(error):
                    raise lost from error
                raise

    def retry_call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call again, after growing pauses, as long as the call certainly did not start or is idempotent.

        Args:
            method: as for `call`, as are the others.
        Raises:
            Unreachable: the machine was not reached within the timeout (`Timeouts.retry` where none is given).
            Exception: anything else `call` raises, at once.
        """
        deadline = time.monotonic() + (self._timeouts().retry if self._timeout is None else self._timeout)
        pause = _RETRY_FIRST
        while True:
            try:
                return self.call(method, *args, **kwargs)
            except (Unreachable, WorkerDied) as error:
                if isinstance(error, WorkerDied) and not self._idempotent:
                    raise
                pause = min(pause * 2, _RETRY_MOST)
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))  # not all callers at the same moment

    def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Run a function there and wait for what it returns.

        `submit("Functions.run", function, ...)` gives a future, `acall("Functions.run", function, ...)` awaits. For
        many functions, or to let bigm choose the machine, see `Cluster.executor`.

        Args:
            function: any callable that pickles; a function goes by its import path, so that the machine's own is run.
            args: its own arguments, as are *kwargs*; all are pickled.
        Returns:
            what it returned, pickled there and rebuilt here.
        Raises:
            ConfigError: *function* cannot be called. The caller's fault.
            NotPicklable: *function* or an argument cannot be pickled, or cannot be rebuilt there; says which.
            Exception: the function's own, as itself, and all others that `call` raises.
        """
        if not callable(function):
            raise ConfigError(
                f"cannot run {function!r}, which is no function", hint="give the function itself, then its arguments"
            )
        result: T = self.call(_RUN, function, *args, **kwargs)
        return result

    def broadcast(self, method: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call the method on every worker of the machine at once; waits for all of them.

        Args:
            method: as for `call`, as are the others.
        Returns:
            what each returned, in the order of the workers.
        Raises:
            GroupError: one or more failed.
        """
        return gather(self._submit_each(method, args, kwargs))

    def service(self, name: str, cls: type[T]) -> T:
        """A handle on which *cls*'s public methods are called as if the service were local.

        `handle.sample(n)` calls, `handle.sample.submit(n)` gives a future, `await handle.sample.acall(n)` awaits, and
        `for x in handle.walk(n)` reads the stream of a generator method, as do `handle.walk.stream` and `.astream`.
        Type checkers see *cls* itself, which says nothing of the others; `submit("PI.sample", n)` is the same.

        Args:
            name: the service's name, as it was given to `Cluster.start`.
            cls: its class.
        """
        handle: T = _Handle(self, name, cls)  # type: ignore[assignment]  # that is the point of it
        return handle

    @abc.abstractmethod
    def _route(self, timeout: Optional[float]) -> tuple[Client, Optional[float]]:
        """The client to call by, and what is left of *timeout* once there is one."""

    @abc.abstractmethod
    def _route_all(self, timeout: Optional[float]) -> tuple[tuple[Client, ...], Optional[float]]:
        """The same for a client of each worker."""

    def _submit_each(
        self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> list[concurrent.futures.Future[Any]]:
        """One call to each worker, in their order. Waits until they can be called."""
        if not isinstance(method, str):
            raise _no_name("broadcast", method)
        clients, timeout = self._route_all(self._timeout)
        return [client.submit(method, args, kwargs, timeout=timeout, idempotent=self._idempotent) for client in clients]

    async def _aopened(self) -> None:
        while not (opened := self._opened()).done():
            import asyncio  # whoever awaits has it already; a worker's start must not pay for it

            await asyncio.shield(asyncio.wrap_future(opened))

    @abc.abstractmethod
    def _opened(self) -> concurrent.futures.Future[None]:
        """Done as soon as `_route` need not wait."""

    @abc.abstractmethod
    def _where(self) -> str:
        """Which machine is called."""

    @abc.abstractmethod
    def _timeouts(self) -> Timeouts:
        """Those of the cluster."""


class _Handle:
    """A service on a machine: its methods as attributes."""

    def __init__(self, calls: Calls, name: str, cls: type) -> None:
        self._calls = calls
        self._name = name
        self._cls = cls

    def __repr__(self) -> str:
        return f"<service {self._name} ({self._cls.__qualname__}) on {self._calls!r}>"

    def __reduce__(self) -> tuple[type[_Handle], tuple[Calls, str, type]]:
        return _Handle, (self._calls, self._name, self._cls)

    def __getattr__(self, method: str) -> _Method:
        function = getattr(self._cls, method, None)
        if method.startswith("_") or not callable(function):
            public = [name for name in dir(self._cls) if name[0] != "_" and callable(getattr(self._cls, name, None))]
            near = difflib.get_close_matches(method, public, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(public) or 'none'}"
            error = NoSuchMethod(f"service {self._name} ({self._cls.__qualname__}) has no method {method!r}", hint=hint)
            raise AttributeError(str(error)) from error  # what hasattr and friends expect
        found = _Method(self._calls, f"{self._name}.{method}", function)
        setattr(self, method, found)  # the next use finds it without coming here
        return found


class _Method:
    """One method of a service on a machine."""

    def __init__(self, calls: Calls, name: str, function: Callable[..., Any]) -> None:
        self._calls = calls
        self._name = name
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    def __repr__(self) -> str:
        return f"<method {self._name} on {self._calls!r}>"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._calls.call(self._name, *args, **kwargs)

    def submit(self, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        return self._calls.submit(self._name, *args, **kwargs)

    def acall(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return self._calls.acall(self._name, *args, **kwargs)

    def stream(self, /, *args: Any, **kwargs: Any) -> Stream:
        return self._calls.stream(self._name, *args, **kwargs)

    def astream(self, /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        return self._calls.astream(self._name, *args, **kwargs)


def _no_name(way: str, method: object) -> CallError:
    """The error of a call by something else than a name."""
    given = getattr(method, "__qualname__", None)
    if isinstance(method, _Method):
        what, hint = repr(method), f'call it as it is, or by its name: {way}("{method._name}", ...)'
    elif given is not None and callable(method):
        what = f"the function {given}"
        run = "run(" if way == "call" else f'{way}("{_RUN}", '
        hint = f"give the name under which cluster.start has the service; to run a function: machine.{run}{given}, ...)"
    else:
        what, hint = f"{method!r:.200}", "give the name under which cluster.start has the service, a dot, the method's"
    return CallError(f'{way} takes "Service.method", not {what}', hint=hint)


def _as_stream(method: str, result: Any) -> Stream:
    if hasattr(result, "next_bytes"):  # its class is not imported where nothing was streamed
        stream: Stream = result
        return stream
    raise CallError(
        f"{method} returned {type(result).__name__}, which is no stream",
        hint="stream and read want a method that returns an iterator; call takes any",
    )


class _LaterStream:
    """A stream that a coroutine is about to open."""

    def __init__(self, open: Callable[[], Coroutine[Any, Any, Stream]]) -> None:
        self._open = open
        self._stream: Optional[Stream] = None

    def __aiter__(self) -> _LaterStream:
        return self

    async def __anext__(self) -> Any:
        if self._stream is None:
            self._stream = await self._open()
        return await self._stream.__anext__()

    async def aclose(self) -> None:
        if self._stream is not None:
            self._stream.close()


class _Deferred(concurrent.futures.Future[Any]):
    """The future of a call that waits for its machine: once that can be called, it becomes the call's own future."""

    def __init__(
        self, opened: concurrent.futures.Future[None], submit: Callable[[], concurrent.futures.Future[Any]], where: str
    ) -> None:
        super().__init__()
        self.where = where
        self._unwanted = False
        self._inner: Optional[concurrent.futures.Future[Any]] = None
        self._submit = submit
        waiting = [
            self
        ]  # taken out when its time comes: a future holds its callbacks for ever, and this would its result
        opened.add_done_callback(lambda opened: waiting.pop()._start(opened))

    def cancel(self) -> bool:
        with self._condition:
            inner = self._inner
            if inner is None and not self.done():
                if not super().cancel():
                    self._unwanted = True  # it is being submitted this moment
                notify_cancelled(self)
                return True
        return super().cancel() if inner is None else inner.cancel()

    def result(self, timeout: Optional[float] = None) -> Any:
        with interrupts.deferred():
            try:
                wait_done(self, timeout)
            except KeyboardInterrupt:  # as for `call`: who interrupts the waiting wants no answer
                self.cancel()
                raise
        return super().result(0.0)

    def _start(self, opened: concurrent.futures.Future[None]) -> None:
        with self._condition:
            if self.cancelled() or not self.set_running_or_notify_cancel():
                return
        error = opened.exception()
        if error is not None:
            self.set_exception(error)
            return
        try:
            inner = self._submit()
            with self._condition:
                self._inner, unwanted = inner, self._unwanted
            if unwanted:
                inner.cancel()
        except Exception as failure:  # noqa: BLE001  # whatever pickling the arguments raises is the future's to tell
            self.set_exception(failure)
        else:
            inner.add_done_callback(self._finish)

    def _finish(self, inner: concurrent.futures.Future[Any]) -> None:
        if inner.cancelled():
            self.set_exception(concurrent.futures.CancelledError())
        elif inner.exception() is not None:
            self.set_exception(inner.exception())
        else:
            self.set_result(inner.result())
