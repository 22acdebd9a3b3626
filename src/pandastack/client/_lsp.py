"""Messages of the Language Server Protocol as bytes, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pandastack.client._errors import ConnectionError

FRAME_BYTES = 256 << 10
"""Of one frame that is sent; the server takes four times as many."""
HEAD_MOST = 4096
MESSAGE_MOST = 64 << 20
END = b"\r\n\r\n"
LENGTH = b"content-length:"

LineCallback = Callable[[str], object]


def framed(message: Mapping[str, Any]) -> bytes:
    """A message behind its header. JSON-RPC's version is added when it lacks."""
    body = msgspec.json.encode({"jsonrpc": "2.0", **message})
    return b"Content-Length: %d\r\n\r\n" % len(body) + body


class Messages:
    """Finds messages in bytes that come in pieces."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def add(self, piece: bytes) -> list[dict[str, Any]]:
        """Those that are whole by now. ConnectionError for what is not the protocol."""
        self._waiting += piece
        found = []
        while (message := self._next()) is not None:
            found.append(message)
        return found

    def _next(self) -> dict[str, Any] | None:
        end = self._waiting.find(END, 0, HEAD_MOST)
        if end < 0:
            if len(self._waiting) >= HEAD_MOST:
                raise ConnectionError("What the language server says is not the Language Server Protocol.")
            return None
        begin = end + len(END)
        size = _length(bytes(self._waiting[:end]))
        if len(self._waiting) < begin + size:
            return None
        body = bytes(self._waiting[begin : begin + size])
        del self._waiting[: begin + size]
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ConnectionError(f"What the language server says is no message: {error}") from error


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        text = line.removeprefix(LENGTH).strip()
        if line.startswith(LENGTH) and text.isdigit() and len(text) < 12 and int(text) <= MESSAGE_MOST:
            return int(text)
    raise ConnectionError("A message of the language server does not tell how long it is.")
