"""Who is at the other end of a connection: the name in a certificate, and the one function that checks it.

Every process of a cluster has a certificate whose only name is a URI:

    bigm://<cluster>/driver                     the driver
    bigm://<cluster>/keeper                     the keeper: may renew and release leases, nothing else
    bigm://<cluster>/bootstrap/<launch>         an instance before enrolment: may be enrolled, nothing else
    bigm://<cluster>/machine/<id>               a machine's agent
    bigm://<cluster>/machine/<id>/worker/<n>    a machine's worker

The same identity, written as a host name, is the TLS server name by which the agent's one port tells apart what is
meant for itself and what for a worker. That name only routes; trust rests on the URI alone.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Optional, Union

from bigm.errors import IdentityError

DRIVER = "driver"
KEEPER = "keeper"
BOOTSTRAP = "bootstrap"
MACHINE = "machine"
WORKER = "worker"


@dataclass(frozen=True)
class Identity:
    """Name and role of one process of a cluster.

    Args:
        cluster: the cluster's id, 12 lower-case hexadecimal digits.
        role: DRIVER, KEEPER, BOOTSTRAP, MACHINE or WORKER.
        machine: the machine's id ("m0"); for BOOTSTRAP the launch's id; else "".
        proc: the worker's index from 0; -1 for the others.
    """

    cluster: str
    role: str
    machine: str = ""
    proc: int = -1

    @property
    def uri(self) -> str:
        """The name in the certificate."""
        path = {
            BOOTSTRAP: f"bootstrap/{self.machine}",
            MACHINE: f"machine/{self.machine}",
            WORKER: f"machine/{self.machine}/worker/{self.proc}",
        }.get(self.role, self.role)
        return f"bigm://{self.cluster}/{path}"

    @property
    def server_name(self) -> str:
        """The TLS server name a client sends to reach this process."""
        if self.role == WORKER:
            return f"w{self.proc}.{self.machine}.{self.cluster}"
        return f"{self.role}.{self.machine or 'x'}.{self.cluster}"

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """Read a name from a certificate.

        Raises:
            IdentityError: it is not a name of this form; never trust its bearer.
        """
        head, _, rest = uri.partition("://")
        parts = rest.split("/")
        if head == "bigm" and all(parts):
            if len(parts) == 2 and parts[1] in (DRIVER, KEEPER):
                return cls(parts[0], parts[1])
            if len(parts) == 3 and parts[1] in (BOOTSTRAP, MACHINE):
                return cls(parts[0], parts[1], parts[2])
            if len(parts) == 5 and parts[1] == MACHINE and parts[3] == WORKER and parts[4].isdecimal():
                return cls(parts[0], WORKER, parts[2], int(parts[4]))
        raise IdentityError(f"{uri!r} is not the name of a bigm process")


def peer_identity(
    tls: Union[ssl.SSLSocket, ssl.SSLObject], cluster: str, expected: Optional[Identity] = None
) -> Identity:
    """Who is at the other end of a finished handshake; both sides of every connection ask this and nothing else.

    Args:
        tls: the connection, after its handshake.
        cluster: the cluster the other end must belong to.
        expected: who it must be exactly, or None where any member of the cluster may connect.
    Raises:
        IdentityError: no certificate, a foreign one, or somebody else's; do not retry.
    """
    names = (tls.getpeercert() or {}).get("subjectAltName", ())
    uris = [str(name[1]) for name in names if name[0] == "URI"]
    if len(uris) != 1:
        raise IdentityError("the other end shows no certificate with one bigm name")
    peer = Identity.parse(uris[0])
    if peer.cluster != cluster:
        raise IdentityError(f"the other end is {peer.uri}, of another cluster than {cluster}")
    if expected is not None and peer != expected:
        raise IdentityError(f"expected {expected.uri}, but {peer.uri} answers there")
    return peer
