"""The SSH server's own socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncssh
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pandastack.config import split_address
from pandastack.errors import Conflict, InvalidRequest
from pandastack.sshd.door import Door, House
from pandastack.sshd.limits import WINDOW, Limits
from pandastack.sshd.line import Line
from pandastack.sshd.visitor import Visitor

BACKLOG = 1024
GRACE_SECONDS = 5.0
KEX = "*25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384"
"""None that takes much of a processor: whoever connects has one of them done."""
CIPHERS = "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com,aes256-ctr,aes128-ctr"
MACS = "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256,hmac-sha2-512"

SIGNATURES = (
    "ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-256,rsa-sha2-512,"
    "sk-ssh-ed25519@openssh.com"
)


@asynccontextmanager
async def listening(
    house: House, listen: str, limits: Limits, *, grace_seconds: float = GRACE_SECONDS
) -> AsyncIterator[tuple[str, int]]:
    """Serve who comes by SSH to `listen` (host:port, port 0 for any) while the block lasts: where that is.

    Behind it nobody is left, and nothing that they ran. Errors: InvalidRequest for an address that is none,
    Conflict for one that is taken.
    """
    host, port = split_address(listen)
    try:
        async with asyncio.TaskGroup() as group:
            door = Door(house, limits, group)
            server = await _bound(door, host, port)
            keeping = group.create_task(door.keep())
            try:
                yield host, int(server.sockets[0].getsockname()[1])
            finally:
                server.close()
                keeping.cancel()
                await _emptied(door, grace_seconds)
                await server.wait_closed()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _bound(door: Door, host: str, port: int) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    options = _options(door)
    try:
        return await loop.create_server(
            lambda: Line(loop, options, door, door.limits), host, port, backlog=BACKLOG
        )
    except socket.gaierror as error:
        raise InvalidRequest(f"{host!r} is no address to listen on.") from error
    except OSError as error:
        reason = error.strerror or "the address is not this machine's"
        raise Conflict(
            f"SSH cannot listen on {host}:{port}: {reason}. Choose another with --ssh, or --ssh off."
        ) from error


async def _emptied(door: Door, grace_seconds: float) -> None:
    """End all connections; those that do not take that in time are cut."""
    door.end_all()
    with suppress(TimeoutError):
        async with asyncio.timeout(grace_seconds):
            await door.emptied()
    door.cut_all()


def _options(door: Door) -> asyncssh.SSHServerConnectionOptions:
    """Nothing of this machine's own SSH configuration, or of its users, counts."""
    certificates, limits = door.house.certificates, door.limits
    authority = asyncssh.import_public_key(certificates.authority)
    host_key = asyncssh.import_private_key(
        certificates.host_key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    )
    host_certificate = asyncssh.import_certificate(certificates.of_server())
    return asyncssh.SSHServerConnectionOptions(
        server_factory=lambda: Visitor(door, authority),
        server_host_keys=[(host_key, host_certificate)],
        server_version="PandaStack",
        kex_algs=KEX,
        encryption_algs=CIPHERS,
        mac_algs=MACS,
        signature_algs=SIGNATURES,
        compression_algs=None,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        agent_forwarding=False,
        x11_forwarding=False,
        line_editor=False,
        rdns_lookup=False,
        login_timeout=limits.login,
        keepalive_interval=limits.alive,
        keepalive_count_max=3,
        encoding=None,
        window=WINDOW,
    )
