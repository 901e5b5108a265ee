"""The layer around moto's application: it records, refuses, delays and replays, and answers what moto does not know."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from moto.server import DomainDispatcherApplication, create_backend_app

from ec2rig.fleets import check_tags
from ec2rig.wire import Refused, Reply, Request, answer, read, refusal

LARGEST_USER_DATA = 16384  # bytes, before base64
REPLAYED = ("CreateFleet", "RunInstances", "CreateLaunchTemplate")


class Call(NamedTuple):
    """One recorded request.

    Args:
        operation: as boto3 has it, "CreateFleet".
        parameters: what boto3 was called with.
        code: the error it was answered with, or "".
        at: when it came, in seconds on the monotonic clock.
    """

    operation: str
    parameters: dict[str, Any]
    code: str
    at: float


@dataclass
class Fault:
    """What goes wrong with some requests.

    Args:
        operation: of which they are; "*": any.
        code: the error they are refused with; "" goes on.
        times: how many of them.
        until: until when, on the monotonic clock.
        delay: seconds before they are looked at.
        lost: "before": the connection is closed before they have an effect; "after": when they have had it.
        first: called with the request when it has had its effect, before it is answered.
    """

    operation: str
    code: str = ""
    times: int = 1
    until: float = float("inf")
    delay: float = 0.0
    lost: str = ""
    first: Callable[[Request], None] | None = None

    def takes(self, request: Request) -> bool:
        """Whether this happens to *request*, which then counts."""
        if self.operation not in ("*", request.operation) or self.times <= 0 or time.monotonic() > self.until:
            return False
        self.times -= 1
        return True


class _Lost(Exception):
    """The connection is closed without an answer."""


@dataclass
class Door:
    """A WSGI application.

    Args:
        own: answers by operation, instead of moto's: what boto3 is to return.
        pages: answers by first part of the path, for what is not a request of AWS.
        changed: called when instances may have come or gone, or rules.
    """

    own: dict[str, Callable[[dict[str, Any]], dict[str, Any]]]
    pages: dict[str, Callable[[dict[str, Any], str], Reply]]
    changed: Callable[[], None]
    calls: list[Call] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    terse: bool = False  # a fleet that is asked for again is answered without its instances

    def __post_init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.RLock()  # moto's own state is for one thread
        self._replies: dict[tuple[str, str], tuple[dict[str, Any], Reply]] = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        try:
            reply = self._page(environ) or self._request(environ)
        except _Lost:
            with contextlib.suppress(OSError):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            reply = Reply(500, "text/plain", b"")
        start_response(f"{reply.status} rig", [("Content-Type", reply.kind), ("Content-Length", str(len(reply.body)))])
        return [reply.body]

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """No request is in moto's hands meanwhile."""
        with self._lock:
            yield

    def _page(self, environ: dict[str, Any]) -> Reply | None:
        first, _, rest = environ["PATH_INFO"][1:].partition("/")
        return self.pages[first](environ, f"/{rest}") if first in self.pages else None

    def _request(self, environ: dict[str, Any]) -> Reply:
        request = read(environ)
        if request is None:
            return Reply(403, "text/plain", b"not a signed request")
        at = time.monotonic()
        fault = next((fault for fault in self.faults if fault.takes(request)), Fault("", times=0))
        if fault.delay:
            time.sleep(fault.delay)  # the network's, and what the test is about
        code = ""
        try:
            if fault.lost == "before":
                code = "lost"
                raise _Lost
            if fault.code:
                raise Refused(fault.code)
            reply = self._replayed(request, environ)
        except Refused as error:
            code, reply = error.code, refusal(request, error)
        finally:
            self.calls.append(Call(request.operation, request.parameters, code, at))
        if fault.first is not None:
            fault.first(request)
        if fault.lost:
            raise _Lost
        return reply

    def _replayed(self, request: Request, environ: dict[str, Any]) -> Reply:
        """The reply, which is the one given before to a request of the same client token."""
        token = (request.operation, request.parameters.get("ClientToken", ""))
        with self._lock:
            if request.operation in REPLAYED and token in self._replies:
                asked, reply = self._replies[token]
                if asked != request.parameters:
                    raise Refused("IdempotentParameterMismatch", "the same client token, with other parameters")
                if self.terse and request.operation == "CreateFleet":
                    return answer(request, {"FleetId": "fleet-00000000", "Instances": [], "Errors": []})
                return reply
            reply = self._perform(request, environ)
            if request.operation in REPLAYED and token[1] and reply.status == 200:
                self._replies[token] = (request.parameters, reply)
        if not request.operation.startswith(("Describe", "Get")):
            self.changed()
        return reply

    def _perform(self, request: Request, environ: dict[str, Any]) -> Reply:
        if request.operation == "CreateLaunchTemplate":
            _check_template(request.parameters)
        own = self.own.get(request.operation)
        return self._forward(environ) if own is None else answer(request, own(request.parameters))

    def _forward(self, environ: dict[str, Any]) -> Reply:
        """Moto's reply."""
        heads: list[Any] = []
        body = b"".join(self._moto(environ, lambda status, headers, *_: heads.append((status, dict(headers)))))
        status, headers = heads[0]
        return Reply(int(status.split()[0]), headers.get("Content-Type", "text/xml"), body)


def _check_template(parameters: dict[str, Any]) -> None:
    """What EC2 refuses in a launch template.

    Raises:
        Refused: the template.
    """
    data = parameters["LaunchTemplateData"]
    if len(data.get("UserData", "")) * 3 // 4 > LARGEST_USER_DATA + 2:
        raise Refused("InvalidUserData.Malformed", "User data is limited to 16384 bytes")
    if data.get("NetworkInterfaces") and (data.get("SecurityGroupIds") or data.get("SecurityGroups")):
        raise Refused("InvalidParameterCombination", "network interfaces and security groups beside them")
    check_tags(parameters.get("TagSpecifications", []))
    check_tags(data.get("TagSpecifications", []))
