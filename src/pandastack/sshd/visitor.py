"""Who comes: which certificates are taken, and what may be opened with one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence

import asyncssh

from pandastack.model.account import Caller
from pandastack.services.certificates import Admission, key_of
from pandastack.sshd.door import Door
from pandastack.sshd.limits import WINDOW
from pandastack.sshd.line import Line
from pandastack.sshd.session import Session
from pandastack.sshd.tunnel import Tunnel

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of the only machine that connections are forwarded to: the sandbox itself."""


class Visitor(asyncssh.SSHServer):
    """One connection, as what it asks for."""

    def __init__(self, door: Door, authority: asyncssh.SSHKey) -> None:
        self.door = door
        self.house = door.house
        self._authority = authority
        self._login = self._key = ""
        self._attempts = 0
        self._open: dict[object, asyncio.Task[None] | None] = {}
        self.line: Line

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Called by asyncssh."""
        assert isinstance(conn, Line)  # noqa: S101  # what the listener makes
        self.line = conn

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncssh: all that was opened ends."""
        for channel in list(self._open):
            self.close(channel)

    def begin_auth(self, username: str) -> bool:
        """Called by asyncssh. Nothing is looked up for a stranger."""
        self._login, self._key = username, ""
        self.line.set_authorized_keys(self)  # type: ignore[arg-type]  # asked by `validate` alone
        return True

    def validate(
        self,
        key: asyncssh.SSHKey,
        client_host: str,
        client_addr: str,
        cert_principals: Sequence[str] | None = None,
        ca: bool = False,
    ) -> dict[str, object] | None:
        """Called by asyncssh for each key (never good enough) and for what signed each certificate, whose
        login, dates and signature it checks itself.
        """
        self._attempts += 1
        if self._attempts > 2 * self.door.limits.attempts:  # each is asked for, then used
            raise asyncssh.DisconnectError(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many keys were tried."
            )
        if not ca or key != self._authority:
            return None
        holder = key_of([*(cert_principals or ())], self._login)
        if holder is None:
            return None
        self._key = holder
        return {}

    def validate_x509(self, *_: object) -> tuple[None, None]:
        """Called by asyncssh: no such certificate is good."""
        return None, None

    def auth_completed(self) -> None:
        """Called by asyncssh."""
        mine = bool(self._key) and self.line.get_extra_info("username") == self._login
        if not mine or not self.door.know(self.line, self._login, self._key):
            self.line.disconnect(asyncssh.DISC_TOO_MANY_CONNECTIONS, "There are too many connections.")

    def session_requested(self) -> Session:
        """Called by asyncssh."""
        self._check_room()
        session = Session(self)
        self._open[session] = None
        self.line.unstarted += 1
        return session

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> tuple[asyncssh.SSHTCPChannel[bytes], Coroutine[None, None, Tunnel]]:
        """Called by asyncssh: a client forwards a connection."""
        if dest_host.lower() not in LOOPBACK:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED,
                "Connections are forwarded to localhost alone, which is the sandbox.",
            )
        self._check_room()
        tunnel = Tunnel(self, dest_port)
        self._open[tunnel] = None
        return self.line.create_tunnel_channel(WINDOW), self._tunnelled(tunnel)

    async def admitted(self) -> Admission:
        """Who this is now. Errors: those of certificates."""
        return await self.door.admit(self._login, self._key)

    def started(self, channel: object, work: Coroutine[None, None, None]) -> None:
        """Have a channel served until it is closed."""
        if channel in self._open:
            self._open[channel] = self.door.start(work)
        else:
            work.close()

    def close(self, channel: object) -> None:
        """A channel has been closed: whoever serves it stops. Twice is fine."""
        task = self._open.pop(channel, None)
        if task is not None and not task.cancelling():
            task.cancel()

    def note(self, caller: Caller, status: int) -> None:
        """Have the audit know of it."""
        self.house.trail.note(caller, status)

    def _check_room(self) -> None:
        if len(self._open) >= self.door.limits.channels:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_RESOURCE_SHORTAGE, "This connection has as many channels as it may."
            )

    async def _tunnelled(self, tunnel: Tunnel) -> Tunnel:
        if tunnel not in self._open:  # the client has left meanwhile
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "The connection has ended.")
        self.started(tunnel, tunnel.carry())
        if self._open[tunnel] is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "The server ends.")
        try:
            await tunnel.stands()
        except BaseException:
            self.close(tunnel)
            raise
        return tunnel
