"""WebSockets to sandboxes through the API's own server: to services that speak it, and to any TCP port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from pandastack.api.passages import Passage
from pandastack.errors import InvalidRequest, PandastackError
from pandastack.model.guest import Connection
from pandastack.proxy.exchange import Answer, Patience, exchanged
from pandastack.proxy.head import write_head
from pandastack.proxy.upgrade import check_consent, wants_websocket
from pandastack.telemetry import logger

log = logger("relays")

MESSAGE_BYTES = 1 << 20
ROUTINE, GOING_AWAY, UNSUPPORTED, BROKEN = 1000, 1001, 1003, 1011
EXTENSIONS = b"sec-websocket-extensions"
"""Frames are read here, and none of these is known."""


class _OverError(Exception):
    """One of the two has ended the conversation."""


async def relay_bytes(scope: Scope, receive: Receive, send: Send, connection: Connection) -> None:
    """Carry the bytes of a connection in binary messages, until both have ended or one has left."""
    socket = WebSocket(scope, receive, send)
    await socket.accept()

    async def in_() -> None:
        while (message := await _heard(socket)) is not None:
            if isinstance(message, str):
                await _close(socket, UNSUPPORTED)
                raise _OverError
            await (connection.write(message) if message else connection.end())
        raise _OverError

    async def out() -> None:
        while data := await connection.read():
            await socket.send_bytes(data)
        await socket.send_bytes(b"")

    await _both(socket, in_, out)


async def relay_messages(
    passage: Passage, scope: Scope, receive: Receive, send: Send, *, message_bytes: int = MESSAGE_BYTES
) -> None:
    """Carry the messages of a WebSocket that a service in the sandbox speaks, each of at most so many bytes.

    Errors before it stands: those of the connection, PortClosed when the service does not want it.
    """
    socket = WebSocket(scope, receive, send)
    offered = scope.get("subprotocols", [])
    kept = tuple(field for field in passage.head.headers if field[0] != EXTENSIONS)
    head = msgspec.structs.replace(passage.head, headers=kept)
    if not wants_websocket(head):
        raise InvalidRequest("This path is a WebSocket: connect to it with an upgrade.")
    written = write_head(head, passage.target, passage.site, websocket=True)
    async with (
        passage.reached() as connection,
        exchanged(connection, head, written, _nothing(), Patience()) as answer,
    ):
        check_consent(answer, head)
        await socket.accept(_chosen(answer, offered))
        await _converse(socket, connection, answer.rest, message_bytes)


def _chosen(answer: Answer, offered: list[str]) -> str | None:
    chosen = dict(answer.headers).get(b"sec-websocket-protocol", b"").decode("latin-1")
    return chosen if chosen in offered else None


async def _converse(socket: WebSocket, connection: Connection, first: bytes, most: int) -> None:
    protocol = Protocol(Side.CLIENT, max_size=most)

    async def flush() -> None:
        for data in protocol.data_to_send():
            if data:
                await connection.write(data)

    async def in_() -> None:
        while (message := await _heard(socket)) is not None:
            if isinstance(message, str):
                protocol.send_text(message.encode())
            else:
                protocol.send_binary(message)
            await flush()
        protocol.send_close(GOING_AWAY)
        await flush()
        raise _OverError

    async def out() -> None:
        messages = _Messages(socket)
        data = first
        while True:
            protocol.receive_data(data)
            await flush()
            for event in protocol.events_received():
                if isinstance(event, Frame):
                    await messages.take(event)
            if protocol.close_expected():
                await _close(socket, protocol.close_code or BROKEN)
                raise _OverError
            if not (data := await connection.read()):
                await _close(socket, GOING_AWAY)
                raise _OverError

    await _both(socket, in_, out)


class _Messages:
    """Messages of a service, put together of their frames, for a client."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._parts: list[bytes] = []
        self._text = False

    async def take(self, frame: Frame) -> None:
        """The next frame; pings are answered already."""
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._text = frame.opcode is Opcode.TEXT
        elif frame.opcode is not Opcode.CONT:
            return
        self._parts.append(bytes(frame.data))
        if not frame.fin:
            return
        message, self._parts = b"".join(self._parts), []
        if self._text:
            await self._socket.send_text(message.decode(errors="replace"))
        else:
            await self._socket.send_bytes(message)


Way = Callable[[], Awaitable[None]]


async def _both(socket: WebSocket, *ways: Way) -> None:
    """Both directions, until one of them tells that it is over or both have come to their end."""
    try:
        async with asyncio.TaskGroup() as group:
            for way in ways:
                group.create_task(_run(way))
    except* _OverError:
        log.debug("relay.over")
    except* PandastackError as errors:
        log.debug("relay.broken", error=str(errors.exceptions[0]))
        await _close(socket, BROKEN)


async def _run(way: Way) -> None:
    try:
        await way()
    except (WebSocketDisconnect, ConnectionClosed, RuntimeError) as error:  # it left while we spoke
        raise _OverError from error


async def _heard(socket: WebSocket) -> bytes | str | None:
    """The next message of the client; None once it has left."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        return None
    data: bytes | str | None = message.get("bytes")
    return message.get("text") if data is None else data


async def _close(socket: WebSocket, code: int) -> None:
    if (
        socket.client_state is WebSocketState.CONNECTED
        and socket.application_state is WebSocketState.CONNECTED
    ):
        await socket.close(code if 1000 <= code < 5000 and code not in (1005, 1006, 1015) else BROKEN)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
