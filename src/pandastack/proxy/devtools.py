"""What comes by a link to the port on which a browser takes orders (DevTools), and what of it is let through.

Chromium answers only those who call it by an address or as localhost, and refuses pages; a link comes by any
name. So who asks is checked here, and the browser is asked anew, as by a program beside it. Its answers tell
WebSocket addresses, which become those of the link. `devtools/browser` without the number that Chromium gives
itself at each start leads to whichever browser runs now.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from pandastack.errors import BrowserDown, Forbidden, NotFound, PortClosed
from pandastack.model.guest import Connection
from pandastack.proxy.exchange import Answer, Patience, exchanged
from pandastack.proxy.head import Head, Site
from pandastack.proxy.live import Page
from pandastack.services.ports import DEVTOOLS

LOCAL = b"127.0.0.1:%d" % DEVTOOLS
"""By which name the browser is called."""
BROWSER = b"/devtools/browser"
ORDERS = re.compile(rb"/json(?:/[a-z]+(?:/[0-9A-Za-z-]*)?)?/?|/devtools/(?:browser|page)(?:/[0-9A-Za-z-]+)?")
"""The paths at which Chromium takes orders; its pages are not for other origins."""
ANSWER_BYTES = 4 << 20
"""A list of some thousand pages."""
MESSAGE_BYTES = 256 << 20
"""Of one message: a picture of a long page comes in one."""
PATIENCE = Patience(answer=30.0)

_OURS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
JSON = ((b"content-type", b"application/json; charset=utf-8"), *_OURS)
TEXT = ((b"content-type", b"text/plain; charset=utf-8"), *_OURS)

_ASK = b"GET /json/version HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n" % LOCAL
_TOLD = re.compile(r"wss?://[^/]*(/devtools/.*)")
_ADDRESS = "webSocketDebuggerUrl"
_FRONTEND = ("devtoolsFrontendUrl", "devtoolsFrontendUrlCompat")

Connecting = AbstractAsyncContextManager[Connection]


def inward(head: Head, target: bytes, site: Site) -> Head:
    """The head as the browser may be asked: by its own name, for orders, by nobody's page but ours.

    A program sends no Origin. Errors: NotFound, Forbidden.
    """
    if not ORDERS.fullmatch(target.partition(b"?")[0]):
        raise NotFound("There is nothing at this path: a browser's link has /json, /devtools and /live.")
    origins = [value for name, value in head.headers if name == b"origin"]
    if origins and origins != [f"{site.scheme}://".encode() + head.host]:
        raise Forbidden("Pages of other origins give this browser no orders.")
    kept = tuple(field for field in head.headers if field[0] != b"origin")
    return msgspec.structs.replace(head, host=LOCAL, headers=kept)


async def running(target: bytes, connecting: Connecting) -> bytes:
    """The target itself, or that of the browser which runs now. Errors: BrowserDown."""
    if target.partition(b"?")[0].rstrip(b"/") != BROWSER:
        return target
    told = await version(connecting)
    found = _TOLD.fullmatch(str(told.get(_ADDRESS)))
    if found is None:
        raise BrowserDown("What answers at the browser's port is no browser that takes orders.")
    return found[1].encode()


async def version(connecting: Connecting) -> dict[str, Any]:
    """What the browser tells of itself. Errors: BrowserDown, those of the connection."""
    head = Head("GET", b"/json/version", LOCAL, ())
    async with connecting as connection, exchanged(connection, head, _ASK, _nothing(), PATIENCE) as answer:
        try:
            told = msgspec.json.decode(await whole(answer))
        except msgspec.DecodeError:
            told = None
    if not isinstance(told, dict):
        raise BrowserDown("What answers at the browser's port is no browser.")
    return told


async def whole(answer: Answer) -> bytes:
    """The body. Errors: PortClosed for one that is too large."""
    parts, size = [], 0
    async for piece in answer.body():
        size += len(piece)
        if size > ANSWER_BYTES:
            raise PortClosed("upstream: the browser's answer does not end")
        parts.append(piece)
    return b"".join(parts)


async def outward(answer: Answer, host: bytes, site: Site) -> Page:
    """A whole answer, whose WebSocket addresses are at the link by which it was asked for, in our own words:
    JSON or plain text. Errors: PortClosed.
    """
    body = await whole(answer)
    try:
        return Page(JSON, _at_link(body, host, site), answer.status)
    except msgspec.DecodeError:
        return Page(TEXT, body, answer.status)


def _at_link(body: bytes, host: bytes, site: Site) -> bytes:
    told = msgspec.json.decode(body)
    scheme = "wss" if site.scheme == "https" else "ws"
    base = f"{scheme}://{host.decode('latin-1')}{site.prefix.decode('latin-1')}"
    for each in told if isinstance(told, list) else [told]:
        if isinstance(each, dict):
            found = _TOLD.fullmatch(str(each.get(_ADDRESS, "")))
            if found is not None:
                each[_ADDRESS] = base + found[1]
            for name in _FRONTEND:
                each.pop(name, None)
    return msgspec.json.encode(told)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
