# Made from `../_async/terminal.py` by `scripts/unasync`: change that file.
"""`sandbox.terminal()`: an interactive shell in the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from pandastack.client import _wire
from pandastack.client._errors import ConnectionError
from pandastack.client._pair import Socket, connect
from pandastack.client._sync.connection import Connection

LARGEST_MESSAGE_BYTES = 4 << 20


class Terminal:
    """A pseudo terminal in the sandbox. Iterating gives its output as bytes until its program ends."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self.exit_code: int | None = None
        """How the program ended, as far as the server told; None while it runs."""

    def write(self, data: str | bytes) -> None:
        """Type into the terminal."""
        self._socket.send(data.encode() if isinstance(data, str) else data)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the program that the terminal has this size now."""
        size = {"resize": {"rows": rows, "cols": columns}}
        self._socket.send(msgspec.json.encode(size).decode())

    def __iter__(self) -> Iterator[bytes]:
        try:
            for message in self._socket:
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


@contextmanager
def open_terminal(connection: Connection, path: str, params: dict[str, str]) -> Iterator[Terminal]:
    """Connect a terminal; leaving the block hangs up, which ends its program."""
    with open_socket(connection, path, params) as socket:
        yield Terminal(socket)


@contextmanager
def open_socket(connection: Connection, path: str, params: dict[str, str]) -> Iterator[Socket]:
    """A WebSocket of the API, with the client's key; errors before it stands are those of any request."""
    url = f"{_wire.socket_url(connection.settings.api_url, path)}?{urlencode(params)}"
    try:
        with connect(
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
