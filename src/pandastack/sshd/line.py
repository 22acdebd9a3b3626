"""One SSH connection as bytes: what it may make us keep in memory, and when it can be written to."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import asyncssh

from pandastack.sshd.credit import SessionChannel, TunnelChannel
from pandastack.sshd.limits import Limits

REKEY_LOOK_SECONDS = 0.05


class Doorkeeper(Protocol):
    """Who counts connections."""

    def enter(self, line: Line, address: str) -> bool:
        """Whether there is room for one more."""
        ...

    def leave(self, line: Line) -> None:
        """It has ended; twice is fine."""
        ...


class Line(asyncssh.SSHServerConnection):
    """A connection that keeps no more than it must of what its client sends, or does not take."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHServerConnectionOptions,
        keeper: Doorkeeper,
        limits: Limits,
    ) -> None:
        super().__init__(loop, options)
        self._limits = limits
        self.known = False
        """Somebody has shown a certificate."""
        self.unstarted = 0
        """Sessions that were opened and not told yet what they are for."""
        self._keeper = keeper
        self._taken = asyncio.Event()
        self._taken.set()
        self._wire: asyncio.Transport | None = None
        self._came = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._wire = wire = cast("asyncio.Transport", transport)
        wire.set_write_buffer_limits(high=self._limits.untaken)
        super().connection_made(transport)
        peer = transport.get_extra_info("peername") or ("unknown",)
        if not self._keeper.enter(self, str(peer[0])):
            self.abort()

    def connection_lost(self, exc: Exception | None = None) -> None:
        """Called by the event loop, and when nobody came forward in time."""
        self._taken.set()
        super().connection_lost(exc)
        self._keeper.leave(self)

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        """Called by the event loop."""
        limits = self._limits
        self._came = 0 if self.known and not self.unstarted else self._came + len(data)
        most = limits.unstarted_bytes if self.known else limits.stranger_bytes
        if self._came > most or (self._wire and self._wire.get_write_buffer_size() > limits.untaken_most):
            self.abort()
            return
        super().data_received(data, datatype)

    def pause_writing(self) -> None:
        """Called by the event loop: the client does not take what was written."""
        self._taken.clear()

    def resume_writing(self) -> None:
        """Called by the event loop: it does again."""
        self._taken.set()

    def create_server_channel(
        self, encoding: str | None = "", errors: str = "", window: int = 0, max_pktsize: int = 0
    ) -> SessionChannel:
        """Called by asyncssh for a session."""
        made = super().create_server_channel(encoding, errors, window, max_pktsize)
        made.__class__ = SessionChannel  # made as the library makes it, with all that it was told
        return cast("SessionChannel", made)

    def create_tunnel_channel(self, window: int) -> TunnelChannel:
        """The channel of a forwarded connection."""
        made = super().create_tcp_channel(window=window)
        made.__class__ = TunnelChannel
        return cast("TunnelChannel", made)

    async def clear(self) -> None:
        """Return once more can be written without keeping much of it here."""
        await self._taken.wait()
        while (
            not self._kex_complete and not self.is_closed()
        ):  # keys are changed: all of it is kept meanwhile
            await asyncio.sleep(REKEY_LOOK_SECONDS)
            await self._taken.wait()
