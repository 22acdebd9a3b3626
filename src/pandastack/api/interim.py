"""Our HTTP server's additions: `100 Continue` while an answer is still being made, and a limit on request
heads.

A client gives up when nothing comes for its read timeout (30 s for many), although a command may be silent
for longer. Any number of interim responses may come before the final one (RFC 9110, 15.2); clients skip them,
and each one starts their read timeout anew. So a silent command neither breaks the connection nor spoils the
status of its answer.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pandastack.endpoint import INTERIM

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HEAD_BYTES = 64 << 10
"""Most of a request line and its headers; the parser itself would take any amount."""


class InterimProtocol(HttpToolsProtocol):
    """HTTP/1.1 by httptools, with the ASGI extension that sends an interim response."""

    _head_bytes: int | None = 0
    """Bytes that came since the last request was whole; None while a body comes."""

    def data_received(self, data: bytes) -> None:
        """As ever; a head that does not end is answered 400 and the connection closed."""
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is not None and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def on_headers_complete(self) -> None:
        """As ever, with the extension in the scope of requests that can have interim responses."""
        self._head_bytes = None
        if self.parser.get_http_version() == "1.1":
            self.scope["extensions"] = {INTERIM: {"send": self._send_interim}}
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """As ever."""
        self._head_bytes = 0
        super().on_message_complete()

    async def _send_interim(self) -> None:
        cycle = self.cycle
        if not cycle.response_started and not cycle.disconnected and not self.transport.is_closing():
            self.transport.write(CONTINUE)
