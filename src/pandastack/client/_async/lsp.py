"""`sandbox.lsp()`: a language server in the sandbox, for editors and for agents that write code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from websockets.exceptions import ConnectionClosed

from pandastack.client import _wire
from pandastack.client._async.handle import AsyncHandle
from pandastack.client._async.terminal import open_socket
from pandastack.client._errors import ConnectionError
from pandastack.client._lsp import FRAME_BYTES, LineCallback, Messages, framed
from pandastack.client._pair import AsyncSocket


class AsyncLanguageServer:
    """A language server that runs for as long as it is listened to. Iterating gives its messages until it
    ends.
    """

    def __init__(self, socket: AsyncSocket, on_stderr: LineCallback | None) -> None:
        self._socket = socket
        self._on_stderr = on_stderr
        self.exit_code: int | None = None
        """How it ended; None while it runs."""

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a request, an answer or a notification. ConnectionError when the connection broke."""
        await self.write(framed(message))

    async def write(self, data: bytes) -> None:
        """Send bytes as they are: messages with their headers, or pieces of some."""
        try:
            for start in range(0, len(data), FRAME_BYTES):
                await self._socket.send(data[start : start + FRAME_BYTES])
        except ConnectionClosed as error:
            raise ConnectionError(f"The connection to the language server broke: {error}") from error

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        messages = Messages()
        async for piece in self.pieces():
            for message in messages.add(piece):
                yield message

    async def pieces(self) -> AsyncIterator[bytes]:
        """What it says as bytes, not cut as its messages are. BadRequestError when it is not installed in
        the sandbox, ConnectionError when the connection broke, ServerError when nothing was said for long.
        """
        try:
            async for message in self._socket:
                if isinstance(message, bytes):
                    yield message
                else:
                    self._note(msgspec.json.decode(message))
        except ConnectionClosed as error:
            if self.exit_code is None:
                raise ConnectionError(f"The connection to the language server broke: {error}") from error

    def _note(self, record: dict[str, Any]) -> None:
        if "error" in record:
            told = f"{record['error']} {record.get('hint', '')}".strip()
            raise _wire.stream_error({**record, "error": told})
        if isinstance(record.get("exit"), int):
            self.exit_code = record["exit"]
        if self._on_stderr is not None and record.get("stream") == "stderr":
            self._on_stderr(str(record.get("line", "")))


class AsyncLanguageVerbs(AsyncHandle):
    """The verb of a sandbox that is about language servers."""

    @asynccontextmanager
    async def lsp(
        self, language: str = "python", *, on_stderr: LineCallback | None = None
    ) -> AsyncIterator[AsyncLanguageServer]:
        """A language server for a `with` block, which ends it; lines that it complains with go to
        `on_stderr`. The files that it knows are the sandbox's own.

        Errors: BadRequestError for a language that has none.
        """
        path = f"{self._path}/lsp/{_wire.segment(language)}"
        async with open_socket(self._connection, path, {}) as socket:
            yield AsyncLanguageServer(socket, on_stderr)
