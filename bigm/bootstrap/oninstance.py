"""What a cloud instance does before it is boot: it learns its own address, and says on its console what it does.

`bigm.bootstrap.agentzip.instance_program` puts this behind boot's source, so nothing here may import bigm. A system's
tests run the same program, as an ordinary process: it needs neither root nor a service manager.

Source: Instance Metadata Service version 2 of AWS's user guide of EC2: a token is asked for by PUT, and shown by GET.
"""

import http.client
import os
import sys
import time
from typing import Any, Optional
from urllib.parse import urlsplit

METADATA = "http://169.254.169.254"  # unless AWS_EC2_METADATA_SERVICE_ENDPOINT says another
PATIENCE_OF_METADATA = 2.0  # seconds for one answer
TRIES = 3
TOKEN_SECONDS = 21600  # for which a token is good: the most there is


def prepare(launch: "dict[str, Any]") -> "dict[str, Any]":
    """What boot is to be given: *launch*, with the address of this instance to listen on."""
    os.environ.setdefault("HOME", "/root")  # a service has none
    os.environ.setdefault("TMPDIR", "/var/tmp")  # /tmp is emptied while a computer starts, or is in memory
    launch["host"] = ask_metadata("latest/meta-data/local-ipv4") or "0.0.0.0"
    print("bigm: launch {launch} listens on {host}, port {port}".format(**launch), file=sys.stderr, flush=True)
    return launch


def ask_metadata(path: str) -> str:
    """What the metadata service tells under *path*, or "" where it tells nothing of that, or there is none."""
    for attempt in range(TRIES):
        try:
            token = ask("PUT", "latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)})
            return ask("GET", path, {"X-aws-ec2-metadata-token": token or ""}) or ""
        except (OSError, http.client.HTTPException) as error:
            print(f"bigm: the metadata service does not answer: {error}", file=sys.stderr, flush=True)
            time.sleep(0.2 * attempt)  # the network may be a moment away, and nobody would tell us
    return ""


def ask(method: str, path: str, headers: "dict[str, str]") -> "Optional[str]":
    """One request to the metadata service; None: it refuses, or knows nothing of that."""
    base = urlsplit(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA)
    service = http.client.HTTPConnection(base.hostname or "", base.port, timeout=PATIENCE_OF_METADATA)
    try:
        service.request(method, f"{base.path.rstrip('/')}/{path}", headers=headers)
        answer = service.getresponse()
        text = answer.read().decode()
        return text if answer.status == 200 else None
    finally:
        service.close()
