"""What a guest needs to send secrets that it does not have: placeholders, and trust in who replaces them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from pandastack.errors import FileMissing, FileRefused, MachineError
from pandastack.host.guest import GuestLink
from pandastack.model.egress import BoundSecret

CERTIFICATE = "/usr/local/share/ca-certificates/pandastack.crt"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
SUBJECT_HASH = "8fab30ae"
"""Of the name of every host's authority, as OpenSSL hashes it: what the link to it is called."""
HASHED = f"/etc/ssl/certs/{SUBJECT_HASH}.0"
BUNDLES = BUNDLE, "/etc/pki/tls/certs/ca-bundle.crt"
"""Of Debian and its like, which is there behind this in any case; of others, where it is there already."""
MOST = 4 << 20
"""Bytes that a bundle may have."""
PIECE = 1 << 16

TRUSTING = {
    "NODE_EXTRA_CA_CERTS": CERTIFICATE,
    "DENO_CERT": CERTIFICATE,
    "SSL_CERT_FILE": BUNDLE,
    "REQUESTS_CA_BUNDLE": BUNDLE,
}
"""For programs with certificates of their own: Node and Deno; `requests` and `httpx` of Python."""


def environment(secrets: Sequence[BoundSecret]) -> Mapping[str, str]:
    """What every command of a machine with these secrets is given."""
    if not secrets:
        return {}
    return TRUSTING | {secret.name: secret.placeholder for secret in secrets}


async def install(link: GuestLink, certificate: str) -> None:
    """Have the guest trust the authority of this host; twice is fine, and costs one question. MachineError
    when it cannot.

    Its own files say last that all is done. Nothing of the guest's runs for it, and what the guest has there
    is looked for one text, and not read. No more is asked than must be, as an emulated guest takes a while
    for each answer: whoever writes a file makes the folders above it.
    """
    words = certificate.encode()
    try:
        if await _content(link, CERTIFICATE) == words:
            return
        for bundle in BUNDLES:
            held = await _content(link, bundle)
            if words not in (held or b"") and (held is not None or bundle == BUNDLE):
                await link.write(bundle, _pieces((held or b"") + words), user="root", mode=0o644)
        for path in (HASHED, CERTIFICATE):
            await link.write(path, _pieces(words), user="root", mode=0o644)
    except (FileRefused, FileMissing) as error:
        raise MachineError(
            f"The sandbox cannot be made to trust the certificates of this host: {error.message}"
        ) from error


async def _content(link: GuestLink, path: str) -> bytes | None:
    """All of a file of the guest; None when there is none. FileRefused for a very large one."""
    found = bytearray()
    try:
        async with link.read(path, user="root", length=MOST + 1) as file:
            async for piece in file:
                found += piece
    except FileMissing:
        return None
    if len(found) > MOST:
        raise FileRefused(f"{path} is larger than {MOST} bytes.")
    return bytes(found)


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), PIECE):
        yield content[at : at + PIECE]
