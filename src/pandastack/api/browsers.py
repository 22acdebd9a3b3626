"""Browsers of sandboxes: a link by which programs drive one and people look at it, pictures and PDFs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Annotated

from msgspec import Meta, Struct
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pandastack.api.calls import Api
from pandastack.api.passages import Passage
from pandastack.api.relays import relay_messages
from pandastack.endpoint import Nothing
from pandastack.errors import InvalidRequest
from pandastack.model.guest import Connection
from pandastack.proxy import cdp, devtools
from pandastack.proxy.exchange import exchanged
from pandastack.proxy.head import Head, Site, write_head
from pandastack.proxy.live import Page, page_at
from pandastack.proxy.upgrade import wants_websocket
from pandastack.services.previews import TTL_DEFAULT, TTL_MOST, Visit

PNG, PDF = "image/png", "application/pdf"
SECONDS_DEFAULT, SECONDS_MOST = 30.0, 300.0
PIXELS_MOST = 8192

Pixels = Annotated[int, Meta(ge=1, le=PIXELS_MOST)]


class HowLong(Struct, frozen=True, forbid_unknown_fields=True):
    """How many seconds the link is good."""

    ttl_seconds: Annotated[int, Meta(ge=1, le=TTL_MOST)] = TTL_DEFAULT


class BrowserLink(Struct, frozen=True):
    """A browser, for whoever has this until `expires_at`: all that it shows and is logged in to.

    `cdp_url` is for programs that speak the Chrome DevTools Protocol over a WebSocket, `http_url` for those
    that ask for that address first, `live_url` for people.
    """

    cdp_url: str
    http_url: str
    live_url: str
    browser: str
    expires_at: datetime


class PageRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A page: opened at `url` in a tab of its own and closed again, or without one the first that is open."""

    url: str | None = None
    width: Pixels | None = None
    height: Pixels | None = None
    timeout_seconds: Annotated[float, Meta(gt=0, le=SECONDS_MOST)] = SECONDS_DEFAULT


class ScreenshotRequest(PageRequest, frozen=True, forbid_unknown_fields=True):
    """A page, whose picture shows what fits into the window, or with `full_page` all of it."""

    full_page: bool = False


async def link(call: Api[None, HowLong]) -> BrowserLink:
    """Make a link to the browser, which is woken for it. Errors: BrowserDown."""
    browsers, sandbox_id = call.app.browsers, call.path["sandbox_id"]
    made = await browsers.link(call.caller, sandbox_id, call.query.ttl_seconds)
    told = await devtools.version(browsers.reach(call.caller, sandbox_id))
    base = call.app.preview_base or f"{call.connection.url.scheme}://{call.connection.url.netloc}"
    http = f"{base}/v1/p/{made.token}"
    web_socket = http.replace("http", "ws", 1) + devtools.BROWSER.decode()
    return BrowserLink(web_socket, http, f"{http}/live", str(told.get("Browser", "")), made.expires_at)


async def screenshot(call: Api[ScreenshotRequest, Nothing]) -> Response:
    """A page of the browser as a PNG. Errors: InvalidRequest, BrowserDown."""
    asked = call.body
    view = cdp.View(url=asked.url, width=asked.width, height=asked.height, full_page=asked.full_page)
    image = await cdp.picture(_reach(call), view, seconds=asked.timeout_seconds)
    return Response(image, media_type=PNG)


async def pdf(call: Api[PageRequest, Nothing]) -> Response:
    """A page of the browser as a PDF. Errors: InvalidRequest, BrowserDown."""
    asked = call.body
    view = cdp.View(url=asked.url, width=asked.width, height=asked.height)
    paper = await cdp.printed(_reach(call), view, seconds=asked.timeout_seconds)
    return Response(paper, media_type=PDF)


def _reach(call: Api[PageRequest, Nothing] | Api[ScreenshotRequest, Nothing]) -> cdp.Reach:
    return partial(call.app.browsers.reach, call.caller, call.path["sandbox_id"])


class BrowserPassage(Passage):
    """A request that came by a browser's link, on its way to the browser."""

    def __init__(self, call: Api[None, Nothing], visit: Visit, site: Site, head: Head, target: bytes) -> None:
        super().__init__(call.app.ports, visit.caller, site, head, target, call.app.beat_seconds)
        self._browsers = call.app.browsers
        self._visit = visit
        self._asked = devtools.inward(head, target, site)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        written = write_head(self._asked, self.target, self.site)
        async with (
            self.reached() as connection,
            exchanged(connection, self._asked, written, _nothing(), devtools.PATIENCE) as answer,
        ):
            page = await devtools.outward(answer, self.head.host, self.site)
        await _shown(page)(scope, receive, send)

    @asynccontextmanager
    async def reached(self) -> AsyncIterator[Connection]:
        async with self._browsers.reach(self._visit.caller, self._visit.sandbox_id) as connection:
            yield connection

    async def converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry the messages of a WebSocket. Errors: BrowserDown."""
        self.target = await devtools.running(self.target, self.reached())
        self.head = self._asked
        await relay_messages(self, scope, receive, send, message_bytes=devtools.MESSAGE_BYTES)


async def browse(
    call: Api[None, Nothing], visit: Visit, site: Site, head: Head, target: bytes
) -> ASGIApp | None:
    """Answer who comes by the link of a browser. Errors: NotFound, Forbidden, InvalidRequest, BrowserDown."""
    scope = call.connection.scope
    if scope["type"] != "http":
        await BrowserPassage(call, visit, site, head, target).converse(scope, call.receive, call.send)
        return None
    if page := page_at(head, target, site):
        return _shown(page)
    if wants_websocket(head) or head.has_body:
        raise InvalidRequest("A browser's link takes plain requests and WebSockets.")
    return BrowserPassage(call, visit, site, head, target)


def _shown(page: Page) -> Response:
    headers = {name.decode(): value.decode() for name, value in page.headers}
    headers.setdefault("cross-origin-resource-policy", "same-origin")
    return Response(page.body, page.status, headers)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
