"""Requests to services in sandboxes, through the API's own server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from pandastack.endpoint import inflow
from pandastack.errors import PortClosed
from pandastack.model.account import Caller
from pandastack.model.guest import Connection
from pandastack.proxy.answer import SWITCHING, told
from pandastack.proxy.exchange import Answer, Patience, exchanged
from pandastack.proxy.head import Head, Site, write_head
from pandastack.services.ports import Ports


class Passage:
    """An ASGI application that answers one request as the service does."""

    def __init__(
        self, ports: Ports, caller: Caller, site: Site, head: Head, target: bytes, beat_seconds: float
    ) -> None:
        self.site = site
        self.head = head
        self.target = target
        self._ports = ports
        self._caller = caller
        self._beat_seconds = beat_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        written = write_head(self.head, self.target, self.site)
        async with (
            inflow(Request(scope, receive), self._beat_seconds) as body,
            self.reached() as connection,
            exchanged(connection, self.head, written, body, Patience()) as answer,
        ):
            if answer.status == SWITCHING:
                raise PortClosed("upstream: the service switches protocols although nobody asked it to")
            await _pass_on(answer, send)

    @asynccontextmanager
    async def reached(self) -> AsyncIterator[Connection]:
        """The service, while the block lasts."""
        async with self._ports.reach(self._caller, self.site.sandbox_id, self.site.port) as connection:
            yield connection


async def _pass_on(answer: Answer, send: Send) -> None:
    headers = told(answer.headers, own_origin=False)
    if answer.length is not None:
        headers.append((b"content-length", b"%d" % answer.length))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if not answer.bodiless:
        async for piece in answer.body():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
