"""The metadata service of one fake instance (IMDSv2): a token is required; it tells of the instance, and of its end."""

from __future__ import annotations

import json
import secrets
from datetime import datetime, timedelta, timezone
from typing import Any

from ec2rig.reply import Reply


class Metadata:
    """What an instance is told about itself.

    Args:
        identity: its identity document.
        user_data: its user data, as it was given.
    """

    def __init__(self, identity: dict[str, Any], user_data: bytes) -> None:
        self.asked: list[str] = []
        self.hop_limit = 1
        self._identity = identity
        self._user_data = user_data
        self._events: dict[str, dict[str, str]] = {}
        self._tokens: set[str] = set()

    def interrupt(self, seconds: float = 120.0) -> None:
        """Give the spot notice: the instance is taken away in so many *seconds*."""
        self._events["spot/instance-action"] = {"action": "terminate", "time": _time(seconds)}

    def advise_rebalance(self) -> None:
        """Say that a spot notice is more likely than it was."""
        self._events["events/recommendations/rebalance"] = {"noticeTime": _time(0.0)}

    def ask(self, environ: dict[str, Any], path: str) -> Reply:
        """Answer a request for *path*, "/latest/..."."""
        self.asked.append(path)
        if path == "/latest/api/token":
            if environ["REQUEST_METHOD"] != "PUT" or "HTTP_X_AWS_EC2_METADATA_TOKEN_TTL_SECONDS" not in environ:
                return Reply(400, "text/plain", b"a token is asked for by PUT, with its time to live")
            token = secrets.token_hex(16)
            self._tokens.add(token)
            return Reply(200, "text/plain", token.encode())
        if environ.get("HTTP_X_AWS_EC2_METADATA_TOKEN") not in self._tokens:
            return Reply(401, "text/plain", b"no token")
        found = self._find(path)
        return Reply(404, "text/plain", b"not found") if found is None else Reply(200, "text/plain", found)

    def _find(self, path: str) -> bytes | None:
        event = self._events.get(path[len("/latest/meta-data/") :])
        if event is not None:
            return json.dumps(event).encode()
        if path == "/latest/dynamic/instance-identity/document":
            return json.dumps(self._identity).encode()
        if path == "/latest/user-data":
            return self._user_data
        plain = {
            "local-ipv4": "privateIp",
            "public-ipv4": "privateIp",
            "instance-id": "instanceId",
            "instance-type": "instanceType",
            "ami-id": "imageId",
            "placement/availability-zone": "availabilityZone",
            "placement/region": "region",
        }
        name = path[len("/latest/meta-data/") :]
        return str(self._identity[plain[name]]).encode() if name in plain else None


def _time(seconds: float) -> str:
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
