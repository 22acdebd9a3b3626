"""Certificates: who may come to a sandbox by SSH, for how long, and whether that still holds.

A certificate is signed by a key of this server alone. It names one login (`<sandbox id>`, or
`<user>+<sandbox id>` to be one of its users), the API key that it was asked for with, and an end which is
near: it is good for nothing else, and for nothing once the sandbox or the API key is gone.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_public_key,
)
from msgspec import Struct

from pandastack.errors import InvalidRequest, NotSupported, SandboxNotFound, Unauthorized
from pandastack.model.account import Caller
from pandastack.model.clock import Clock
from pandastack.services.accounts import Accounts
from pandastack.services.ledger import Ledger

TTL_DEFAULT, TTL_MOST = 600, 3600
SKEW_SECONDS = 120
"""So much may a client's clock be behind ours."""
KEY_BYTES_MOST = 4096
RSA_BITS_LEAST, RSA_BITS_MOST = 2048, 8192
FOR_KEY = "key:"
"""Begins the principal that names an API key; no login does, for none holds a colon."""
SERVER = "pandastack"
"""The name that the server's own certificate is for, whatever its address: clients set it as HostKeyAlias."""
FOREVER = 2**64 - 1

_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}")
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class CertificateRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate for `public_key`, a line as in `id_ed25519.pub`, to be `user` (root when None) for
    `ttl_seconds`.
    """

    public_key: str
    user: str | None = None
    ttl_seconds: int = TTL_DEFAULT


class Certificate(Struct, frozen=True):
    """A certificate that was made, and where it is good: lines as OpenSSH keeps them in files."""

    certificate: str
    login: str
    host: str
    port: int
    host_key_alias: str
    known_hosts: str
    expires_at: datetime


class Admission(Struct, frozen=True):
    """Where somebody is let who came by SSH, and as whom."""

    caller: Caller
    sandbox_id: str
    user: str | None


class Certificates:
    """Makes certificates and lets those in who have one."""

    def __init__(
        self, ledger: Ledger, accounts: Accounts, clock: Clock, authority: bytes, host_key: bytes
    ) -> None:
        """`authority` and `host_key` are the 32 secret bytes of Ed25519 keys."""
        self._ledger = ledger
        self._accounts = accounts
        self._clock = clock
        self._authority = Ed25519PrivateKey.from_private_bytes(authority)
        self.host_key = Ed25519PrivateKey.from_private_bytes(host_key)
        self.address: tuple[str, int] | None = None
        """Where clients are sent to; None while nobody listens."""

    @property
    def authority(self) -> str:
        """The public key that signs, as a line."""
        return _line(self._authority.public_key())

    def of_server(self) -> str:
        """The server's own certificate, by which clients know it: as a line, without end."""
        builder = (
            SSHCertificateBuilder()
            .public_key(self.host_key.public_key())
            .serial(0)
            .type(SSHCertificateType.HOST)
            .key_id(SERVER.encode())
            .valid_principals([SERVER.encode()])
            .valid_after(0)
            .valid_before(FOREVER)
        )
        return builder.sign(self._authority).public_bytes().decode()

    async def issue(self, caller: Caller, sandbox_id: str, request: CertificateRequest) -> Certificate:
        """A certificate for a sandbox, which need not be awake. Errors: SandboxNotFound, InvalidRequest,
        NotSupported where the server has no SSH.
        """
        if not 0 < request.ttl_seconds <= TTL_MOST:
            raise InvalidRequest(f"ttl_seconds is 1 to {TTL_MOST}; got {request.ttl_seconds}.")
        if request.user is not None and not _USER.fullmatch(request.user):
            raise InvalidRequest(f"No user of a sandbox has the name {request.user[:64]!r}.")
        key = _public_key(request.public_key)
        found = await self._ledger.find(caller, sandbox_id)
        if self.address is None:
            raise NotSupported("This server takes no SSH: it was started with --ssh off.")
        login = found.id if request.user is None else f"{request.user}+{found.id}"
        now = int(self._clock.now().timestamp())
        ends = now + request.ttl_seconds
        builder = (
            SSHCertificateBuilder()
            .public_key(key)
            .serial(now)
            .type(SSHCertificateType.USER)
            .key_id(f"{caller.actor} {login}".encode())
            .valid_principals([login.encode(), f"{FOR_KEY}{caller.actor}".encode()])
            .valid_after(now - SKEW_SECONDS)
            .valid_before(ends)
            .add_extension(b"permit-pty", b"")
            .add_extension(b"permit-port-forwarding", b"")
        )
        return Certificate(
            certificate=builder.sign(self._authority).public_bytes().decode(),
            login=login,
            host=self.address[0],
            port=self.address[1],
            host_key_alias=SERVER,
            known_hosts=f"@cert-authority {SERVER} {self.authority}",
            expires_at=datetime.fromtimestamp(ends, UTC),
        )

    async def admit(self, login: str, key: str) -> Admission:
        """Whether somebody who has a certificate for `login`, asked for with the API key of this prefix, is
        let in now. Errors: SandboxNotFound, Unauthorized once the API key is gone.
        """
        user, _, sandbox_id = login.rpartition("+")
        if not _ID.fullmatch(sandbox_id) or (user and not _USER.fullmatch(user)):
            raise SandboxNotFound("There is no such sandbox.")
        found = await self._ledger.find_owned(sandbox_id)
        credential = await self._accounts.holder(found.workspace, key)
        if credential is None:
            raise Unauthorized("The API key that this certificate was made with is no longer good.")
        caller = Caller(
            found.workspace, key, credential.scope, "ssh", "", "SSH", f"/v1/sandboxes/{found.id}/ssh"
        )
        return Admission(caller, found.id, user or None)


def key_of(principals: list[str], login: str) -> str | None:
    """The prefix of the API key in a certificate for `login`; None for a certificate that is none of ours."""
    match principals:
        case [named, holder] if named == login and holder.startswith(FOR_KEY):
            return holder.removeprefix(FOR_KEY)
    return None


def _public_key(line: str) -> Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey:
    """Errors: InvalidRequest."""
    wrong = InvalidRequest("public_key is a line as in id_ed25519.pub: Ed25519, ECDSA, or RSA of 2048 bits.")
    if len(line) > KEY_BYTES_MOST or not line.isascii() or "\n" in line.strip():
        raise wrong
    try:
        key = load_ssh_public_key(line.strip().encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise wrong from error
    if isinstance(key, RSAPublicKey) and not RSA_BITS_LEAST <= key.key_size <= RSA_BITS_MOST:
        raise wrong
    if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey):
        raise wrong
    return key


def _line(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
