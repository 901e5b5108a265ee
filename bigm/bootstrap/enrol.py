"""The driver's half of a machine's start: reach whoever listens, send the agent if it is boot, and enrol it.

What listens at first shows the bootstrap certificate of the launch, which is pinned to the byte: any other certificate
of the cluster, however valid, is another machine at a recycled address. Which stage listens is told by ALPN. After
enrolment only the machine's own name is believed.
"""

from __future__ import annotations

import socket
import ssl
from typing import Callable, Union

from bigm.bootstrap.records import Info
from bigm.errors import BigmError, IdentityError, MayHaveRun, NotAllowed, ProtocolError, Unreachable
from bigm.rpc.client import Client
from bigm.rpc.identity import Identity, peer_identity
from bigm.rpc.tls import ALPN_BOOT, ALPN_RPC, Credentials, client_context

_CHUNK = 64 << 10

Connect = Callable[[float], socket.socket]


def open_agent(
    connect: Connect,
    driver: Credentials,
    machine: Credentials,
    bootstrap: Credentials,
    *,
    name: str,
    agent: bytes = b"",
    dial_timeout: float = 10.0,
    timeout: float = 30.0,
) -> tuple[Client, Info]:
    """Make the machine of what listens behind *connect*.

    A reply that is lost on its way is settled by dialling the machine under the name it was to take.

    Args:
        connect: connects a raw socket within the given number of seconds.
        driver: who we are.
        machine: name, certificate and key the machine is to have.
        bootstrap: the launch's own credentials, of which only the certificate matters here.
        name: how messages call the agent ("agent of m0").
        agent: the agent's zip, sent where boot listens; b"" where the agent starts directly.
        dial_timeout: seconds for connecting and the handshake, also of the client that is returned.
        timeout: seconds for each step.
    Returns:
        tuple: a client to the agent under the machine's own name, to be closed by the caller; what the machine is.
    Raises:
        Unreachable: nobody answers yet; trying again can help.
        IdentityError: somebody else answers; do not retry.
        ProtocolError: boot refused the agent.
    """
    pinned = ssl.PEM_cert_to_DER_cert(bootstrap.cert.decode("ascii"))

    def check(tls: Union[ssl.SSLObject, ssl.SSLSocket]) -> None:
        if tls.getpeercert(binary_form=True) != pinned:
            text = f"{name} shows another certificate than the one it was launched with"
            raise IdentityError(f"{text}: another machine has its address now")

    if agent:
        try:
            _ship(connect, driver, bootstrap.identity, check, name, agent, dial_timeout, timeout)
        except IdentityError:
            pass  # it may have become the machine in a former attempt: the next step tells
    stranger = Client(connect, driver, bootstrap.identity, name=name, dial_timeout=dial_timeout, check=check)
    try:
        stranger.call(
            "Agent.enrol", (machine.identity.uri, machine.cert, machine.key), timeout=timeout, idempotent=False
        )
    except (IdentityError, MayHaveRun, NotAllowed) as error:
        return _settle(connect, driver, machine.identity, name, dial_timeout, timeout, error)
    finally:
        stranger.close()
    return _as_machine(connect, driver, machine.identity, name, dial_timeout, timeout)


def _as_machine(
    connect: Connect, driver: Credentials, identity: Identity, name: str, dial_timeout: float, timeout: float
) -> tuple[Client, Info]:
    client = Client(connect, driver, identity, name=name, dial_timeout=dial_timeout)
    try:
        info: Info = client.call("Agent.info", timeout=timeout, idempotent=True)
    except BaseException:
        client.close()
        raise
    return client, info


def _settle(
    connect: Connect,
    driver: Credentials,
    identity: Identity,
    name: str,
    dial_timeout: float,
    timeout: float,
    cause: BigmError,
) -> tuple[Client, Info]:
    """It may have been enrolled, and the reply lost, just now or in a former attempt: then it answers to its name."""
    try:
        return _as_machine(connect, driver, identity, name, dial_timeout, timeout)
    except IdentityError:
        if isinstance(cause, MayHaveRun):
            raise Unreachable(f"{name} was not enrolled, as the connection was lost: {cause}") from cause
        raise cause from None


def _ship(
    connect: Connect,
    driver: Credentials,
    expected: Identity,
    check: Callable[[ssl.SSLSocket], None],
    name: str,
    agent: bytes,
    dial_timeout: float,
    timeout: float,
) -> None:
    """Send the agent if boot listens. Progress is what counts: *timeout* is for each piece."""
    context = client_context(driver)
    context.set_alpn_protocols([ALPN_BOOT, ALPN_RPC])
    try:
        sock = connect(dial_timeout)
    except OSError as error:
        raise Unreachable(f"cannot reach {name}: {error.strerror or error}") from error
    with sock:
        sock.settimeout(dial_timeout)
        try:
            with context.wrap_socket(sock, server_hostname=expected.server_name) as tls:
                peer_identity(tls, expected.cluster, expected)
                check(tls)
                if tls.selected_alpn_protocol() == ALPN_BOOT:
                    tls.settimeout(timeout)
                    _send(tls, name, agent)
        except ssl.SSLCertVerificationError as error:
            raise IdentityError(f"{name}: {error.verify_message}") from error
        except OSError as error:
            raise Unreachable(f"{name} did not take the agent: {error.strerror or error}") from error


def _send(tls: ssl.SSLSocket, name: str, agent: bytes) -> None:
    tls.sendall(len(agent).to_bytes(8, "big"))
    for at in range(0, len(agent), _CHUNK):
        tls.sendall(agent[at : at + _CHUNK])
    if tls.recv(2) != b"ok":
        raise ProtocolError(f"{name} refused the agent", hint="was it launched by another version of bigm?")
