"""Ends instances, many at once: an id that AWS refuses does not keep the others alive."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bigm.errors import BigmError, ConfigError, InstanceGone, SystemFault
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.refusals import as_fault

_BATCH = 1000  # instances in one request, as AWS takes them
_ID = re.compile(r"i-[0-9a-f]{8,17}")
_OF_ONE = ("OperationNotPermitted", "UnauthorizedOperation", "InvalidInstanceID.Malformed")


def end_instances(account: Account, ids: Iterable[str]) -> dict[str, SystemFault | None]:
    """End these instances.

    Returns:
        For each id what prevented it; None: it ends, or has ended, or never existed.
    """
    outcome: dict[str, SystemFault | None] = dict.fromkeys(ids)
    wanted = [id for id in outcome if _ID.fullmatch(id)]  # nothing is called otherwise
    for first in range(0, len(wanted), _BATCH):
        _end(account, wanted[first : first + _BATCH], outcome)
    return outcome


def _end(account: Account, ids: Sequence[str], outcome: dict[str, SystemFault | None]) -> None:
    """End them by one request; where AWS refuses it for some, the others by further ones."""
    if not ids:
        return
    try:
        _terminate(account, list(ids))
        return
    except InstanceGone as error:
        named = set(_ID.findall(error.message)) & set(ids)
        if named:
            _end(account, [id for id in ids if id not in named], outcome)
            return
        if len(ids) == 1:
            return
    except BigmError as error:
        if len(ids) == 1 or getattr(error, "code", "") not in _OF_ONE:
            outcome.update(dict.fromkeys(ids, as_fault(error)))
            return
    middle = len(ids) // 2  # it names nobody: look in both halves
    _end(account, ids[:middle], outcome)
    _end(account, ids[middle:], outcome)


def _terminate(account: Account, ids: list[str]) -> None:
    """Without the operating system's own end where that can be had: it is paid for, and its agent has ended."""
    if account.knows("terminate_instances", "SkipOsShutdown"):
        try:
            account.ask("terminate_instances", InstanceIds=ids, SkipOsShutdown=True)
            return
        except (ConfigError, SystemFault) as error:  # a type, or a region, that does not have it
            if not isinstance(error, ConfigError) and error.code != "UnknownParameter":
                raise
    account.ask("terminate_instances", InstanceIds=ids)
