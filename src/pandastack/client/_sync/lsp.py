# Made from `../_async/lsp.py` by `scripts/unasync`: change that file.
"""`sandbox.lsp()`: a language server in the sandbox, for editors and for agents that write code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from websockets.exceptions import ConnectionClosed

from pandastack.client import _wire
from pandastack.client._errors import ConnectionError
from pandastack.client._lsp import FRAME_BYTES, LineCallback, Messages, framed
from pandastack.client._pair import Socket
from pandastack.client._sync.handle import Handle
from pandastack.client._sync.terminal import open_socket


class LanguageServer:
    """A language server that runs for as long as it is listened to. Iterating gives its messages until it
    ends.
    """

    def __init__(self, socket: Socket, on_stderr: LineCallback | None) -> None:
        self._socket = socket
        self._on_stderr = on_stderr
        self.exit_code: int | None = None
        """How it ended; None while it runs."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a request, an answer or a notification. ConnectionError when the connection broke."""
        self.write(framed(message))

    def write(self, data: bytes) -> None:
        """Send bytes as they are: messages with their headers, or pieces of some."""
        try:
            for start in range(0, len(data), FRAME_BYTES):
                self._socket.send(data[start : start + FRAME_BYTES])
        except ConnectionClosed as error:
            raise ConnectionError(f"The connection to the language server broke: {error}") from error

    def __iter__(self) -> Iterator[dict[str, Any]]:
        messages = Messages()
        for piece in self.pieces():
            yield from messages.add(piece)

    def pieces(self) -> Iterator[bytes]:
        """What it says as bytes, not cut as its messages are. BadRequestError when it is not installed in
        the sandbox, ConnectionError when the connection broke, ServerError when nothing was said for long.
        """
        try:
            for message in self._socket:
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


class LanguageVerbs(Handle):
    """The verb of a sandbox that is about language servers."""

    @contextmanager
    def lsp(
        self, language: str = "python", *, on_stderr: LineCallback | None = None
    ) -> Iterator[LanguageServer]:
        """A language server for a `with` block, which ends it; lines that it complains with go to
        `on_stderr`. The files that it knows are the sandbox's own.

        Errors: BadRequestError for a language that has none.
        """
        path = f"{self._path}/lsp/{_wire.segment(language)}"
        with open_socket(self._connection, path, {}) as socket:
            yield LanguageServer(socket, on_stderr)
