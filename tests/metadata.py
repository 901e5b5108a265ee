"""A metadata service (IMDSv2) of its own port, for tests of what asks it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from ec2rig.imds import Metadata


class _Silent(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Nothing."""


@contextmanager
def metadata_service() -> Iterator[tuple[str, Metadata]]:
    """Its address, as AWS's variable for it takes one, and what it tells."""
    metadata = Metadata({"privateIp": "127.0.0.1"}, b"")

    def answer(environ: dict[str, Any], start: Any) -> list[bytes]:
        reply = metadata.ask(environ, environ["PATH_INFO"])
        start(f"{reply.status} told", [("Content-Type", reply.kind)])
        return [reply.body]

    with make_server("127.0.0.1", 0, answer, handler_class=_Silent) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="imds")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", metadata
        finally:
            server.shutdown()
            thread.join()
