"""TLS contexts from certificates held in memory: TLS 1.3 only, both ends verified, no key left on a disk.

The standard library's `load_cert_chain` reads paths only. A memory file (Linux) or a pipe (elsewhere) has a path under
/proc/self/fd or /dev/fd that exists as long as its descriptor, so the key never touches a file system.
"""

from __future__ import annotations

import os
import ssl
import threading
import weakref
from dataclasses import dataclass

from bigm.errors import BigmError
from bigm.rpc.identity import Identity

ALPN_BOOT = "bigm-boot/1"
ALPN_RPC = "bigm-rpc/1"


@dataclass(frozen=True, repr=False)
class Credentials:
    """What a process proves itself with, PEM-encoded, and whom that makes it.

    Args:
        identity: the name in `cert`.
        ca: the cluster's CA certificate.
        cert: this process's certificate.
        key: its private key.
    """

    identity: Identity
    ca: bytes
    cert: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"<Credentials {self.identity.uri}>"


_servers: weakref.WeakKeyDictionary[Credentials, ssl.SSLContext] = weakref.WeakKeyDictionary()


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """A context for accepting connections: the client must show a certificate of the cluster's CA.

    Equal credentials share one: those of a launch, where its instances are in one process.

    Raises:
        BigmError: this Python's ssl module has no TLS 1.3.
    """
    context = _servers.get(credentials)
    if context is None:
        context = _servers[credentials] = _context(credentials, ssl.PROTOCOL_TLS_SERVER)
    return context


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """A context for dialling: the server must show a certificate of the cluster's CA.

    The name in it is checked by `identity.peer_identity`, not by host name: addresses are recycled, names are not.
    """
    return _context(credentials, ssl.PROTOCOL_TLS_CLIENT)


def _context(credentials: Credentials, protocol: int) -> ssl.SSLContext:
    if not ssl.HAS_TLSv1_3:
        raise BigmError(
            f"this Python's ssl module ({ssl.OPENSSL_VERSION}) has no TLS 1.3",
            hint="use a Python built with OpenSSL 1.1.1 or later",
        )
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=credentials.ca.decode("ascii"))
    context.set_alpn_protocols([ALPN_RPC])
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # no session is ever resumed: each connection proves itself anew
    _load_cert_chain(context, credentials.cert + credentials.key)
    return context


def _load_cert_chain(context: ssl.SSLContext, pem: bytes) -> None:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("bigm", os.MFD_CLOEXEC)
        try:
            os.write(fd, pem)
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        return
    # OpenSSL reads the file twice, certificate then key, so a pipe is filled once for each by a thread.
    read, write = os.pipe()
    read2, write2 = os.pipe()
    writers = [
        threading.Thread(target=_fill, args=(fd, pem), name=f"bigm-pem-{fd}", daemon=True) for fd in (write, write2)
    ]
    try:
        for writer in writers:
            writer.start()
        context.load_cert_chain(f"/dev/fd/{read}", f"/dev/fd/{read2}")
    finally:
        for fd in (read, read2):
            os.close(fd)
        for writer in writers:
            writer.join(5.0)


def _fill(fd: int, data: bytes) -> None:
    with os.fdopen(fd, "wb") as pipe:
        pipe.write(data)
