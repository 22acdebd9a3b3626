"""`sandbox.terminal()` and `sandbox.terminals`: interactive programs in the sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from pandastack.client import _wire
from pandastack.client._async.connection import AsyncConnection
from pandastack.client._errors import ConnectionError
from pandastack.client._pair import AsyncSocket, connect_async

LARGEST_MESSAGE_BYTES = 4 << 20


class AsyncTerminal:
    """A pseudo terminal in the sandbox. Iterating gives its output as bytes until its program ends.

    Of a terminal by name an empty piece tells that `is_live` or `gaps` has changed.
    """

    def __init__(self, socket: AsyncSocket) -> None:
        self._socket = socket
        self.exit_code: int | None = None
        """How the program ended, as far as the server told; None while it runs."""
        self.size: tuple[int, int] | None = None
        """Rows and columns, as far as the server told; None before. Other viewers may change it."""
        self.is_live = False
        """The output that comes is new: what a terminal by name is replayed at first has been told."""
        self.gaps = 0
        """How often this viewer was too slow: the last output that is kept came again behind each."""

    async def write(self, data: str | bytes) -> None:
        """Type into the terminal. ConnectionError when the connection broke."""
        await self._send(data.encode() if isinstance(data, str) else data)

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the program that the terminal has this size now. ConnectionError as for `write`."""
        size = {"resize": {"rows": rows, "cols": columns}}
        await self._send(msgspec.json.encode(size).decode())

    async def _send(self, message: bytes | str) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed as error:
            raise ConnectionError(f"The terminal's connection broke: {error}") from error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for message in self._socket:
                if isinstance(message, bytes):
                    yield message
                elif self._note(msgspec.json.decode(message)):
                    yield b""
        except ConnectionClosed as error:
            if self.exit_code is None:
                raise ConnectionError(f"The terminal's connection broke: {error}") from error

    def _note(self, record: dict[str, Any]) -> bool:
        """Take it in; whether what comes next is of another kind."""
        if "error" in record:
            raise _wire.stream_error(record)
        if isinstance(record.get("exit"), int):
            self.exit_code = record["exit"]
        if "lagged" in record:
            self.gaps += 1
            self.is_live = False
        if "live" in record:
            self.is_live = True
        self.size = _size(record) or self.size
        return "lagged" in record or "live" in record


def _size(record: dict[str, Any]) -> tuple[int, int] | None:
    """The size that a record tells: of the terminal as it is found, or as another viewer has made it."""
    found = record.get("attached") or record.get("lagged")
    size = found.get("size") if isinstance(found, dict) else record.get("resize")
    return (size["rows"], size["cols"]) if isinstance(size, dict) else None


@asynccontextmanager
async def open_terminal(
    connection: AsyncConnection, path: str, params: dict[str, str]
) -> AsyncIterator[AsyncTerminal]:
    """Connect a terminal; leaving the block hangs up, which ends its program unless that has a name."""
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
