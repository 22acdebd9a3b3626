"""The certificate authority of a host: names whose requests get a secret on their way are ours to the guest.

Only guests of this host are told to trust it, and its key never leaves the host.
"""

from __future__ import annotations

import os
import ssl
from collections import OrderedDict
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pandastack.errors import InvalidRequest
from pandastack.host.egress.orders import Authority
from pandastack.host.publish import flush
from pandastack.model.clock import Clock

AUTHORITY_DAYS = 3650
LEAF_DAYS = 7
RENEW_DAYS = 1
SKEW = timedelta(hours=24)
"""How much a guest's clock may lag."""
LEAVES = 1024
COMMON_NAME_LENGTH = 64


def make_ca(now: datetime, name: str = "PandaStack egress") -> Authority:
    """A new authority, with a key of its own (ECDSA P-256)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(_pem(certificate), _key_pem(key))


def kept_authority(path: Path, now: datetime) -> Authority:
    """The authority in the file `path`, key and certificate, which is made when there is none. InvalidRequest
    for a file that holds none.
    """
    if not path.exists():
        _keep(path, make_ca(now))
    key, begin, certificate = path.read_text("ascii").partition("-----BEGIN CERTIFICATE-----")
    if not begin or "PRIVATE KEY-----" not in key:
        raise InvalidRequest(f"{path} holds no certificate authority; without it a new one is made.")
    return Authority(begin + certificate, key)


def _keep(path: Path, authority: Authority) -> None:
    """For its owner's eyes alone; a reader sees all of it or none."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(authority.key + authority.certificate)
    flush(draft)
    draft.replace(path)
    flush(path.parent)


class Issuer:
    """Makes and keeps certificates of names, signed by an authority."""

    def __init__(self, authority: Authority, clock: Clock) -> None:
        self._certificate = x509.load_pem_x509_certificate(authority.certificate.encode())
        key = serialization.load_pem_private_key(authority.key.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is of no elliptic curve")  # noqa: TRY004 - it is a file's fault
        self._key = key
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._clock = clock
        self._contexts: OrderedDict[str, tuple[datetime, ssl.SSLContext]] = OrderedDict()

    def context(self, name: str) -> ssl.SSLContext:
        """What a server called `name` needs to speak TLS: HTTP/1.1 only, since heads are read there."""
        now = self._clock.now()
        until, context = self._contexts.get(name, (now, None))
        if context is None or until <= now:
            context = self._context(name, now)
            self._contexts[name] = (now + timedelta(days=LEAF_DAYS - RENEW_DAYS), context)
        self._contexts.move_to_end(name)
        if len(self._contexts) > LEAVES:
            self._contexts.popitem(last=False)
        return context

    def leaf(self, name: str, now: datetime) -> str:
        """A certificate of this name alone, PEM."""
        common = name if len(name) <= COMMON_NAME_LENGTH else "egress"
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        builder = _builder(subject, self._certificate.subject, self._leaf_key.public_key(), now, LEAF_DAYS)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return _pem(certificate)

    def _context(self, name: str, now: datetime) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        memory = os.memfd_create("leaf")  # OpenSSL takes it from a file, and no disk shall see the key
        try:
            os.write(memory, (self.leaf(name, now) + _key_pem(self._leaf_key)).encode())
            context.load_cert_chain(f"/proc/self/fd/{memory}")
        finally:
            os.close(memory)
        return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
