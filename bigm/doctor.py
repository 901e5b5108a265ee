"""Looks, before anything is launched, at what the driver needs on this computer, and then at what its system needs."""

from __future__ import annotations

import resource
import ssl
import sys
from collections.abc import Iterator

from bigm.authority import Authority
from bigm.bundle.pex import pex_version
from bigm.config import Settings
from bigm.errors import BigmError, ConfigError, SystemFault
from bigm.rpc.tls import client_context, server_context
from bigm.systems.base import FAILED, OK, WARNING, Finding, System
from bigm.systems.computer import HERE, folder

_TESTED = ((3, 10), (3, 13))  # Python versions, as in setup.cfg
_OWN_FILES = 64  # descriptors of the driver itself, and of the program
_FILES = 5  # descriptors for each machine with one worker; measured
_MACHINES = 50  # a driver that can hold fewer is told so


def examine(system: System, settings: Settings) -> Iterator[Finding]:
    """All findings, each as soon as it is there.

    Args:
        system: not opened.
        settings: those with which machines would be started.
    Raises:
        ConfigError: the system lacks a setting, so that there is nothing to look at.
    """
    bundles = settings.bundle.rehearse or not system.capabilities.local
    yield _python()
    yield _tls()
    yield _descriptors(max(settings.nmach or 0, _MACHINES))
    purpose = "runs and bundles are kept there; BIGM_HOME names another"
    yield folder("bigm's folder", settings.home, purpose, runs=bundles, needed=bundles)
    yield _pex(bundles)
    try:
        yield from system.doctor()
    except SystemFault as error:
        yield Finding(system.name, system.name, FAILED, error.message, error.hint)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    text = f"{version} at {sys.executable}"
    least, most = (".".join(map(str, each)) for each in _TESTED)
    if not _TESTED[0] <= sys.version_info[:2] <= _TESTED[1]:
        return Finding(HERE, "Python", WARNING, text, f"bigm is tested with {least} to {most}")
    return Finding(HERE, "Python", OK, text)


def _tls() -> Finding:
    """A whole handshake, as between driver and machine: a policy of the computer may forbid what is compiled in."""
    authority = Authority()
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client = client_context(authority.driver()).wrap_bio(to_client, to_server, server_hostname="m0")
        server = server_context(authority.machine("m0")).wrap_bio(to_server, to_client, server_side=True)
        for end in (client, server, client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except (BigmError, ssl.SSLError, OSError) as error:
        hint = "bigm needs TLS 1.3 with ECDSA P-256; OPENSSL_CONF, or the computer's policy, may forbid it"
        return Finding(HERE, "TLS 1.3", FAILED, f"{ssl.OPENSSL_VERSION}: {_reason(error)}", hint)
    return Finding(HERE, "TLS 1.3", OK, f"{ssl.OPENSSL_VERSION}, {client.cipher()[0]}")  # type: ignore[index]


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)


def _descriptors(wanted: int) -> Finding:
    """Whether so many machines can be connected to at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Finding(HERE, "open files", OK, "without limit")
    machines = max(0, soft - _OWN_FILES) // _FILES
    text = f"{soft}, enough for about {machines} machines"
    if machines >= wanted:
        return Finding(HERE, "open files", OK, text)
    allowed = "unlimited" if hard == resource.RLIM_INFINITY else min(hard, _OWN_FILES + wanted * _FILES)
    return Finding(HERE, "open files", WARNING if machines else FAILED, text, f"raise the limit: ulimit -n {allowed}")


def _pex(needed: bool) -> Finding:
    try:
        return Finding(HERE, "pex", OK, pex_version())
    except ConfigError as error:
        return Finding(HERE, "pex", FAILED if needed else WARNING, error.message, error.hint)
