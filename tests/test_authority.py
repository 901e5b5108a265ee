"""The authority's certificates say what they should, and TLS between two ends accepts no others."""

from __future__ import annotations

import datetime
import pickle
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from bigm.authority import Authority
from bigm.errors import IdentityError
from bigm.rpc.identity import BOOTSTRAP, DRIVER, KEEPER, MACHINE, WORKER, Identity, peer_identity
from bigm.rpc.tls import Credentials, client_context, server_context

NOW = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
DAY = datetime.timedelta(days=1)
CLUSTER = "0123456789ab"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority(CLUSTER, lifetime=3600.0, now=NOW)


def certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def every_role(authority: Authority) -> list[Credentials]:
    return [
        authority.driver(),
        authority.keeper(),
        authority.bootstrap("launch-1"),
        authority.machine("m0"),
        authority.worker("m0", 3),
    ]


def test_each_role_has_its_own_name(authority: Authority):
    identities = [credentials.identity for credentials in every_role(authority)]
    assert [
        Identity(CLUSTER, DRIVER),
        Identity(CLUSTER, KEEPER),
        Identity(CLUSTER, BOOTSTRAP, "launch-1"),
        Identity(CLUSTER, MACHINE, "m0"),
        Identity(CLUSTER, WORKER, "m0", 3),
    ] == identities
    assert identities == [Identity.parse(identity.uri) for identity in identities]
    assert len({identity.server_name for identity in identities}) == len(identities)


def test_a_certificate_has_one_name_and_is_no_authority(authority: Authority):
    for credentials in every_role(authority):
        cert = certificate(credentials.cert)
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert [x509.UniformResourceIdentifier(credentials.identity.uri)] == list(names.value)
        assert names.critical, "with an empty subject RFC 5280 wants the name critical"
        assert x509.Name([]) == cert.subject
        assert x509.BasicConstraints(ca=False, path_length=None) == constraints(cert)
        assert certificate(authority.ca).subject == cert.issuer
        assert isinstance(cert.public_key(), ec.EllipticCurvePublicKey)
        assert cert.public_key().curve.name == "secp256r1"


def constraints(cert: x509.Certificate) -> x509.BasicConstraints:
    return cert.extensions.get_extension_for_class(x509.BasicConstraints).value


def test_the_ca_signs_certificates_but_no_further_ca(authority: Authority):
    assert x509.BasicConstraints(ca=True, path_length=0) == constraints(certificate(authority.ca))


def test_certificates_hold_from_yesterday_to_the_lifetime_and_a_day(authority: Authority):
    for pem in [authority.ca, *(credentials.cert for credentials in every_role(authority))]:
        cert = certificate(pem)
        start, end = cert.not_valid_before_utc, cert.not_valid_after_utc
        assert (NOW - DAY, NOW + datetime.timedelta(seconds=3600) + DAY) == (start, end)


def test_no_two_certificates_share_a_key_or_a_serial_number(authority: Authority):
    made = [*every_role(authority), *every_role(authority)]
    assert len(made) == len({credentials.key for credentials in made})
    assert len(made) == len({certificate(credentials.cert).serial_number for credentials in made})


def test_clusters_made_without_a_name_differ():
    ids = [Authority().cluster for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(len(id) == 12 and int(id, 16) >= 0 for id in ids)


def test_another_clusters_identity_is_not_issued(authority: Authority):
    with pytest.raises(ValueError, match="is not of cluster 0123456789ab"):
        authority.issue(Identity("ba9876543210", DRIVER))


def test_the_ca_key_cannot_leave_by_pickle(authority: Authority):
    with pytest.raises(TypeError):
        pickle.dumps(authority)


def test_printing_credentials_does_not_print_the_key(authority: Authority):
    credentials = authority.driver()
    assert f"<Credentials bigm://{CLUSTER}/driver>" == f"{credentials!r}"
    assert "PRIVATE" not in f"{authority!r}{credentials}"


@pytest.mark.parametrize("extra", [[], ["-purpose", "sslserver"], ["-purpose", "sslclient"]], ids=str)
def test_openssl_agrees(authority: Authority, tmp_path: Path, extra: list[str]):
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("no openssl command here")
    files = {"ca": authority.ca, "other": Authority(CLUSTER).ca, "cert": authority.machine("m0").cert}
    for name, pem in files.items():
        (tmp_path / name).write_bytes(pem)

    def verify(ca: str, *options: str) -> bool:
        command = [openssl, "verify", *extra, *options, "-CAfile", str(tmp_path / ca), str(tmp_path / "cert")]
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0

    assert verify("ca")
    assert not verify("other")
    assert not verify("ca", "-attime", str(int((NOW + 3 * DAY).timestamp())))


class End:
    """One end of a TLS connection in memory, and the error that ended it, if any."""

    def __init__(self, context: ssl.SSLContext, *, server: bool) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server)
        self.shaken = False
        self.error: ssl.SSLError | None = None

    def step(self) -> None:
        """Go on with the handshake, then read: in TLS 1.3 a refusal of the client arrives only there."""
        try:
            if not self.shaken:
                self.tls.do_handshake()
                self.shaken = True
            self.tls.read(1)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = self.error or error


