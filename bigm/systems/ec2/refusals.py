"""Why a launch got fewer instances than were asked for: what AWS said of each pool, gathered by cause, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bigm.errors import BigmError, CapacityError, SystemFault
from bigm.systems.ec2.faults import DROP, ELSEWHERE, RETRY, look_up, make_error

SPOT, ON_DEMAND = "spot", "on-demand"
_JUST_MADE = ("InvalidGroup.NotFound",)  # groups that the user names were looked at before
_NAMED = 3  # types and zones that a message names


@dataclass(frozen=True)
class Refusal:
    """Why a pool gave nothing, or fewer.

    Args:
        code: AWS's word for it.
        message: AWS's text.
        lifecycle: SPOT or ON_DEMAND, or "" where AWS does not tell.
        kind: the type of the pool, or "".
        subnet: its subnet, or "".
        error: what it was translated to, where it is about the whole request.
    """

    code: str
    message: str = ""
    lifecycle: str = ""
    kind: str = ""
    subnet: str = ""
    error: BigmError | None = None

    @property
    def is_final(self) -> bool:
        """No other pool and no other way of buying helps."""
        return look_up(self.code, self.message).then not in (ELSEWHERE, DROP)

    @property
    def passes(self) -> bool:
        """The same again may help: AWS is in trouble, or this part of it does not know yet of what was just made."""
        return self.error is None and (look_up(self.code).then == RETRY or self.code in _JUST_MADE)


def read_refusal(error: Mapping[str, Any]) -> Refusal:
    """Read one item of `Errors` of a fleet."""
    pool = (error.get("LaunchTemplateAndOverrides") or {}).get("Overrides") or {}
    return Refusal(
        code=error.get("ErrorCode", ""),
        message=error.get("ErrorMessage", ""),
        lifecycle=error.get("Lifecycle", ""),
        kind=pool.get("InstanceType", ""),
        subnet=pool.get("SubnetId", ""),
    )


def explain(
    n: int, launched: int, refusals: Sequence[Refusal], zones: Mapping[str, str], region: str
) -> list[BigmError]:
    """Why fewer than *n* were launched: an error for each cause, what only the user can mend first.

    Args:
        n: how many were asked for.
        launched: how many there are.
        refusals: what AWS said.
        zones: the zone of each subnet.
        region: where.
    """
    missing = n - launched
    if missing <= 0:
        return []
    causes: dict[tuple[str, str], list[Refusal]] = {}
    for one in sorted(refusals, key=lambda one: not one.is_final):
        causes.setdefault((one.code, one.lifecycle), []).append(one)
    count = f"{missing} of {n} instances" if n > 1 else "the instance"
    errors = [_of_cause(alike, f"cannot launch {count} in {region}", zones) for alike in causes.values()]
    return errors or [CapacityError(f"AWS launched only {launched} of {n} instances in {region}")]


def _of_cause(refusals: Sequence[Refusal], attempt: str, zones: Mapping[str, str]) -> BigmError:
    first = refusals[0]
    if first.error is not None:
        return first.error
    kinds = list(dict.fromkeys(one.kind for one in refusals if one.kind))
    where = list(dict.fromkeys(zones.get(one.subnet, one.subnet) for one in refusals if one.subnet))
    place = " in ".join(_some(words) for words in (kinds, where) if words)
    how = {SPOT: "spot ", ON_DEMAND: "on-demand "}.get(first.lifecycle, "")
    place = f"{how}{place}".strip()
    return make_error(first.code, first.message, attempt=attempt, action="ec2:RunInstances", place=place)


def _some(words: Sequence[str]) -> str:
    shown = ", ".join(words[:_NAMED])
    return f"{shown} and {len(words) - _NAMED} others" if len(words) > _NAMED else shown


def as_fault(error: BigmError) -> SystemFault:
    """The same error as one of a system, for those that stand beside instances that there are."""
    return error if isinstance(error, SystemFault) else SystemFault(error.message, hint=error.hint)
