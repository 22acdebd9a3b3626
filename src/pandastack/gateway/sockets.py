"""WebSockets of visitors: once both sides have agreed, bytes go to and fro as they come."""

from __future__ import annotations

import asyncio
from collections import deque

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from multidict import CIMultiDict

from pandastack.model.guest import Connection
from pandastack.proxy.answer import SWITCHING, told
from pandastack.proxy.exchange import Answer

READ_AHEAD = 256 << 10


class _OverError(Exception):
    """One of the two has ended the conversation."""


class _Inflow:
    """What the visitor sends behind the handshake, as the server's protocol hands it over."""

    def __init__(self, protocol: BaseProtocol) -> None:
        self._protocol = protocol
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._arrived = asyncio.Event()
        self._over = False

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Called by the protocol: bytes came."""
        self._pieces.append(data)
        self._size += len(data)
        self._arrived.set()
        if self._size > READ_AHEAD:
            self._protocol.pause_reading()
        return False, b""

    def feed_eof(self) -> None:
        """Called by the protocol: nothing more will come."""
        self._over = True
        self._arrived.set()

    async def read(self) -> bytes:
        """The next bytes; none at the end."""
        while not self._pieces and not self._over:
            self._arrived.clear()
            await self._arrived.wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        if self._size > READ_AHEAD:
            self._protocol.resume_reading()
        self._size = 0
        return data


async def relay(request: web.BaseRequest, connection: Connection, answer: Answer) -> web.StreamResponse:
    """Tell the service's consent and carry bytes until one of the two has ended."""
    headers = CIMultiDict(
        (name.decode("latin-1"), value.decode(errors="replace"))
        for name, value in told(answer.headers, own_origin=True)
    )
    headers.update(connection="Upgrade", upgrade="websocket")
    response = web.StreamResponse(status=SWITCHING, headers=headers)
    response.force_close()
    writer = await response.prepare(request)
    if writer is None:
        return response
    writer.send_headers()
    inflow = _Inflow(request.protocol)
    request.protocol.set_parser(inflow)  # type: ignore[arg-type]  # whatever can be fed is a parser to it

    async def in_() -> None:
        while data := await inflow.read():
            await connection.write(data)
        raise _OverError

    async def out() -> None:
        data = answer.rest
        while True:
            if data:
                await writer.write(data)
                await writer.drain()
            if not (data := await connection.read()):
                raise _OverError

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(in_())
            group.create_task(out())
    except* (_OverError, ConnectionError):
        response.force_close()
    return response
