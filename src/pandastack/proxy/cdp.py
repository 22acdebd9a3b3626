"""Orders to a browser in the Chrome DevTools Protocol, and what they give: pictures of pages, and PDFs.

Methods and events are those of the Chrome DevTools Protocol, which the browser itself tells at
`/json/protocol`.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from binascii import Error as NotBase64
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec import Struct
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from pandastack.errors import BrowserDown, InvalidRequest
from pandastack.model.guest import Connection
from pandastack.proxy.devtools import BROWSER, LOCAL, MESSAGE_BYTES, Connecting, running

Reach = Callable[[], Connecting]
"""Makes connections to the browser."""


class View(Struct, frozen=True, kw_only=True):
    """Which page: one that is opened at `url` and closed again, or the one that is there. Pixels."""

    url: str | None = None
    width: int | None = None
    height: int | None = None
    full_page: bool = False


class Browser:
    """A conversation with a browser. One task has it."""

    def __init__(self, connection: Connection, protocol: ClientProtocol) -> None:
        self._connection = connection
        self._protocol = protocol
        self._number = 0
        self._parts: list[bytes] = []
        self._arrived: deque[object] = deque()
        self._events: list[dict[str, Any]] = []

    async def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        """The result of an order. Errors: InvalidRequest when the browser does not take it, BrowserDown."""
        self._number += 1
        order = {"id": self._number, "method": method, "params": params}
        self._protocol.send_text(msgspec.json.encode(order | ({"sessionId": session} if session else {})))
        await self._flush()
        while True:
            told = await self._message()
            if told.get("id") != self._number:
                self._events.append(told)
                continue
            if error := told.get("error"):
                raise InvalidRequest(f"The browser refused {method}: {error.get('message', error)}")
            result: dict[str, Any] = told.get("result", {})
            return result

    async def until(self, event: str, session: str) -> None:
        """Return once this has happened in a page. Errors: BrowserDown."""
        while True:
            while self._events:
                told = self._events.pop(0)
                if told.get("method") == event and told.get("sessionId") == session:
                    return
            self._events.append(await self._message())

    async def greet(self) -> None:
        """Return once the WebSocket stands. Errors: BrowserDown."""
        self._protocol.send_request(self._protocol.connect())
        await self._flush()
        while not isinstance(await self._received(), Response):
            pass
        if self._protocol.handshake_exc is not None:
            raise BrowserDown("The browser takes no orders now.")

    async def _message(self) -> dict[str, Any]:
        while True:
            event = await self._received()
            if not isinstance(event, Frame) or event.opcode not in (Opcode.TEXT, Opcode.CONT):
                continue
            self._parts.append(bytes(event.data))
            if event.fin:
                whole, self._parts = b"".join(self._parts), []
                return _object(whole)

    async def _received(self) -> object:
        """What came next; bytes may bring several messages at once, and none of them is lost."""
        while not self._arrived:
            data = await self._connection.read()
            if not data:
                raise BrowserDown("The browser has ended the conversation.")
            try:
                self._protocol.receive_data(data)
            except InvalidHandshake as error:
                raise BrowserDown("The browser takes no orders now.") from error
            await self._flush()
            self._arrived.extend(self._protocol.events_received())
        return self._arrived.popleft()

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                await self._connection.write(data)


def _object(text: bytes) -> dict[str, Any]:
    try:
        told = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise BrowserDown("The browser says what is no JSON.") from error
    if not isinstance(told, dict):
        raise BrowserDown("The browser says what is no message.")
    return told


@asynccontextmanager
async def conversing(reach: Reach) -> AsyncIterator[Browser]:
    """A conversation with the browser that runs now. Errors: BrowserDown, those of `reach`."""
    path = (await running(BROWSER, reach())).decode()
    protocol = ClientProtocol(parse_uri(f"ws://{LOCAL.decode()}{path}"), max_size=MESSAGE_BYTES)
    async with reach() as connection:
        browser = Browser(connection, protocol)
        await browser.greet()
        yield browser


async def picture(reach: Reach, view: View, *, seconds: float) -> bytes:
    """A page as a PNG. Errors: InvalidRequest, also when it does not load in time, BrowserDown."""
    options: dict[str, object] = {"format": "png", "captureBeyondViewport": view.full_page}
    return await _of_page(reach, view, seconds, "Page.captureScreenshot", options)


async def printed(reach: Reach, view: View, *, seconds: float) -> bytes:
    """A page as a PDF. Errors: as of `picture`."""
    options: dict[str, object] = {"printBackground": True, "preferCSSPageSize": True}
    return await _of_page(reach, view, seconds, "Page.printToPDF", options)


async def _of_page(
    reach: Reach, view: View, seconds: float, method: str, options: dict[str, object]
) -> bytes:
    try:
        async with asyncio.timeout(seconds), conversing(reach) as browser, _page(browser, view) as session:
            if view.full_page:
                options["clip"] = await _extent(browser, session)
            told = await browser.call(method, session, **options)
    except TimeoutError:
        raise InvalidRequest(f"The page was not there within {seconds:g} s.") from None
    try:
        return b64decode(told.get("data", ""), validate=True)
    except (NotBase64, TypeError) as error:
        raise BrowserDown("The browser's answer is none.") from error


@asynccontextmanager
async def _page(browser: Browser, view: View) -> AsyncIterator[str]:
    """The session of a page that has loaded."""
    if view.url is None:
        yield await _attached(browser, await _first(browser), view)
        return
    target = str((await browser.call("Target.createTarget", url="about:blank"))["targetId"])
    try:
        session = await _attached(browser, target, view)
        await browser.call("Page.enable", session)
        told = await browser.call("Page.navigate", session, url=view.url)
        if reason := told.get("errorText"):
            raise InvalidRequest(f"The browser cannot show {view.url}: {reason}.")
        await browser.until("Page.loadEventFired", session)
        yield session
    finally:
        await browser.call("Target.closeTarget", targetId=target)


async def _first(browser: Browser) -> str:
    found = (await browser.call("Target.getTargets")).get("targetInfos", [])
    pages = [each["targetId"] for each in found if each.get("type") == "page"]
    if not pages:
        raise InvalidRequest("The browser has no page open: say which `url`.")
    return str(pages[0])


async def _attached(browser: Browser, target: str, view: View) -> str:
    told = await browser.call("Target.attachToTarget", targetId=target, flatten=True)
    session = str(told["sessionId"])
    if view.width or view.height:
        size = {"width": view.width or 1280, "height": view.height or 800}
        await browser.call(
            "Emulation.setDeviceMetricsOverride", session, **size, deviceScaleFactor=1, mobile=False
        )
    return session


async def _extent(browser: Browser, session: str) -> dict[str, object]:
    size = (await browser.call("Page.getLayoutMetrics", session))["cssContentSize"]
    return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
