"""Stage 0: all that must ride in user data or down a pipe. Receives the agent from the driver and becomes it.

`bigm.bootstrap.agentzip.boot_program` makes one self-contained program of this file's source and a launch, so nothing
here may import bigm before the agent has come. The driver is believed for its certificate, the agent for its digest.

Wire: TLS 1.3 with ALPN "bigm-boot/1". The driver sends 8 bytes of length, big-endian, and what `agent_zip`
makes; boot answers "ok" when it has the digest of the launch, and closes. From then on the same port is the agent's.
"""

import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
import zlib
from typing import Any, Optional

PATIENCE = 60  # seconds without a byte before a connection is given up
LARGEST = 1 << 20  # bytes of an agent
AT_ONCE = 64  # connections; more are refused


def boot(launch: "dict[str, Any]", listener: "Optional[socket.socket]" = None) -> None:
    """Listen, take the agent from the driver, and be it; `launch` is a `records.Launch` as a dictionary.

    A *listener* is somebody else's, who has said where it is.
    """
    end = time.monotonic() + launch["first_lease"]
    signal.alarm(int(launch["first_lease"]) + 1)  # nobody comes: the end, whatever is waited for
    context = make_context(launch)
    listener = listener or listen(launch)
    agents: list[tuple[bytes, ssl.SSLSocket]] = []
    done, slots = socket.socketpair(), threading.BoundedSemaphore(AT_ONCE)

    def receive(connection: socket.socket) -> None:
        tls = connection
        try:
            tls = context.wrap_socket(connection, True)
            agents.append((receive_agent(tls, launch), tls))
            done[0].send(b"x")
        except (OSError, ValueError) as error:
            print("boot:", error, file=sys.stderr)
            tls.close()
            slots.release()

    while done[1] not in select.select([listener, done[1]], [], [])[0]:
        connection = listener.accept()[0]
        connection.settimeout(PATIENCE)
        if slots.acquire(False):
            threading.Thread(target=receive, args=(connection,), name="bigm-boot", daemon=True).start()
        else:
            connection.close()
    agent, tls = agents[0]
    with tls, contextlib.suppress(OSError):  # a driver that does not hear of it asks who listens, and finds the agent
        tls.sendall(b"ok")  # not before we have ceased to accept: its next connection is the agent's
    launch["folder"] = launch["folder"] or tempfile.mkdtemp(prefix="bigm-")
    path = os.path.join(launch["folder"], "agent.zip")
    with open(path, "wb") as file:
        file.write(zlib.decompress(agent))
    sys.path.insert(0, path)
    from bigm.bootstrap import machine, records

    sys.path.remove(path)
    signal.alarm(0)
    machine.become(records.Launch(**launch), listener, end)


def listen(launch: "dict[str, Any]") -> socket.socket:
    """Open the machine's port, and say which."""
    listener = socket.socket(socket.AF_INET6 if ":" in launch["host"] else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((launch["host"], launch["port"]))
    listener.listen(512)
    print(json.dumps({"port": listener.getsockname()[1], "pid": os.getpid()}), flush=True)
    return listener


def make_context(launch: "dict[str, Any]") -> ssl.SSLContext:
    """TLS as the instance of this launch, for whoever the cluster's CA knows. The key never touches a disk."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    context.load_verify_locations(cadata=launch["ca"])
    context.set_alpn_protocols(["bigm-boot/1"])
    with open(os.memfd_create("bigm"), "wb", 0) as file:
        file.write((launch["cert"] + launch["key"]).encode())
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context


def receive_agent(tls: ssl.SSLSocket, launch: "dict[str, Any]") -> bytes:
    """The agent's zip, from the driver and nobody else."""
    names = (tls.getpeercert() or {}).get("subjectAltName")
    if names != (("URI", "bigm://" + launch["cluster"] + "/driver"),):
        raise ValueError(f"refused an agent from {names}")
    with tls.makefile("rb") as stream:
        size = int.from_bytes(stream.read(8), "big")
        data = stream.read(size) if size <= LARGEST else b""
    if hashlib.sha256(data).hexdigest() != launch["agent_digest"]:
        raise ValueError("refused an agent of another digest")
    return data
