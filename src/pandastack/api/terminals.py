"""Terminals by name, over HTTP and WebSockets.

A viewer's socket carries the bytes of the terminal in binary frames, both ways, and JSON in text frames. The
server's are `attached`, `live`, `lagged`, `resize`, `exit` and `error`; the client's `resize` and `stdin`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import msgspec
from msgspec import Struct
from starlette.types import Receive, Send
from starlette.types import Scope as Connection
from starlette.websockets import WebSocket, WebSocketDisconnect

from pandastack.api.calls import Api
from pandastack.api.sockets import TerminalOrder, hang_up, heard, say
from pandastack.endpoint import WEBSOCKET, Endpoint, Nothing
from pandastack.errors import PandastackError
from pandastack.model.terminal import Side, Terminal, TerminalRequest
from pandastack.services.viewers import Attached, Ended, Lagged, Live, Notice, Resized, Viewer
from pandastack.telemetry import logger

log = logger("terminals")

ALL = "/v1/sandboxes/{sandbox_id}/terminals"
ONE = f"{ALL}/{{name}}"


class Sight(Struct, frozen=True):
    """How somebody looks at a terminal: the size that it is given first, or as one who only looks."""

    rows: Side | None = None
    cols: Side | None = None
    read_only: bool = False

    @property
    def size(self) -> tuple[int, int] | None:
        """(rows, columns) when both are given."""
        return None if self.rows is None or self.cols is None else (self.rows, self.cols)


async def create(call: Api[TerminalRequest, Nothing]) -> Terminal:
    return await call.app.terminals.create(call.caller, call.path["sandbox_id"], call.body)


async def list_all(call: Api[None, Nothing]) -> Sequence[Terminal]:
    return await call.app.terminals.list(call.caller, call.path["sandbox_id"])


async def get(call: Api[None, Nothing]) -> Terminal:
    return await call.app.terminals.get(call.caller, call.path["sandbox_id"], call.path["name"])


async def end(call: Api[None, Nothing]) -> None:
    await call.app.terminals.end(call.caller, call.path["sandbox_id"], call.path["name"])


async def attach(call: Api[None, Sight]) -> None:
    """Serve a viewer until the program ends or the client leaves, which leaves the program running."""
    view = call.app.terminals.view(
        call.caller,
        call.path["sandbox_id"],
        call.path["name"],
        size=call.query.size,
        read_only=call.query.read_only,
    )
    await show(view, call.connection.scope, call.receive, call.send)


async def show(
    view: AbstractAsyncContextManager[Viewer], scope: Connection, receive: Receive, send: Send
) -> None:
    """A viewer over a WebSocket. Errors before it stands: those of `view`; later ones are told in it."""
    socket = WebSocket(scope, receive, send)
    stands = False
    try:
        async with view as viewer:
            await socket.accept()
            stands = True
            await _converse(socket, viewer)
    except PandastackError as error:
        if not stands:
            raise
        await say(socket, {"error": error.message, "code": error.code})
    await hang_up(socket)


class _LeftError(Exception):
    """The client left."""


async def _converse(socket: WebSocket, viewer: Viewer) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            typing = group.create_task(_type(socket, viewer))
            await _show(socket, viewer)
            typing.cancel()
    except BaseExceptionGroup as errors:
        _, failed = errors.split(_LeftError)
        if failed is not None:
            raise failed.exceptions[0] from None
        log.debug("terminal.left")


async def _show(socket: WebSocket, viewer: Viewer) -> None:
    async for item in viewer.frames():
        try:
            if isinstance(item, bytes):
                await socket.send_bytes(item)
            else:
                await socket.send_text(msgspec.json.encode(told(item)).decode())
        except (WebSocketDisconnect, RuntimeError) as error:  # it left while we spoke
            raise _LeftError from error


async def _type(socket: WebSocket, viewer: Viewer) -> None:
    async for frame in heard(socket):
        try:
            await _obey(viewer, frame)
        except msgspec.MsgspecError as error:
            await say(socket, {"error": f"bad json: {error}"})
        except PandastackError as error:
            await say(socket, {"error": error.message, "code": error.code})
    raise _LeftError


async def _obey(viewer: Viewer, frame: bytes | str) -> None:
    if isinstance(frame, bytes):
        await viewer.write(frame)
        return
    order = msgspec.json.decode(frame, type=TerminalOrder)
    if order.resize is not None:
        await viewer.resize(order.resize.rows, order.resize.cols)
    if order.stdin is not None:
        await viewer.write(order.stdin.encode())


def told(notice: Notice) -> Mapping[str, object]:
    """A text frame of the server."""
    match notice:
        case Attached(replayed, size):
            return {"attached": {"replay_bytes": replayed, "size": _size(size)}}
        case Lagged(skipped, replayed, size):
            return {"lagged": {"skipped_bytes": skipped, "replay_bytes": replayed, "size": _size(size)}}
        case Live():
            return {"live": True}
        case Resized(rows, columns):
            return {"resize": {"rows": rows, "cols": columns}}
        case Ended(exit_code):
            return {"exit": exit_code}


def _size(size: tuple[int, int] | None) -> dict[str, int] | None:
    return None if size is None else {"rows": size[0], "cols": size[1]}


TERMINALS: tuple[Endpoint, ...] = (
    Endpoint("GET", ALL, list_all, "List terminals", answer=list[Terminal]),
    Endpoint("POST", ALL, create, "Start a terminal", body=TerminalRequest, answer=Terminal, status=201),
    Endpoint("GET", ONE, get, "Get a terminal", answer=Terminal),
    Endpoint("DELETE", ONE, end, "End a terminal", status=204, patient=True),
    Endpoint(WEBSOCKET, f"{ONE}/ws", attach, "Look at a terminal and type into it", query=Sight),
)
"""Rows of the table of endpoints."""
