"""What `bigm doctor ec2` finds: whether this account, with these credentials and options, lets machines be started.

Nothing is made or changed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path

from bigm.errors import ConfigError, SystemFault
from bigm.systems.base import FAILED, OK, WARNING, Finding
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.address import ask_service
from bigm.systems.ec2.faults import QUOTA_PAGE
from bigm.systems.ec2.images import resolve_image
from bigm.systems.ec2.options import PORT, Options
from bigm.systems.ec2.permissions import QUOTAS, Facts, look_at_permissions
from bigm.systems.ec2.types import InstanceType, resolve_types
from bigm.systems.ec2.vpc import GROUP, check_groups, find_subnets

_AWS = "AWS"
_SKEW = 30.0  # seconds that AWS's clock and this one may differ without a word
_REFUSED = 300.0  # seconds from which on AWS refuses requests
_STANDARD = re.compile(r"(?:[acdhimrtz]|i[ms])[0-9]")
_WAYS = {
    "private": "not needed: machines are dialled at their private addresses",
    "ssh": "not needed: machines are dialled by ec2.proxy_command",
}


@dataclass(frozen=True)
class Place:
    """Where instances would be, and what is known here.

    Args:
        account: whose.
        options: of the system.
        home: bigm's folder.
        minor: of the Python that workers are to run, as "3.11".
    """

    account: Account
    options: Options
    home: Path
    minor: str


def examine(
    place: Place, estimate: Callable[[], float | None], *, now: Callable[[], float] = time.time
) -> Iterator[Finding]:
    """All findings, each as soon as it is there.

    Args:
        estimate: US dollars an hour for one machine, or None.
        now: this computer's clock.
    """
    account, options = place.account, place.options
    try:
        region = account.region
    except (ConfigError, SystemFault) as error:
        yield Finding(_AWS, "region", FAILED, error.message, error.hint)
        return
    subject = f"{_AWS} in {region}"
    known = True
    for finding in _identity(account, subject, now):
        known = known and finding.state != FAILED
        yield finding
    if not known:
        return
    facts = Facts()
    for check, step in _STEPS.items():
        try:
            text, facts = step(place, facts)
            yield Finding(subject, check, OK, text)
        except (ConfigError, SystemFault) as error:
            yield Finding(subject, check, FAILED, error.message, error.hint)
    yield _own_address(options, subject)
    yield from look_at_permissions(account, options, subject, facts)
    yield from _quotas(account, options, subject, facts.types)
    price = estimate()
    yield Finding(subject, "price", OK, "not known" if price is None else f"about ${price:.3f} an hour for a machine")


def preview(place: Place) -> dict[str, str]:
    """What a launch would use, in words: region, types, image and network.

    Raises:
        ConfigError, SystemFault: as a launch would.
    """
    found, facts = {"region": place.account.region}, Facts()
    for check, step in _STEPS.items():
        found[check], facts = step(place, facts)
    return found


def _identity(account: Account, subject: str, now: Callable[[], float]) -> Iterator[Finding]:
    before = now()
    try:
        answer = account.make("get_caller_identity", service="sts")
    except (ConfigError, SystemFault) as error:
        yield Finding(subject, "credentials", FAILED, error.message, error.hint)
        answer = getattr(error.__cause__, "response", {})
    else:
        text = f"{answer['Arn']}, from {account.origin}"
        yield Finding(subject, "credentials", OK, text)
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if said:
        yield _clock(subject, parsedate_to_datetime(said).timestamp() - (before + now()) / 2)


def _clock(subject: str, skew: float) -> Finding:
    """How far AWS's clock is from this computer's: it tells whole seconds."""
    if abs(skew) <= _SKEW:
        return Finding(subject, "clock", OK, "right")
    text = f"this computer's is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead'}"
    hint = "set it: AWS refuses requests of another time, and certificates would not hold"
    return Finding(subject, "clock", FAILED if abs(skew) > _REFUSED else WARNING, text, hint)


def _types(place: Place, facts: Facts) -> tuple[str, Facts]:
    found = resolve_types(place.account, place.options, place.home)
    first = found[0]
    text = f"{', '.join(one.name for one in found)}; {first.name} has {first.vcpus} vCPUs, {first.memory / 2**30:g} GiB"
    return text, replace(facts, types=tuple(found))


def _image(place: Place, facts: Facts) -> tuple[str, Facts]:
    architecture = facts.types[0].architecture if facts.types else "x86_64"
    found = resolve_image(place.account, place.options, place.minor, architecture)
    python = f"Python {found.minor}" if found.minor else ""
    if found.minor not in ("", place.minor):
        python += f"; Python {place.minor} is sent to each machine"
    return ", ".join(filter(None, (found.id, found.name, python))), replace(facts, image=found.id)


def _network(place: Place, facts: Facts) -> tuple[str, Facts]:
    subnets, vpc = find_subnets(place.account, place.options)
    if place.options.security_groups:
        groups = list(check_groups(place.account, place.options, vpc))
    else:
        named = [{"Name": "group-name", "Values": [GROUP]}, {"Name": "vpc-id", "Values": [vpc]}]
        found = place.account.pages("describe_security_groups", "SecurityGroups", Filters=named)
        groups = [str(group["GroupId"]) for group in found]
    text = f"security group {', '.join(groups)}" if groups else f"a security group {GROUP!r} will be made"
    text = f"{vpc}, subnets in {', '.join(subnets.values())}; {text}"
    return text, replace(facts, vpc=vpc, subnet=next(iter(subnets)), group=groups[0] if groups else "")


_STEPS = {"types": _types, "image": _image, "network": _network}


def _own_address(options: Options, subject: str) -> Finding:
    check = "own address"
    if options.security_groups:
        return Finding(subject, check, OK, "not needed: ec2.security_groups say who is let in")
    if options.own_address:
        return Finding(subject, check, OK, f"{options.own_address}, as ec2.own_address says")
    if options.connect in _WAYS:
        return Finding(subject, check, OK, _WAYS[options.connect])
    try:
        found = ask_service(options.address_service)
    except (ConfigError, SystemFault) as error:
        return Finding(subject, check, FAILED, error.message, error.hint)
    return Finding(subject, check, OK, f"{found}, as {options.address_service} says; port {PORT} is opened to it")


def _quotas(account: Account, options: Options, subject: str, types: tuple[InstanceType, ...]) -> Iterator[Finding]:
    """How many vCPUs may run; that some run already is not told."""
    standard = [one for one in types if _STANDARD.match(one.name)]
    ways = [way for way in QUOTAS if options.purchase != ("on-demand" if way == "spot" else "spot")]
    for way in ways if standard else ():
        check = f"quota, {way}"
        try:
            request = {"ServiceCode": "ec2", "QuotaCode": QUOTAS[way]}
            value = account.ask("get_service_quota", service="service-quotas", **request)["Quota"]["Value"]
        except (ConfigError, SystemFault):
            yield Finding(subject, check, OK, "not known")
            continue
        least = min(standard, key=lambda one: one.vcpus)
        machines = int(value) // least.vcpus
        text = f"{value:g} vCPUs, for {machines} machines of {least.name}"
        if machines:
            yield Finding(subject, check, OK, text)
            continue
        state = FAILED if len(ways) == 1 else WARNING
        yield Finding(subject, check, state, text, f"ask for more, which takes hours: {QUOTA_PAGE}/{QUOTAS[way]}")
