"""Language servers over WebSockets: what both sides say is the bytes of the Language Server Protocol.

The client's frames, binary or text, go to the server's standard input as they are; its standard output comes
in binary frames, which need not begin or end where its messages do. Text frames of ours are JSON: a line of
its standard error, how it ended, or what is wrong.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct
from starlette.websockets import WebSocket, WebSocketDisconnect

from pandastack.api.calls import Api
from pandastack.api.sockets import hang_up, heard, say
from pandastack.endpoint import WEBSOCKET, Endpoint, Nothing
from pandastack.errors import MachineError, NotSupported, PandastackError
from pandastack.model.account import Scope
from pandastack.model.guest import Channel, Process
from pandastack.services.language_servers import NOT_FOUND, SERVERS, Installed, server_of
from pandastack.telemetry import logger

log = logger("lsp")

SUBPROTOCOL = "lsp"
LINE_MOST = 8 << 10
"""Bytes of standard error from which on a line is told in pieces."""


class LanguageList(Struct, frozen=True):
    """The languages that have a server, under both names that clients look for."""

    supported: tuple[str, ...]
    languages: tuple[str, ...]
    note: str


class Complaint(Struct, frozen=True):
    """Why there is nothing more to come, and what to do."""

    error: str
    hint: str
    code: str


async def languages(call: Api[None, Nothing]) -> LanguageList:
    names = tuple(SERVERS)
    return LanguageList(names, names, "A server is a program of the sandbox: its template has to have it.")


async def serve(call: Api[None, Nothing]) -> None:
    """Carry what is said until the server ends, the client leaves, or nobody has said anything for long."""
    servers, language = call.app.language_servers, call.path["language"]
    installed = server_of(language)
    async with servers.open(call.caller, call.path["sandbox_id"], language) as process:
        socket = WebSocket(call.connection.scope, call.receive, call.send)
        offered = SUBPROTOCOL in call.connection.scope.get("subprotocols", ())
        await socket.accept(subprotocol=SUBPROTOCOL if offered else None)
        await Conversation(socket, process, installed, servers.idle_seconds).last()
    await hang_up(socket)


class _LeftError(Exception):
    """The client left."""


class Conversation:
    """A client and the server that it listens to."""

    def __init__(
        self, socket: WebSocket, process: Process, installed: Installed, idle_seconds: float
    ) -> None:
        self._socket = socket
        self._process = process
        self._installed = installed
        self._idle_seconds = idle_seconds
        self._idle = asyncio.timeout(idle_seconds)
        self._said = b""
        self._spoke = False

    async def last(self) -> None:
        """Carry what is said until one of them has left. Errors that come are told to the client."""
        try:
            async with self._idle, asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen())
                await self._tell()
                listening.cancel()
        except* PandastackError as errors:
            error = errors.exceptions[0]
            code = error.code if isinstance(error, PandastackError) else MachineError.code
            await say(self._socket, {"error": str(error), "code": code})
        except* _LeftError:
            log.debug("lsp.left", process_id=self._process.id)
        except* TimeoutError:
            minutes = f"Nothing was said for {self._idle_seconds / 60:g} minutes."
            await say(self._socket, Complaint(minutes, "Connect again.", MachineError.code))

    async def _listen(self) -> None:
        async for frame in heard(self._socket):
            self._used()
            await self._process.write(frame.encode() if isinstance(frame, str) else frame)
        raise _LeftError

    async def _tell(self) -> None:
        async for piece in self._process.output():
            self._used()
            if piece.channel is Channel.STDERR:
                await self._complain(piece.data)
                continue
            self._spoke = True
            try:
                await self._socket.send_bytes(piece.data)
            except (WebSocketDisconnect, RuntimeError) as error:  # it left while we spoke
                raise _LeftError from error
        await self._complain(b"\n" if self._said else b"")
        ended = await self._process.wait()
        if ended.exit_code == NOT_FOUND and not self._spoke:
            missing = f"{self._installed.program} is not installed in this sandbox."
            await say(self._socket, Complaint(missing, self._installed.hint, NotSupported.code))
            return
        await say(self._socket, {"exit": ended.exit_code})

    async def _complain(self, data: bytes) -> None:
        """Tell the lines of its standard error that are whole by now."""
        *lines, self._said = (self._said + data).split(b"\n")
        while len(self._said) > LINE_MOST:
            lines.append(self._said[:LINE_MOST])
            self._said = self._said[LINE_MOST:]
        for line in lines:
            await say(self._socket, {"stream": "stderr", "line": line.decode("utf-8", "replace")})

    def _used(self) -> None:
        self._idle.reschedule(asyncio.get_running_loop().time() + self._idle_seconds)


LSP: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/lsp/languages",
        languages,
        "Languages that have a language server",
        scope=Scope.READ,
        answer=LanguageList,
    ),
    Endpoint(
        WEBSOCKET,
        "/v1/sandboxes/{sandbox_id}/lsp/{language}",
        serve,
        "Speak with a language server in it",
        subprotocol=SUBPROTOCOL,
    ),
)
"""Rows of the table of endpoints."""
