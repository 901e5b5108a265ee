"""Calls in groups: wait for all of them, or for the first that succeeds.

A call in a group is a future that `submit` gave, or in coroutines whatever can be awaited: whoever makes the calls says
by their own means which machine, method and options each has. What fails is told together, as a `GroupError`.

This module travels: services gather calls to other machines. Therefore no backport of ExceptionGroup for Python 3.10:
it would not be there, and changes how the whole program prints tracebacks; what failed stands in the message too.
"""

from __future__ import annotations

import builtins
import concurrent.futures
import contextlib
import sys
import time
from collections.abc import Awaitable, Collection, Coroutine, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Optional, Protocol, TypeVar, Union

from bigm.errors import BigmError, ConfigError, DeadlineExceeded
from bigm.rpc import interrupts
from bigm.timeouts import check_timeout

if TYPE_CHECKING:
    import asyncio

Future = concurrent.futures.Future
_SHOWN = 5  # failures that a message tells; the others are counted

if sys.version_info >= (3, 11):
    _Group = builtins.ExceptionGroup
else:

    class _Group(Exception):
        """What of ExceptionGroup can be had before Python 3.11."""

        def __init__(self, message: str, exceptions: Sequence[Exception]) -> None:
            super().__init__(message, exceptions)
            self.exceptions = tuple(exceptions)


class GroupError(BigmError, _Group):
    """Calls of a group failed. Which of them may have run, and whether trying again helps, each failure says itself.

    From Python 3.11 on this is an ExceptionGroup: `except*` picks failures by type (`except* BigmError` takes them all,
    since the group is one), and tracebacks show every failure.

    Args:
        message: how many of how many failed, where, and of what.
        exceptions: the failures, in the order of the calls.
    Attributes:
        exceptions: the same.
    """

    def __new__(cls, message: str = "", exceptions: Sequence[Exception] = ()) -> GroupError:
        return _Group.__new__(cls, message, exceptions)  # BigmError has none of its own

    def __init__(self, message: str = "", exceptions: Sequence[Exception] = ()) -> None:
        _Group.__init__(self, message, exceptions)
        self.hint = ""
        codes = {getattr(error, "exit_code", 1) for error in exceptions}
        self.exit_code = codes.pop() if len(codes) == 1 else 1

    def derive(self, exceptions: Sequence[Exception]) -> GroupError:
        """The part of this group that `split` and `except*` take out."""
        return GroupError(self.message, exceptions)


