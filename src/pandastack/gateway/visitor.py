"""Connections of visitors: how many there may be, and how long each may keep us waiting."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import cast

from aiohttp import web
from msgspec import Struct

from pandastack.errors import InvalidRequest, PandastackError
from pandastack.gateway.refusals import refusal
from pandastack.proxy.head import HEADERS_MOST, TARGET_BYTES

READ_AHEAD = 64 << 10
LINGER_SECONDS = 2.0

_ALIVE = ((socket.TCP_KEEPIDLE, 20), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))
"""A peer that vanished is noticed within 40 s, also where nobody has anything to say."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Limits(Struct, frozen=True):
    """What visitors may take: seconds, bytes a second, and numbers of connections."""

    head: float = 10.0
    """From the connection, or the first byte of a later request, to the end of the head."""
    body: float = 30.0
    """From one piece of the body to the next."""
    body_rate: float = 100.0
    """How fast a body comes on average that takes longer than `body`."""
    write: float = 60.0
    """Until what was written has been taken."""
    idle: float = 60.0
    """Between two requests."""
    connections: int = 4096
    of_one_address: int = 100


class Door(web.Server):
    """Makes a visitor of each connection, as far as there is room."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        super().__init__(handler, handler_cancellation=True)
        self.limits = limits
        self._inside: Counter[str] = Counter()

    def __call__(self) -> Visitor:
        """A visitor who has just come."""
        return Visitor(self, asyncio.get_running_loop())

    def let_in(self, address: str) -> bool:
        """Count one more of this address, unless there are too many."""
        inside, limits = self._inside, self.limits
        if inside[address] >= limits.of_one_address or inside.total() >= limits.connections:
            return False
        inside[address] += 1
        return True

    def let_out(self, address: str) -> None:
        """One of this address has left."""
        self._inside[address] -= 1
        if not self._inside[address]:
            del self._inside[address]


class Visitor(web.RequestHandler):
    """One connection. It is cut where its peer does not send or take what it should in time."""

    def __init__(self, door: Door, loop: asyncio.AbstractEventLoop) -> None:
        limits = door.limits
        super().__init__(
            door,
            loop=loop,
            keepalive_timeout=limits.idle,
            access_log=None,  # type: ignore[arg-type]  # that is how none is asked for
            max_line_size=TARGET_BYTES,
            max_field_size=TARGET_BYTES,
            max_headers=HEADERS_MOST,
            lingering_time=LINGER_SECONDS,
            read_bufsize=READ_AHEAD,
            auto_decompress=False,
        )
        self._door = door
        self._loop_ = loop
        self._address: str | None = None
        self._busy = False
        self._line: asyncio.Transport | None = None
        self._awaited: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has come, who gets no answer when there are too many."""
        line = cast(asyncio.Transport, transport)
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if not self._door.let_in(address):
            line.abort()
            return
        self._address, self._line = address, line
        line.set_write_buffer_limits(high=0)  # so that whatever is not taken is noticed
        if connection := line.get_extra_info("socket"):
            for option, value in _ALIVE:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """It has left, or was cut."""
        for timer in (self._awaited, self._stuck):
            if timer is not None:
                timer.cancel()
        if self._address is not None:
            self._door.let_out(self._address)
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came; behind an answer they begin another request."""
        if data and not self._busy and self._awaited is None:
            self._await_head()
        super().data_received(data)

    def pause_writing(self) -> None:
        """Something waits to be taken."""
        super().pause_writing()
        if self._line is not None:
            self._stuck = self._loop_.call_later(self._door.limits.write, self._line.abort)

    def resume_writing(self) -> None:
        """All was taken."""
        if self._stuck is not None:
            self._stuck.cancel()
        super().resume_writing()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """The head has come; until the end of the block it is our turn."""
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def cut(self) -> None:
        """End the connection so that nobody takes what was sent for whole."""
        if self._line is not None:
            self._line.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What the parser refused, in a word; that many do so is nothing for the log."""
        self.cut_off_head()
        error: PandastackError = InvalidRequest("This is no HTTP request that has only one meaning.")
        return refusal(error)

    def cut_off_head(self) -> None:
        """No more of the head is awaited."""
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None

    def _await_head(self) -> None:
        if self._line is not None:
            self._awaited = self._loop_.call_later(self._door.limits.head, self._line.abort)
