"""What AWS says of an instance, read: its state and why it ended in words, where it is, and how it is reached."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bigm.errors import BootError, CapacityError, QuotaError, SystemFault
from bigm.systems.base import ENDED, RUNNING, STARTING, Instance
from bigm.systems.ec2.labels import CLUSTER, LAUNCH, read_tags
from bigm.systems.ec2.options import PORT

_STATES = {"pending": STARTING, "running": RUNNING}  # all others are ends
_GONE = ("shutting-down", "terminated")

# Source: the field StateReason of DescribeInstances.
_REASONS = {
    "Client.InstanceInitiatedShutdown": "it switched itself off",
    "Client.UserInitiatedShutdown": "it was terminated by a request to AWS",
    "Client.UserInitiatedHibernate": "it was hibernated from outside",
    "Client.InternalError": "it could not start: its disk could not be made, perhaps for want of a key to encrypt it",
    "Client.InvalidSnapshot.NotFound": "it could not start: the snapshot of its image does not exist",
    "Client.VolumeLimitExceeded": "it could not start: the account's quota of EBS storage is used up",
    "Client.LaunchTemplateVersionNotFound": "it could not start: its launch template was gone",
    "Server.InsufficientInstanceCapacity": "AWS has no capacity of this type there now",
    "Server.InternalError": "AWS failed for a reason of its own",
    "Server.ScheduledStop": "AWS stopped it for maintenance",
    "Server.SpotInstanceShutdown": "AWS took the spot instance back",
    "Server.SpotInstanceStop": "AWS took the spot instance back",
    "Server.SpotInstanceTermination": "AWS took the spot instance back",
}
_KINDS: dict[str, type[SystemFault]] = {
    "Server.InsufficientInstanceCapacity": CapacityError,
    "Client.VolumeLimitExceeded": QuotaError,
}


@dataclass(frozen=True)
class Seen:
    """An instance as AWS last described it.

    Args:
        instance: what the others are told. Its locator is where machines dial one another: the private address.
        public: its public address, or "".
        private: its private address, or "".
        gone: it ends or has ended, for good; one that is only stopped is ENDED for us, and costs on.
        code: AWS's word for why it is as it is, or "".
        tags: all of them.
        began: when it was launched, seconds since 1970.
    """

    instance: Instance
    public: str
    private: str
    gone: bool
    code: str
    tags: Mapping[str, str]
    began: float

    @property
    def id(self) -> str:
        """The instance's."""
        return self.instance.id

    def failure(self) -> SystemFault:
        """The error of a launch that it came from, when it ended before it was a machine."""
        kind = _KINDS.get(self.code, BootError)
        where = f"{self.instance.type} in {self.instance.zone}"
        return kind(f"instance {self.id} ({where}) ended at once: {self.instance.reason}", code=self.code)


def read_instance(described: Mapping[str, Any]) -> Seen:
    """Read one item of `Reservations[].Instances[]`."""
    tags = read_tags(described)
    state = described["State"]["Name"]
    code = (described.get("StateReason") or {}).get("Code", "")
    began = described["LaunchTime"].timestamp() if "LaunchTime" in described else 0.0
    private = described.get("PrivateIpAddress") or ""
    kind, zone = described.get("InstanceType", ""), (described.get("Placement") or {}).get("AvailabilityZone", "")
    instance = Instance(
        id=described["InstanceId"],
        locator=f"{private}:{PORT}" if private else "",
        state=_STATES.get(state, ENDED),
        launch=tags.get(LAUNCH, ""),
        cluster=tags.get(CLUSTER, ""),
        host=f"{kind} in {zone}",
        since=began,
        type=kind,
        zone=zone,
        spot=described.get("InstanceLifecycle") == "spot",
    )
    if instance.state == ENDED:
        instance = replace(instance, reason=_reason(state, code, described))
    return Seen(instance, described.get("PublicIpAddress") or "", private, state in _GONE, code, tags, began)


def _reason(state: str, code: str, described: Mapping[str, Any]) -> str:
    said = (described.get("StateReason") or {}).get("Message", "")
    said = re.sub(rf"^{re.escape(code)}:?\s*", "", said).rstrip(".")
    reason = _REASONS.get(code) or said or code or f"the instance is {state}"
    if state not in _GONE:
        reason = f"it was stopped: {reason}"  # nobody here ever stops one
    when = re.search(r"\((\d{4}-[^)]+)\)", described.get("StateTransitionReason") or "")
    return f"{reason}, at {when[1]}" if when else reason
