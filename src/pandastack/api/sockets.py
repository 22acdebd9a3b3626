"""Commands and terminals over WebSockets.

`exec/ws` carries many commands at once, each under an id of the client's; `exec/pty` and `ssh` carry one
terminal: binary frames are its bytes, text frames are JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from pandastack.api.calls import Api
from pandastack.api.commands import NAMES
from pandastack.api.streams import Text
from pandastack.endpoint import Nothing
from pandastack.errors import PandastackError
from pandastack.model.command import ExecRequest
from pandastack.model.guest import Process
from pandastack.services.activity import Use
from pandastack.telemetry import logger

log = logger("sockets")

COMMANDS_MOST = 64
"""Commands at once on one connection."""
ROUTINE = 1000


class Size(Struct, frozen=True):
    """A terminal's size, and whose shell (or which command) it shows."""

    rows: Annotated[int, Meta(ge=1, le=65535)] = 24
    cols: Annotated[int, Meta(ge=1, le=65535)] = 80
    user: str | None = None
    cmd: str | None = None


class Order(Struct, frozen=True):
    """A frame of `exec/ws` from the client."""

    id: str | int | None = None
    cmd: str | list[str] | None = None
    cancel: bool = False
    cwd: str | None = None
    env: dict[str, str] = {}
    user: str | None = None
    stdin: str | None = None
    stdin_base64: bytes | None = None
    timeout_seconds: float | None = None


class TerminalOrder(Struct, frozen=True):
    """A text frame of a terminal from the client."""

    resize: Size | None = None
    stdin: str | None = None


async def commands(call: Api[None, Nothing]) -> None:
    """Serve `exec/ws` until the client leaves, which ends all of its commands."""
    async with call.app.sandboxes.use(call.caller, call.path["sandbox_id"], Use.STREAM):
        socket = WebSocket(call.connection.scope, call.receive, call.send)
        await socket.accept()
        async with asyncio.TaskGroup() as group:
            board = _Board(call, socket, group)
            async for frame in heard(socket):
                await board.take(frame)
            board.clear()


async def terminal(call: Api[None, Size]) -> None:
    """Serve a terminal until its shell ends or the client leaves, which hangs up."""
    size, commands = call.query, call.app.commands
    opening = commands.terminal(
        call.caller, call.path["sandbox_id"], (size.rows, size.cols), user=size.user, shell=size.cmd
    )
    async with opening as process:
        socket = WebSocket(call.connection.scope, call.receive, call.send)
        await socket.accept()
        await _converse(socket, process)
    await hang_up(socket)


class _HungUpError(Exception):
    """The client of a terminal left."""


async def _converse(socket: WebSocket, process: Process) -> None:
    """Both directions at once, until the process ends or the client hangs up."""
    try:
        async with asyncio.TaskGroup() as group:
            typing = group.create_task(_type(socket, process))
            await _show(socket, process)
            typing.cancel()
    except* PandastackError as errors:
        await say(socket, {"error": str(errors.exceptions[0])})
    except* _HungUpError:
        log.debug("terminal.hung_up", process_id=process.id)


async def _show(socket: WebSocket, process: Process) -> None:
    async for piece in process.output():
        await socket.send_bytes(piece.data)
    ended = await process.wait()
    await say(socket, {"exit": ended.exit_code})


async def _type(socket: WebSocket, process: Process) -> None:
    async for frame in heard(socket):
        if isinstance(frame, bytes):
            await process.write(frame)
            continue
        try:
            order = msgspec.json.decode(frame, type=TerminalOrder)
        except msgspec.MsgspecError as error:
            await say(socket, {"error": f"bad json: {error}"})
            continue
        if order.resize is not None:
            await process.resize(order.resize.rows, order.resize.cols)
        if order.stdin is not None:
            await process.write(order.stdin.encode())
    raise _HungUpError


class _Board:
    """The commands that run on one connection."""

    def __init__(self, call: Api[None, Nothing], socket: WebSocket, group: asyncio.TaskGroup) -> None:
        self._call = call
        self._socket = socket
        self._group = group
        self._running: dict[str | int, asyncio.Task[None]] = {}

    async def take(self, frame: bytes | str) -> None:
        """Start or cancel a command; what cannot be understood is answered, and the connection goes on."""
        try:
            order = msgspec.json.decode(frame, type=Order)
            request = _request(order)
        except msgspec.MsgspecError as error:
            await say(self._socket, {"error": f"bad json: {error}"})
            return
        if order.id is None:
            await say(self._socket, {"error": "id required"})
        elif order.cancel:
            self._cancel(order.id)
        elif request is None:
            await say(self._socket, {"id": order.id, "error": "cmd required"})
        elif order.id in self._running or len(self._running) >= COMMANDS_MOST:
            await say(self._socket, {"id": order.id, "error": "id in use, or too many commands at once"})
        else:
            self._running[order.id] = self._group.create_task(self._run(order.id, request))

    def clear(self) -> None:
        """End all commands."""
        for running in self._running.values():
            running.cancel()

    def _cancel(self, number: str | int) -> None:
        if running := self._running.get(number):
            running.cancel()

    async def _run(self, number: str | int, request: ExecRequest) -> None:
        call, text = self._call, Text()
        try:
            async with call.app.commands.open(call.caller, call.path["sandbox_id"], request) as running:
                async for piece in running.process.output():
                    if data := text.of(piece):
                        await self._tell(number, stream=NAMES[piece.channel], data=data)
                for channel, data in text.rest():
                    await self._tell(number, stream=NAMES[channel], data=data)
                ended = await running.ended()
            await self._tell(number, exit=ended.exit_code)
        except PandastackError as error:
            await self._tell(number, error=error.message)
        finally:
            self._running.pop(number, None)

    async def _tell(self, number: str | int, **more: object) -> None:
        await say(self._socket, {"id": number, **more})


def _request(order: Order) -> ExecRequest | None:
    if not order.cmd:
        return None
    fields: dict[str, Any] = msgspec.structs.asdict(order)
    del fields["id"], fields["cancel"]
    return msgspec.convert(fields, ExecRequest)


async def heard(socket: WebSocket) -> AsyncIterator[bytes | str]:
    """What the client sends, until it leaves."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        data = message.get("bytes")
        yield message["text"] if data is None else data


async def say(socket: WebSocket, value: object) -> None:
    """A text frame; dropped when the client has left."""
    if socket.client_state is WebSocketState.CONNECTED:
        try:
            await socket.send_text(msgspec.json.encode(value).decode())
        except (WebSocketDisconnect, RuntimeError):
            return  # it left while we spoke; the reader hears of it


async def hang_up(socket: WebSocket) -> None:
    """Close it, unless the client has."""
    if socket.client_state is WebSocketState.CONNECTED:
        await socket.close(ROUTINE)
