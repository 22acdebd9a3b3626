"""Our HTTP server's one addition: `100 Continue` while an answer is still being made.

A client gives up when nothing comes for its read timeout (30 s for many), although a command may be silent for longer.
Any number of interim responses may come before the final one (RFC 9110, 15.2); clients skip them, and each one starts
their read timeout anew. So a silent command neither breaks the connection nor spoils the status of its answer.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pandastack.endpoint import INTERIM

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class InterimProtocol(HttpToolsProtocol):
    """HTTP/1.1 by httptools, with the ASGI extension that sends an interim response."""

    def on_headers_complete(self) -> None:
        """As above, with the extension in the scope of requests that can have interim responses."""
        if self.parser.get_http_version() == "1.1":
            self.scope["extensions"] = {INTERIM: {"send": self._send_interim}}  # type: ignore[typeddict-item]  # ours
        super().on_headers_complete()

    async def _send_interim(self) -> None:
        cycle = self.cycle
        if not cycle.response_started and not cycle.disconnected and not self.transport.is_closing():
            self.transport.write(CONTINUE)
