"""What visitors are answered: which sandbox they mean, and what its service says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import ClientPayloadError, HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict

from pandastack.errors import InternalError, InvalidRequest, PandastackError, PortClosed
from pandastack.gateway.entries import COOKIES, Entries
from pandastack.gateway.hosts import named, plain_host
from pandastack.gateway.refusals import Misdirected, TooSlow, refusal
from pandastack.gateway.sockets import relay
from pandastack.gateway.visitor import Limits, Visitor
from pandastack.proxy import devtools
from pandastack.proxy.answer import SWITCHING, told
from pandastack.proxy.exchange import Answer, Patience, exchanged
from pandastack.proxy.head import Head, Site, read_head, write_head
from pandastack.proxy.live import Page, page_at
from pandastack.proxy.upgrade import check_consent, wants_websocket
from pandastack.services.browsers import Browsers
from pandastack.services.ports import DEVTOOLS, Ports
from pandastack.services.previews import Previews, Visit
from pandastack.telemetry import logger

log = logger("gateway")

LINK = re.compile(rb"(/v1/p/([A-Za-z0-9_.-]+))(/[^?]*)?(\?.*)?", re.DOTALL)
CLIENT_GONE = 499
"""Nobody is told it."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Front:
    """Answers one request after another."""

    def __init__(
        self, ports: Ports, previews: Previews, limits: Limits, *, suffix: str, address: str | None
    ) -> None:
        self._ports = ports
        self._previews = previews
        self._browsers = Browsers(ports, previews)
        self._limits = limits
        self._suffix = suffix.lower()
        outside = urlsplit(address or "")
        self._scheme = outside.scheme or "http"
        self._entries = Entries(previews, self._scheme)
        self._link_hosts = frozenset({self._suffix, (outside.hostname or self._suffix).lower()})

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request."""
        visitor = request.protocol
        assert isinstance(visitor, Visitor)  # noqa: S101  # what the door makes
        with visitor.busy():
            try:
                return await self._answer(request)
            except PandastackError as error:
                failed = error
            except ConnectionError:  # the visitor has left
                visitor.cut()
                return web.Response(status=CLIENT_GONE)
            except Exception:  # a bug of ours: the log has it, the visitor a sentence
                log.exception("request.crashed", host=request.headers.get("host", ""))
                failed = InternalError("Something went wrong on our side.")
            if request.writer.output_size:
                visitor.cut()
            answer = refusal(failed)
            if "upgrade" in request.headers:
                answer.force_close()
            return answer

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        head = _head(request)
        name = named(plain_host(head.host), self._suffix)
        if name is not None and (entry := await self._entries.entered(head, name)) is not None:
            return entry
        visit, target, site = await self._where(head, request.remote or "unknown")
        if visit.port == DEVTOOLS:
            return await self._browse(request, head, visit, target, site)
        websocket = wants_websocket(head)
        written = write_head(head, target, site, websocket=websocket)
        body = _body(request, head, self._limits)
        first = await anext(body, b"")  # before anybody is woken for it, and whether it can be read at all
        async with (
            self._ports.reach(visit.caller, visit.sandbox_id, visit.port) as connection,
            exchanged(connection, head, written, _behind(first, body), Patience()) as answer,
        ):
            if websocket and answer.status == SWITCHING:
                check_consent(answer, head)
                return await relay(request, connection, answer)
            if answer.status == SWITCHING:
                raise PortClosed("upstream: the service switches protocols although nobody asked it to")
            return await _pass_on(request, answer, own_origin=not site.prefix)

    async def _browse(
        self, request: web.BaseRequest, head: Head, visit: Visit, target: bytes, site: Site
    ) -> web.StreamResponse:
        """The answer to who comes by the link of a browser. Errors: those of `devtools`, BrowserDown."""
        if page := page_at(head, target, site):
            return _shown(page)
        websocket = wants_websocket(head)
        asked = devtools.inward(head, target, site)
        reach = partial(self._browsers.reach, visit.caller, visit.sandbox_id)
        if websocket:
            target = await devtools.running(target, reach())
        written = write_head(asked, target, site, websocket=websocket)
        body = _body(request, asked, self._limits)
        async with (
            reach() as connection,
            exchanged(connection, asked, written, body, devtools.PATIENCE) as answer,
        ):
            if websocket:
                check_consent(answer, asked)
                return await relay(request, connection, answer)
            if answer.status == SWITCHING:
                raise PortClosed("upstream: the browser switches protocols although nobody asked it to")
            return _shown(await devtools.outward(answer, head.host, site))

    async def _where(self, head: Head, client: str) -> tuple[Visit, bytes, Site]:
        """Who visits what, and what of the target is the service's.

        Errors: those of previews, Misdirected.
        """
        host = plain_host(head.host)
        if (name := named(host, self._suffix)) is not None:
            visit = await self._entries.visit(head, name)
            site = Site(visit.sandbox_id, visit.port, self._scheme, client, cookies=COOKIES)
            return visit, head.target, site
        if host not in self._link_hosts:
            raise Misdirected(
                f"No sandbox has this name: a preview is at <port>-<sandbox id>.{self._suffix}."
            )
        found = LINK.fullmatch(head.target)
        if found is None:
            raise Misdirected("There is nothing here: previews have names, or links, of their own.")
        prefix, token, path, query = found.groups()
        visit = await self._previews.admit(token.decode(), path or b"/")
        site = Site(visit.sandbox_id, visit.port, self._scheme, client, prefix=prefix)
        return visit, (path or b"/") + (query or b""), site


def _head(request: web.BaseRequest) -> Head:
    if request.version not in (HttpVersion10, HttpVersion11):
        raise InvalidRequest("A request is HTTP/1.1, or HTTP/1.0.")
    target = request.raw_path.encode("utf-8", "surrogateescape")
    return read_head(request.method, target, request.raw_headers, old=request.version == HttpVersion10)


async def _body(request: web.BaseRequest, head: Head, limits: Limits) -> AsyncIterator[bytes]:
    """The body's pieces. Errors: InvalidRequest where it cannot be read, TooSlow."""
    if not head.has_body:
        return
    if b"100-continue" in head.lists(b"expect") and request.transport is not None:
        request.transport.write(CONTINUE)
    loop = asyncio.get_running_loop()
    began, size = loop.time(), 0
    while True:
        left = limits.body + size / limits.body_rate - (loop.time() - began)
        try:
            async with asyncio.timeout(min(limits.body, left)):
                piece = await request.content.readany()
        except TimeoutError:
            raise TooSlow("The request's body did not come in time.") from None
        except (ClientPayloadError, HttpProcessingError, web.RequestPayloadError) as error:
            raise InvalidRequest("The request's body cannot be read.") from error
        if not piece:
            return
        size += len(piece)
        yield piece


async def _behind(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


async def _pass_on(request: web.BaseRequest, answer: Answer, *, own_origin: bool) -> web.StreamResponse:
    headers = CIMultiDict(
        (name.decode("latin-1"), value.decode(errors="replace"))
        for name, value in told(answer.headers, own_origin=own_origin)
    )
    headers.setdefault("server", "pandastack")
    if answer.length is not None:
        headers["content-length"] = str(answer.length)
    response = web.StreamResponse(status=answer.status, reason=_phrase(answer.status), headers=headers)
    await response.prepare(request)
    if not answer.bodiless:
        async for piece in answer.body():
            await response.write(piece)
    return response


def _shown(page: Page) -> web.Response:
    headers = CIMultiDict((name.decode(), value.decode()) for name, value in page.headers)
    headers.setdefault("server", "pandastack")
    return web.Response(status=page.status, headers=headers, body=page.body)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
