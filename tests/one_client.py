"""The ways to call of a machine with one worker, straight to a client: without a cluster, and on Python 3.9 too."""

from __future__ import annotations

import concurrent.futures
from typing import Optional

from bigm.calling import Calls
from bigm.rpc.client import Client
from bigm.timeouts import Timeouts


class OneClient(Calls):
    """Calls the server of *client*."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def _route(self, timeout: Optional[float]) -> tuple[Client, Optional[float]]:
        return self.client, timeout

    def _route_all(self, timeout: Optional[float]) -> tuple[tuple[Client, ...], Optional[float]]:
        return (self.client,), timeout

    def _opened(self) -> concurrent.futures.Future[None]:
        opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        opened.set_result(None)
        return opened

    def _where(self) -> str:
        return repr(self.client)

    def _timeouts(self) -> Timeouts:
        return Timeouts()
