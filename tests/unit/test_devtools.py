"""What is let through to a browser, and what is made of what it tells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from pandastack.errors import BrowserDown, Forbidden, NotFound
from pandastack.proxy import devtools
from pandastack.proxy.exchange import Patience, exchanged
from pandastack.proxy.head import Head, Site, read_head, write_head
from pandastack.proxy.live import FILES, page_at

pytestmark = pytest.mark.anyio

SITE = Site("box", 9222, "https", "198.51.100.7", prefix=b"/v1/p/token")
NUMBER = b"f80dbffc-da07-4582-a45a-a7eff29cf95a"


def head(*headers: tuple[bytes, bytes], method: str = "GET", target: bytes = b"/json/version") -> Head:
    return read_head(method, target, [(b"Host", b"preview.example.net:8443"), *headers])


def test_a_program_comes_to_the_browser_as_its_neighbour() -> None:
    asked = devtools.inward(head((b"Accept", b"*/*")), b"/json/version", SITE)
    written = write_head(asked, b"/json/version", SITE)
    assert b"\r\nhost: 127.0.0.1:9222\r\n" in written
    assert b"preview.example.net" not in written
    assert b"accept: */*" in written


@pytest.mark.parametrize(
    "target",
    [
        *(b"/json", b"/json/", b"/json/version/", b"/json/list?t=1", b"/json/new?http://site.example/"),
        *(b"/devtools/browser", b"/devtools/browser/" + NUMBER, b"/devtools/page/048F70BF"),
    ],
)
def test_orders_come_through(target: bytes) -> None:
    assert devtools.inward(head(), target, SITE).host == devtools.LOCAL


@pytest.mark.parametrize(
    "target",
    [
        *(b"/", b"/devtools/inspector.html", b"/devtools/browser/../page/1", b"/jsonp", b"/json/version/a/b"),
        *(b"/devtools/browser/" + NUMBER + b"/more", b"/live/other", b"/json%2fversion"),
    ],
)
def test_nothing_else_does(target: bytes) -> None:
    with pytest.raises(NotFound):
        devtools.inward(head(), target, SITE)


def test_a_page_of_ours_gives_orders_and_one_of_another_origin_does_not() -> None:
    own = head((b"Origin", b"https://preview.example.net:8443"))
    assert b"origin" not in dict(devtools.inward(own, b"/json", SITE).headers)
    for origin in (
        b"https://evil.example",
        b"null",
        b"http://preview.example.net:8443",
        b"https://preview.example.net",
        b"https://preview.example.net:8443.evil.example",
    ):
        with pytest.raises(Forbidden):
            devtools.inward(head((b"Origin", origin)), b"/json", SITE)
    with pytest.raises(Forbidden):
        devtools.inward(
            head((b"Origin", b"https://preview.example.net:8443"), (b"Origin", b"https://evil.example")),
            b"/json",
            SITE,
        )


class Said:
    """A connection whose other end says this."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.written = b""

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    async def write(self, data: bytes) -> None:
        self.written += data

    async def end(self) -> None:
        """Nothing more is written."""


@asynccontextmanager
async def saying(said: Said) -> AsyncIterator[Said]:
    yield said


def answer(body: bytes, kind: str = "application/json; charset=UTF-8") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
        kind.encode(),
        len(body),
        body,
    )


VERSION = answer(
    b'{"Browser": "Chrome/1", "webSocketDebuggerUrl": "ws://127.0.0.1:9222/devtools/browser/%b"}' % NUMBER
)


async def test_a_browser_without_a_number_is_the_one_that_runs() -> None:
    said = Said(VERSION[:50], VERSION[50:])
    assert await devtools.running(b"/devtools/browser", saying(said)) == b"/devtools/browser/" + NUMBER
    assert said.written.startswith(b"GET /json/version HTTP/1.1\r\nhost: 127.0.0.1:9222\r\n")
    other = b"/devtools/page/048F70BF"
    assert await devtools.running(other, saying(Said())) == other


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"nonsense",
        b"{}",
        b'{"webSocketDebuggerUrl": "http://elsewhere.example/"}',
        b'{"webSocketDebuggerUrl": 1}',
    ],
)
async def test_what_is_no_browser_is_told(body: bytes) -> None:
    with pytest.raises(BrowserDown):
        await devtools.running(b"/devtools/browser", saying(Said(answer(body))))


async def told(body: bytes, site: Site = SITE) -> bytes:
    """What the client is told when the browser says this."""
    asked = devtools.inward(head(), b"/json", site)
    said = Said(answer(body))
    async with exchanged(said, asked, write_head(asked, b"/json", site), nothing(), Patience()) as got:
        return (await devtools.outward(got, b"preview.example.net:8443", site)).body


async def nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def test_addresses_are_those_of_the_link() -> None:
    body = msgspec.json.encode(
        [
            {"webSocketDebuggerUrl": "ws://127.0.0.1:9222/devtools/page/1", "devtoolsFrontendUrl": "/x"},
            {"title": "ws://127.0.0.1:9222/devtools/page/1"},
            7,
        ]
    )
    assert msgspec.json.decode(await told(body)) == [
        {"webSocketDebuggerUrl": "wss://preview.example.net:8443/v1/p/token/devtools/page/1"},
        {"title": "ws://127.0.0.1:9222/devtools/page/1"},
        7,
    ]
    plain = msgspec.structs.replace(SITE, scheme="http")
    assert b'"ws://preview.example.net:8443/v1/p/token/devtools/page/1"' in await told(body, plain)
    assert await told(b"Target is closing") == b"Target is closing"


@pytest.mark.parametrize("path", sorted(FILES))
def test_the_live_page_loads_nothing_from_elsewhere(path: bytes) -> None:
    page = page_at(head(), path, SITE)
    assert page is not None
    assert page.body
    headers = dict(page.headers)
    policy = headers[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "connect-src 'self' wss://preview.example.net:8443;" in policy
    assert headers[b"referrer-policy"] == b"no-referrer"  # the link is a credential
    assert b"http" not in page.body.replace(b'https://"', b"").replace(b"http://$", b"").replace(
        b"'https:'", b""
    )
    assert page_at(head(), path + b"x", SITE) is None
    assert page_at(head(method="DELETE"), path, SITE) is None
