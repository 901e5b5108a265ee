"""The cluster's certificate maker. Its CA key is made in the driver's memory and never leaves it.

ECDSA P-256, one certificate per process, valid from a day before now (clocks differ) to the lifetime plus a day.
`cryptography` makes them: the standard library can use certificates but not issue them.
"""

from __future__ import annotations

import datetime
import secrets

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bigm.rpc.identity import BOOTSTRAP, DRIVER, KEEPER, MACHINE, WORKER, Identity
from bigm.rpc.tls import Credentials

_DAY = datetime.timedelta(days=1)


class Authority:
    """Issues the certificates of one cluster.

    Args:
        cluster: the cluster's id; made at random when not given.
        lifetime: seconds for which the cluster may live at most; certificates outlast it by a day.
        now: wall clock (aware, UTC) to count from.
    """

    def __init__(self, cluster: str = "", *, lifetime: float = 86400.0, now: datetime.datetime | None = None) -> None:
        self.cluster = cluster or secrets.token_hex(6)
        now = now or datetime.datetime.now(datetime.timezone.utc)
        self._not_before = now - _DAY
        self._not_after = now + datetime.timedelta(seconds=lifetime) + _DAY
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"bigm {self.cluster}")])
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca: bytes = certificate.public_bytes(serialization.Encoding.PEM)

    def __repr__(self) -> str:
        return f"<Authority of cluster {self.cluster}>"

    def issue(self, identity: Identity) -> Credentials:
        """Make a key and a certificate for *identity*, which must be of this cluster."""
        if identity.cluster != self.cluster:
            raise ValueError(f"{identity.uri} is not of cluster {self.cluster}")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(x509.Name([]), key.public_key())
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Credentials(
            identity=identity,
            ca=self.ca,
            cert=certificate.public_bytes(serialization.Encoding.PEM),
            key=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def driver(self) -> Credentials:
        """Credentials of the driver itself."""
        return self.issue(Identity(self.cluster, DRIVER))

    def keeper(self) -> Credentials:
        """Credentials that can renew and release leases, nothing else."""
        return self.issue(Identity(self.cluster, KEEPER))

    def bootstrap(self, launch: str) -> Credentials:
        """Credentials shared by the instances of one launch, good for being enrolled once each."""
        return self.issue(Identity(self.cluster, BOOTSTRAP, launch))

    def machine(self, machine: str) -> Credentials:
        """Credentials of a machine's agent."""
        return self.issue(Identity(self.cluster, MACHINE, machine))

    def worker(self, machine: str, proc: int) -> Credentials:
        """Credentials of a machine's worker *proc*."""
        return self.issue(Identity(self.cluster, WORKER, machine, proc))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._not_before)
            .not_valid_after(self._not_after)
        )
