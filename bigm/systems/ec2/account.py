"""The user's AWS account in one region: every request of the system is sent here, and its errors are translated.

Two kinds of requests. What only asks, or is harmless when it happens twice, is repeated with growing pauses while AWS
is busy, by botocore, for about a minute (`ask`, `pages`). What makes something is sent once (`make`): whether it may be
repeated is for its caller to know. botocore would repeat a want of capacity three times, which helps nobody.

boto3 is imported when the first request is made: 300 ms that only users of this system pay.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bigm.errors import BigmError, ConfigError, TransientError
from bigm.systems.ec2.faults import no_region, translate
from bigm.systems.ec2.options import Options

ATTEMPTS = 10  # botocore pauses up to 1, 2, 4, 8, 16 and then 20 s between them, half of it on average: a minute
_CONNECT = 5.0  # seconds
_READ = 70.0  # seconds; a fleet of many instances takes its time
_LAST = (4, 3.0, 20.0)  # attempts, seconds to connect, and to read: a cluster that ends asks several things
_TALKATIVE = ("botocore.credentials", "botocore.configprovider")
_REGIONS = {"pricing": "us-east-1"}  # services that are not in every region

_ORIGINS = {  # by botocore's words
    "env": "the environment",
    "shared-credentials-file": "the file of credentials",
    "config-file": "the file of settings",
    "sso": "`aws sso login`",
    "login": "`aws login`",
    "assume-role": "a role that the profile names",
    "custom-process": "a command that the profile names",
    "iam-role": "this computer's own role",
    "container-role": "this container's own role",
}


class Account:
    """Sends requests. May be used from several threads; nothing is read or sent before the first request.

    Args:
        options: of the system; `region` and `aws_profile` choose, else AWS's own settings.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[tuple[str, bool], Any] = {}
        self._hasty = False

    def __repr__(self) -> str:
        return f"<Account: {self._options.region or 'region of the settings'}, {len(self._clients)} clients>"

    @property
    def region(self) -> str:
        """The region, as the options or AWS's settings say.

        Raises:
            ConfigError: neither do, or the profile does not exist. The user's.
        """
        # AWS_REGION is what all of AWS's tools read but boto3.
        found = self._options.region or os.environ.get("AWS_REGION") or self._load().region_name
        if not found:
            raise no_region()
        return str(found)

    @property
    def origin(self) -> str:
        """Where the credentials come from, in words."""
        found = self._load().get_credentials()
        method = str(found.method) if found is not None else "nowhere"
        return _ORIGINS.get(method, method)

    def elsewhere(self, region: str) -> Account:
        """The same account in another region. What boto3 has read of settings and services is shared."""
        other = Account(replace(self._options, region=region))
        other._session, other._lock = self._load(), self._lock
        return other

    def ask(self, operation: str, *, service: str = "ec2", **parameters: Any) -> dict[str, Any]:
        """Send a request that may be sent twice.

        Args:
            operation: as boto3 names it, "describe_instances".
            service: "ec2", "ssm", "sts", ...
            parameters: of the operation, as AWS names them.
        Returns:
            AWS's answer.
        Raises:
            SystemFault: what AWS or the network did, translated; trying again can help when it is a `TransientError`
                or a `ThrottledError`, after a minute of that has passed already.
            ConfigError: AWS does not know what an option names, or there is no region. The user's.
        """
        return self._send(operation, service, parameters, once=False)

    def pages(self, operation: str, key: str, *, service: str = "ec2", **parameters: Any) -> Iterator[dict[str, Any]]:
        """As `ask`, for all pages of an answer: the items that each page has at *key*."""
        try:
            for page in self._client(service, once=False).get_paginator(operation).paginate(**parameters):
                yield from page.get(key, ())
        except BigmError:
            raise
        except Exception as error:
            raise self._translated(error, operation, service) from error

    def make(self, operation: str, *, service: str = "ec2", **parameters: Any) -> dict[str, Any]:
        """Send a request that makes something, once. When its reply is lost it may have happened.

        Raises:
            SystemFault, ConfigError: as `ask`; nothing was tried again.
        """
        return self._send(operation, service, parameters, once=True)

    def knows(self, operation: str, parameter: str) -> bool:
        """Whether this boto3 knows an EC2 operation to have a parameter: older ones lack what is new."""
        meta = self._client("ec2", once=False).meta
        return (
            parameter in meta.service_model.operation_model(meta.method_to_api_mapping[operation]).input_shape.members
        )

    def hasten(self) -> None:
        """From now on have patience with AWS for seconds instead of a minute."""
        self._hasty = True
        self.close()

    def close(self) -> None:
        """Let go of connections. A later request opens new ones."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _send(self, operation: str, service: str, parameters: dict[str, Any], *, once: bool) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client(service, once=once), operation)(**parameters)
        except BigmError:
            raise
        except Exception as error:
            raise self._translated(error, operation, service) from error
        return answer

    def _client(self, service: str, *, once: bool) -> Any:
        region = _REGIONS.get(service) or self.region
        session = self._load()
        with self._lock:  # boto3's session is not made for several threads; its clients are
            client = self._clients.get((service, once))
            if client is None:
                try:
                    client = session.client(service, region_name=region, config=_config(once, self._hasty))
                except ValueError as error:
                    raise ConfigError(f"AWS's settings are wrong: {error}", hint="is AWS_ENDPOINT_URL set?") from error
                self._clients[service, once] = client
        return client

    def _load(self) -> Any:
        with self._lock:
            if self._session is None:
                import boto3
                from botocore.exceptions import BotoCoreError

                for name in _TALKATIVE:  # a program that logs what it does is not to log what we do
                    if not logging.getLogger(name).level:
                        logging.getLogger(name).setLevel(logging.WARNING)
                try:
                    self._session = boto3.Session(profile_name=self._options.aws_profile or None)
                except BotoCoreError as error:
                    raise translate(error, attempt="cannot read AWS's settings") from error
            return self._session

    def _translated(self, error: Exception, operation: str, service: str) -> BigmError:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        name = "".join(word.capitalize() for word in operation.split("_"))
        if isinstance(error, ResponseParserError):
            said = f"{name} in {self.region} failed: what answered is not AWS"
            return TransientError(said, hint="is there such a region, or a proxy or a login page on the way?")
        if not isinstance(error, (BotoCoreError, ClientError)):
            raise error  # a mistake of ours
        return translate(error, attempt=f"{name} in {self.region} failed", action=f"{service}:{name}")


def _config(once: bool, hasty: bool) -> Any:
    from botocore.config import Config

    from bigm import __version__

    attempts, connect, read = _LAST if hasty else (ATTEMPTS, _CONNECT, _READ)
    return Config(
        connect_timeout=connect,
        read_timeout=read,
        max_pool_connections=32,
        retries={"mode": "standard", "total_max_attempts": 1 if once else attempts},
        user_agent_extra=f"bigm/{__version__}",
    )