class Groups:
    """The ways to wait for several calls: what a driver's cluster and the one that services see have in common."""

    def gather(
        self,
        calls: Iterable[Future[Any]],
        *others: NoReturn,
        timeout: Optional[float] = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Wait for all of *calls*.

        Args:
            calls: a list, or any iterable, of futures, as `submit` gives them.
            others: refused: all calls stand in one list.
            timeout: seconds for all of them together; None: no limit of its own.
            return_exceptions: a failure is no error of this, but stands in the place of its result.
        Returns:
            their results, in the order of the calls.
        Raises:
            GroupError: one or more failed. All the others have been waited for.
            DeadlineExceeded: the timeout passed; what was not answered by then is cancelled, and may have run.
            ConfigError: these are no calls, or the timeout is none.
        Example:
            counts = cluster.gather(machine.submit("Words.count") for machine in machines)
        """
        return gather(_one_list("gather", calls, others), timeout=timeout, return_exceptions=return_exceptions)

    async def agather(
        self, calls: Iterable[Union[Future[Any], Awaitable[Any]]], *others: NoReturn, return_exceptions: bool = False
    ) -> list[Any]:
        """The same for `await`, where *calls* may be coroutines too (`machine.acall(...)`); cancelling cancels all."""
        return await agather(_one_list("agather", calls, others), return_exceptions=return_exceptions)

    def first(self, calls: Iterable[Future[Any]], *others: NoReturn, timeout: Optional[float] = None) -> Any:
        """Wait for the first of *calls* that succeeds, and cancel the others on their machines.

        Args:
            calls: a list, or any iterable, of futures, as `submit` gives them; one or more.
            others: refused: all calls stand in one list.
            timeout: seconds; None: no limit of its own.
        Raises:
            GroupError: all of them failed.
            DeadlineExceeded: the timeout passed first; all calls are cancelled, and may have run.
            ConfigError: these are no calls, or the timeout is none.
        """
        return first(_one_list("first", calls, others), timeout=timeout)

    async def afirst(self, calls: Iterable[Union[Future[Any], Awaitable[Any]]], *others: NoReturn) -> Any:
        """The same for `await`, where *calls* may be coroutines too; cancelling cancels all."""
        return await afirst(_one_list("afirst", calls, others))


class Member(Protocol):
    """A machine, as far as a broadcast knows it."""

    def _submit_each(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Future[Any]]: ...

    def _opened(self) -> Future[None]: ...


M = TypeVar("M", bound=Member)


def gather(
    calls: Iterable[Future[Any]], *, timeout: Optional[float] = None, return_exceptions: bool = False
) -> list[Any]:
    """See `Groups.gather`."""
    check_timeout(timeout)
    waiting = _futures(calls)
    deadline = None if timeout is None else time.monotonic() + timeout
    with _cancelled_on_error(waiting):
        for call in waiting:
            if not _wait([call], deadline):
                raise _late(waiting, timeout)
    return _results(waiting, [_outcome(call) for call in waiting], return_exceptions)


async def agather(calls: Iterable[Union[Future[Any], Awaitable[Any]]], *, return_exceptions: bool = False) -> list[Any]:
    """See `Groups.agather`."""
    import asyncio  # whoever awaits has it already

    made, waiting = _awaitables(calls)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    return _results(made, [_no_base(outcome) for outcome in outcomes], return_exceptions)


def first(calls: Iterable[Future[Any]], *, timeout: Optional[float] = None) -> Any:
    """See `Groups.first`."""
    check_timeout(timeout)
    waiting = _some(_futures(calls))
    deadline = None if timeout is None else time.monotonic() + timeout
    pending = set(waiting)
    try:
        while pending:
            done = _wait(pending, deadline)
            if not done:
                raise _late(waiting, timeout)
            pending -= done
            for call in filter(done.__contains__, waiting):  # the one that was given first, of several at once
                if not call.cancelled() and call.exception() is None:
                    return call.result()
    finally:
        for call in waiting:
            call.cancel()
    raise _group_error(waiting, [_outcome(call) for call in waiting])


async def afirst(calls: Iterable[Union[Future[Any], Awaitable[Any]]]) -> Any:
    """See `Groups.afirst`."""
    import asyncio  # whoever awaits has it already

    made, waiting = _awaitables(calls)
    _some(waiting)
    pending = set(waiting)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for call in filter(done.__contains__, waiting):  # of several at once the one that was given first
                if not call.cancelled() and call.exception() is None:
                    return call.result()
    finally:
        for call in waiting:
            call.cancel()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    raise _group_error(made, [_no_base(outcome) for outcome in outcomes])


def broadcast(machines: Sequence[M], method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[M, list[Any]]:
    """Call a method on every worker of *machines*; see `bigm.cluster.Cluster.broadcast`."""
    calls = {machine: submit_each(machine, method, args, kwargs) for machine in machines}
    results = iter(gather(call for each in calls.values() for call in each))
    return {machine: [next(results) for _ in each] for machine, each in calls.items()}


async def abroadcast(
    machines: Sequence[M], method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[M, list[Any]]:
    """The same for `await`."""
    import asyncio  # whoever awaits has it already

    opened = (asyncio.shield(asyncio.wrap_future(machine._opened())) for machine in machines)
    await asyncio.gather(*opened, return_exceptions=True)  # so that nothing waits below
    calls = {machine: submit_each(machine, method, args, kwargs) for machine in machines}
    results = iter(await agather(call for each in calls.values() for call in each))
    return {machine: [next(results) for _ in each] for machine, each in calls.items()}


def submit_each(machine: Member, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Future[Any]]:
    """The calls to one machine's workers. One that cannot be called is a call that failed: others have answered."""
    try:
        return machine._submit_each(method, args, kwargs)
    except BigmError as error:
        failed: Future[Any] = concurrent.futures.Future()
        failed.where = getattr(machine, "id", "")  # type: ignore[attr-defined]  # as calls say it
        failed.set_exception(error)
        return [failed]


G = TypeVar("G", bound=Iterable[Any])


def _one_list(way: str, calls: G, others: Sequence[object]) -> G:
    """*calls*, if the calls of a group were given as one list."""
    if others or isinstance(calls, (str, bytes)) or not isinstance(calls, Iterable) or isinstance(calls, Awaitable):
        given = calls if not others else f"{1 + len(others)} arguments"
        for call in (calls, *others):
            if isinstance(call, Coroutine):
                call.close()  # else Python complains too, that nobody awaited it
            elif isinstance(call, concurrent.futures.Future):
                call.cancel()  # as where one of a list is none
        make = "acall" if way[0] == "a" else "submit"
        raise ConfigError(
            f"{way} takes one list of calls, not {given!s:.200}",
            hint=f"cluster.{way}([machine.{make}(...), machine.{make}(...)])",
        )
    return calls


def _futures(calls: Iterable[Future[Any]]) -> list[Future[Any]]:
    """*calls* as a list; should one of them not be made, those before it are cancelled."""
    made: list[Future[Any]] = []
    with _cancelled_on_error(made):
        for call in calls:
            if not isinstance(call, concurrent.futures.Future):
                raise _no_call(call, "the future of a call, as machine.submit(...) gives it")
            made.append(call)
    return made


def _awaitables(
    calls: Iterable[Union[Future[Any], Awaitable[Any]]],
) -> tuple[list[Any], list[asyncio.Future[Any]]]:
    """*calls* as they were given, and as futures of the running loop."""
    import asyncio  # whoever awaits has it already

    made: list[Any] = []
    waiting: list[asyncio.Future[Any]] = []
    with _cancelled_on_error(waiting):
        for call in calls:
            if isinstance(call, concurrent.futures.Future):
                waiting.append(asyncio.wrap_future(call))
            elif isinstance(call, Awaitable):
                waiting.append(asyncio.ensure_future(call))
            else:
                raise _no_call(call, "a coroutine or future of a call, as machine.acall(...) gives it")
            made.append(call)
    return made, waiting


def _no_call(given: object, wanted: str) -> ConfigError:
    return ConfigError(f"a group of calls cannot hold {given!r:.200}", hint=f"each must be {wanted}")


C = TypeVar("C", bound=Sequence[Any])


def _some(calls: C) -> C:
    if not calls:
        raise ConfigError("the first of no calls was asked for", hint="give one or more")
    return calls


@contextlib.contextmanager
def _cancelled_on_error(calls: Iterable[Any]) -> Iterator[None]:
    """Nobody waits for *calls* any more when an error, or Ctrl-C, leaves this block."""
    try:
        yield
    except BaseException:
        for call in calls:
            call.cancel()
        raise


def _wait(calls: Collection[Future[Any]], deadline: Optional[float]) -> set[Future[Any]]:
    """Wait until one of *calls* is done; none are when the deadline has passed.

    It wakes by itself now and then, because Python may lose a Ctrl-C for as long as the main thread waits.
    """
    while True:
        left = interrupts.WAKE if deadline is None else min(interrupts.WAKE, deadline - time.monotonic())
        done, _ = concurrent.futures.wait(calls, max(0.0, left), concurrent.futures.FIRST_COMPLETED)
        if done or left <= 0:
            return done


def _late(calls: Sequence[Future[Any]], timeout: Optional[float]) -> DeadlineExceeded:
    missing = [call for call in calls if not call.done()]
    where = ", ".join(dict.fromkeys(filter(None, map(_where_of, missing[:_SHOWN]))))
    said = f" (on {where}{', ...' * (len(missing) > _SHOWN)})" if where else ""
    return DeadlineExceeded(f"{len(missing)} of {len(calls)} calls were not answered within {timeout:g} s{said}")


class _Failed:
    """The outcome of a call that failed, which no result can be mistaken for."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _outcome(call: Future[Any]) -> Any:
    """What a call that is done returned, or how it failed."""
    if call.cancelled():
        return _Failed(concurrent.futures.CancelledError("the call was cancelled"))
    error = call.exception()
    if error is None:
        return call.result()
    if not isinstance(error, Exception):
        raise error
    return _Failed(error)


def _no_base(outcome: Any) -> Any:
    """The same of an awaited call."""
    if isinstance(outcome, Exception):
        return _Failed(outcome)
    if isinstance(outcome, BaseException):  # asyncio's CancelledError: this call's own, ours would have left already
        return _Failed(concurrent.futures.CancelledError("the call was cancelled"))
    return outcome


def _results(calls: Sequence[Any], outcomes: Sequence[Any], return_exceptions: bool) -> list[Any]:
    if return_exceptions:
        return [outcome.error if isinstance(outcome, _Failed) else outcome for outcome in outcomes]
    if any(isinstance(outcome, _Failed) for outcome in outcomes):
        raise _group_error(calls, outcomes)
    return list(outcomes)


def _group_error(calls: Sequence[Any], outcomes: Sequence[Any]) -> GroupError:
    failed = [(call, each.error) for call, each in zip(calls, outcomes) if isinstance(each, _Failed)]
    said = [_said(call, error) for call, error in failed[:_SHOWN]]
    if len(failed) > _SHOWN:
        said.append(f"and {len(failed) - _SHOWN} more")
    text = f"{len(failed)} of {len(calls)} calls failed: {'; '.join(said)}"
    return GroupError(text, [error for _, error in failed])


def _said(call: Any, error: Exception) -> str:
    where = _where_of(call) or getattr(error.__cause__, "machine", "")
    return f"{where + ': ' if where else ''}{type(error).__name__}: {error}".rstrip(": ")


def _where_of(call: Any) -> str:
    """Which worker a call is for, where it tells."""
    return str(getattr(call, "where", ""))