def shake(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[End, End]:
    """Run a handshake to its end, whatever that is."""
    ends = End(client, server=False), End(server, server=True)
    for _ in range(4):  # three flights, and one for the alert that may follow
        for end, other in (ends, ends[::-1]):
            end.step()
            other.incoming.write(end.outgoing.read())
    return ends


def test_members_of_one_cluster_shake_hands_and_know_each_other(authority: Authority):
    driver, machine = authority.driver(), authority.machine("m0")
    client, server = shake(client_context(driver), server_context(machine))
    assert (None, None) == (client.error, server.error)
    assert client.tls.version() == "TLSv1.3"
    assert machine.identity == peer_identity(client.tls, CLUSTER, machine.identity)
    assert driver.identity == peer_identity(server.tls, CLUSTER)


def foreign() -> Credentials:
    """Same cluster id, same names, another CA."""
    return Authority(CLUSTER).machine("m0")


def expired() -> tuple[Authority, Credentials]:
    old = Authority(CLUSTER, lifetime=60.0, now=NOW - 3 * DAY)
    return old, old.machine("m0")


def not_yet() -> tuple[Authority, Credentials]:
    young = Authority(CLUSTER, lifetime=60.0, now=NOW + 3 * DAY)
    return young, young.machine("m0")


def without_certificate(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=credentials.ca.decode())
    return context


def test_a_client_without_a_certificate_is_refused(authority: Authority):
    machine = authority.machine("m0")
    client, server = shake(without_certificate(machine), server_context(machine))
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in str(server.error)
    assert client.shaken, "in TLS 1.3 it believes to be connected; hence the server's hello before any call"
    assert client.error is not None


def test_a_client_of_another_ca_is_refused(authority: Authority):
    machine, stranger = authority.machine("m0"), foreign()
    unverified = client_context(Credentials(stranger.identity, machine.ca, stranger.cert, stranger.key))
    client, server = shake(unverified, server_context(machine))
    assert "CERTIFICATE_VERIFY_FAILED" in str(server.error)
    assert client.error is not None


def test_a_server_of_another_ca_is_refused(authority: Authority):
    client, server = shake(client_context(authority.driver()), server_context(foreign()))
    assert "CERTIFICATE_VERIFY_FAILED" in str(client.error)
    assert not server.shaken


def test_a_driver_of_another_cluster_refuses_and_is_refused(authority: Authority):
    """The matrix of two clusters: only the diagonal connects."""
    clusters = [authority, Authority()]
    connects = [
        [
            (client.error, server.error) == (None, None)
            for b in clusters
            for client, server in [shake(client_context(a.driver()), server_context(b.machine("m0")))]
        ]
        for a in clusters
    ]
    assert [[True, False], [False, True]] == connects


@pytest.mark.parametrize(("made", "why"), [(expired, "expired"), (not_yet, "not yet valid")])
def test_a_certificate_out_of_its_time_is_refused_from_either_side(
    made: Callable[[], tuple[Authority, Credentials]], why: str
):
    authority, credentials = made()
    client, _ = shake(client_context(authority.driver()), server_context(credentials))
    assert why in str(client.error)
    lenient = client_context(authority.driver())
    lenient.verify_mode = ssl.CERT_NONE  # an attacker does not check the server
    _, server = shake(lenient, server_context(credentials))
    assert why in str(server.error)


def test_a_certificate_whose_key_is_not_at_hand_proves_nothing(authority: Authority):
    machine, other = authority.machine("m0"), authority.machine("m1")
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        server_context(Credentials(machine.identity, machine.ca, machine.cert, other.key))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
def test_older_tls_is_refused(authority: Authority, version: ssl.TLSVersion):
    context = client_context(authority.driver())
    context.minimum_version = context.maximum_version = version
    client, server = shake(context, server_context(authority.machine("m0")))
    assert "UNSUPPORTED_PROTOCOL" in str(server.error)
    assert not client.shaken


def test_a_machine_at_anothers_address_is_recognised(authority: Authority):
    """A recycled address, or machine A answering where B was: TLS succeeds, the name does not."""
    client, _ = shake(client_context(authority.driver()), server_context(authority.machine("m0")))
    with pytest.raises(IdentityError, match=f"expected bigm://{CLUSTER}/machine/m1, but bigm://{CLUSTER}/machine/m0"):
        peer_identity(client.tls, CLUSTER, Identity(CLUSTER, MACHINE, "m1"))


def test_the_bootstrap_certificate_is_not_a_machines(authority: Authority):
    client, _ = shake(client_context(authority.driver()), server_context(authority.bootstrap("l1")))
    with pytest.raises(IdentityError, match="bootstrap/l1 answers there"):
        peer_identity(client.tls, CLUSTER, Identity(CLUSTER, MACHINE, "m0"))


def test_a_peer_without_a_bigm_name_is_nobody(authority: Authority):
    """Signed by the right CA, but with a host's name instead of a process's."""
    client, _ = shake(client_context(authority.driver()), server_context(authority.machine("m0")))
    with pytest.raises(IdentityError, match="of another cluster"):
        peer_identity(client.tls, "ffffffffffff")
    unfinished = client_context(authority.driver()).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    with pytest.raises((IdentityError, ValueError)):
        peer_identity(unfinished, CLUSTER)


@pytest.mark.parametrize(
    "uri",
    ["", "https://x/driver", "bigm:///driver", f"bigm://{CLUSTER}", f"bigm://{CLUSTER}/king", f"bigm://{CLUSTER}/driver/x",
     f"bigm://{CLUSTER}/machine/", f"bigm://{CLUSTER}/machine/m0/worker/x", f"bigm://{CLUSTER}/machine/m0/worker/-1"],
)  # fmt: skip
def test_what_is_not_exactly_a_name_is_refused(uri: str):
    with pytest.raises(IdentityError, match="is not the name of a bigm process"):
        Identity.parse(uri)
