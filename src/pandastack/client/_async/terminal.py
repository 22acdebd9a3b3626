"""`sandbox.terminal()`: an interactive shell in the sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from pandastack.client import _wire
from pandastack.client._async.connection import AsyncConnection
from pandastack.client._errors import ConnectionError
from pandastack.client._pair import AsyncSocket, connect_async

LARGEST_MESSAGE_BYTES = 4 << 20


class AsyncTerminal:
    """A pseudo terminal in the sandbox. Iterating gives its output as bytes until its program ends."""

    def __init__(self, socket: AsyncSocket) -> None:
        self._socket = socket
        self.exit_code: int | None = None
        """How the program ended, as far as the server told; None while it runs."""

    async def write(self, data: str | bytes) -> None:
        """Type into the terminal."""
        await self._socket.send(data.encode() if isinstance(data, str) else data)

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the program that the terminal has this size now."""
        size = {"resize": {"rows": rows, "cols": columns}}
        await self._socket.send(msgspec.json.encode(size).decode())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for message in self._socket:
                if isinstance(message, bytes):
                    yield message
                else:
                    self._note(msgspec.json.decode(message))
        except ConnectionClosed as error:
            if self.exit_code is None:
                raise ConnectionError(f"The terminal's connection broke: {error}") from error

    def _note(self, record: dict[str, object]) -> None:
        if "error" in record:
            raise _wire.stream_error(record)
        code = record.get("exit")
        if isinstance(code, int):
            self.exit_code = code


@asynccontextmanager
async def open_terminal(
    connection: AsyncConnection, path: str, params: dict[str, str]
) -> AsyncIterator[AsyncTerminal]:
    """Connect a terminal; leaving the block hangs up, which ends its program."""
    async with open_socket(connection, path, params) as socket:
        yield AsyncTerminal(socket)


@asynccontextmanager
async def open_socket(
    connection: AsyncConnection, path: str, params: dict[str, str]
) -> AsyncIterator[AsyncSocket]:
    """A WebSocket of the API, with the client's key; errors before it stands are those of any request."""
    url = f"{_wire.socket_url(connection.settings.api_url, path)}?{urlencode(params)}"
    try:
        async with connect_async(
            url,
            additional_headers=_wire.auth_headers(connection.settings.api_key),
            user_agent_header=_wire.USER_AGENT,
            open_timeout=_wire.CONNECT_SECONDS,
            max_size=LARGEST_MESSAGE_BYTES,
            compression=None,
            proxy=None,
        ) as socket:
            yield socket
    except InvalidStatus as error:
        response = error.response
        raise _wire.error_of(
            response.status_code, bytes(response.body or b""), response.headers.get("content-type", "")
        ) from error
    except (InvalidHandshake, OSError, TimeoutError) as error:
        raise ConnectionError(f"No WebSocket at {connection.settings.api_url}: {error}") from error
