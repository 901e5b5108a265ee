"""Requests and replies of AWS as they are on the wire, by botocore's own descriptions of the services.

Moto has the parsers and serializers; what is here finds the operation that a request is of.
"""

from __future__ import annotations

import json
import re
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from moto.core.model import OperationModel
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.serialize import get_serializer_class
from moto.core.utils import get_service_model

from ec2rig.reply import Reply

JSON = ("ssm", "pricing", "servicequotas")
STATUS = {  # of codes that are not answered with 400
    "InsufficientInstanceCapacity": 500,
    "InternalError": 500,
    "InternalFailure": 500,
    "UnfulfillableCapacity": 500,
    "RequestLimitExceeded": 503,
    "ServiceUnavailable": 503,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
    "AccessDenied": 403,
    "AccessDeniedException": 403,
    "ExpiredToken": 403,
    "AuthFailure": 401,
    "DryRunOperation": 412,
}


class Refused(Exception):
    """AWS refuses a request.

    Args:
        code: its error code.
        message: what it says.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or f"the rig was told to refuse this with {code}")
        self.code = code


class Request(NamedTuple):
    """One request: service ("ec2"), operation ("CreateFleet"), region, and what boto3 was called with."""

    service: str
    operation: str
    region: str
    parameters: dict[str, Any]


def read(environ: dict[str, Any]) -> Request | None:
    """The request of AWS in a WSGI environment, which can be read again; None: it is not one."""
    scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    if scope is None:
        return None
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = BytesIO(body)
    region, service = scope[1], scope[2]
    form = dict(parse_qsl(body.decode(), keep_blank_values=True)) if service not in JSON else {}
    operation = form.get("Action") or environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
    model = _operation(service, operation)
    sent: Any = {"body": body, "values": form, "headers": {}, "method": "POST", "url_params": {}, "url_path": "/"}
    parameters = PROTOCOL_PARSERS[_protocol(model)](model).parse(sent)
    return Request(service, operation, region, parameters)


def answer(request: Request, result: dict[str, Any]) -> Reply:
    """*result*, which is what boto3 is to return, as the reply."""
    model = _operation(request.service, request.operation)
    said = get_serializer_class(request.service, _protocol(model))(model).serialize(result)
    body = said["body"]
    return Reply(200, said["headers"]["Content-Type"], body.encode() if isinstance(body, str) else body)


def refusal(request: Request, error: Refused) -> Reply:
    """An error as the reply."""
    status = STATUS.get(error.code, 400)
    if request.service in JSON:
        text = json.dumps({"__type": error.code, "message": str(error)})
        return Reply(status, "application/x-amz-json-1.1", text.encode())
    inner = f"<Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message></Error>"
    if request.service == "ec2":
        text = f"<Response><Errors>{inner}</Errors><RequestID>rig</RequestID></Response>"
    else:
        text = f"<ErrorResponse>{inner}<RequestId>rig</RequestId></ErrorResponse>"
    return Reply(status, "text/xml", text.encode())


@cache
def _operation(service: str, operation: str) -> OperationModel:
    name = {"servicequotas": "service-quotas"}.get(service, service)
    model: OperationModel = get_service_model(name).operation_model(operation)
    return model


def _protocol(model: OperationModel) -> str:
    return str(model.service_model.protocol)
