"""Requests that two parsers could read differently: the service sees none, or exactly one whole one."""

from __future__ import annotations

import asyncio

import pytest

from pandastack.gateway.visitor import Limits
from tests.gateway.conftest import Gateway, Opener
from tests.gateway.upstream import Upstream, parsed

pytestmark = pytest.mark.anyio

HOST = b"Host: %(host)s\r\n"
END = b"Connection: close\r\n\r\n"
EVIL = b"GET /evil HTTP/1.1\r\n" + HOST + b"\r\n"


def post(headers: bytes, body: bytes = b"") -> bytes:
    return b"POST /one HTTP/1.1\r\n" + HOST + headers + b"Connection: close\r\n\r\n" + body


def get(headers: bytes) -> bytes:
    return b"GET /one HTTP/1.1\r\n" + HOST + headers + END


CHUNKED = b"Transfer-Encoding: chunked\r\n"
UPGRADE = b"Upgrade: websocket\r\nConnection: upgrade\r\n"
NULL = b"0\r\n\r\n"

REFUSED: dict[str, bytes] = {
    # two lengths
    "CL.TE": post(b"Content-Length: 6\r\n" + CHUNKED, NULL + b"G"),
    "TE.CL": post(CHUNKED + b"Content-Length: 4\r\n", b"5c\r\n" + EVIL),
    "CL.TE, zero": post(b"Content-Length: 0\r\n" + CHUNKED, NULL),
    "two lengths": post(b"Content-Length: 4\r\nContent-Length: 5\r\n", b"fine!"),
    "the same length twice": post(b"Content-Length: 4\r\nContent-Length: 4\r\n", b"fine"),
    "a list of lengths": post(b"Content-Length: 4, 4\r\n", b"fine"),
    "a signed length": post(b"Content-Length: +4\r\n", b"fine"),
    "a negative length": post(b"Content-Length: -4\r\n", b"fine"),
    "a length in hexadecimal digits": post(b"Content-Length: 0x4\r\n", b"fine"),
    "a length with a space": post(b"Content-Length: 4 4\r\n", b"fine"),
    "a length with a point": post(b"Content-Length: 4.0\r\n", b"fine"),
    "a length that is too long": post(b"Content-Length: 99999999999999999999\r\n", b"fine"),
    "an empty length": post(b"Content-Length:\r\n", b"fine"),
    "a length with a control character": post(b"Content-Length: \x0b4\r\n", b"fine"),
    # encodings
    "TE.TE": post(CHUNKED + b"Transfer-Encoding: identity\r\n", NULL + EVIL),
    "chunked twice": post(CHUNKED + CHUNKED, NULL + EVIL),
    "identity": post(b"Transfer-Encoding: identity\r\n", b"fine"),
    "gzip, chunked": post(b"Transfer-Encoding: gzip, chunked\r\n", NULL),
    "chunked, identity": post(b"Transfer-Encoding: chunked, identity\r\n", NULL + EVIL),
    "xchunked": post(b"Transfer-Encoding: xchunked\r\n", NULL + EVIL),
    "chunked with a control character": post(b"Transfer-Encoding: \x0bchunked\r\n", NULL + EVIL),
    "chunked in quotes": post(b'Transfer-Encoding: "chunked"\r\n', NULL + EVIL),
    "chunked;": post(b"Transfer-Encoding: chunked;q=1\r\n", NULL + EVIL),
    "a name with an underscore": post(b"Transfer_Encoding: chunked\r\n", NULL + EVIL),
    "chunks in HTTP/1.0": b"POST /one HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n" + NULL,
    # lines
    "a space before the colon": post(b"Transfer-Encoding : chunked\r\n", NULL + EVIL),
    "a tab before the colon": post(b"Content-Length\t: 4\r\n", b"fine"),
    "a folded header": get(b"X: 1\r\n\tTransfer-Encoding: chunked\r\n"),
    "a folded encoding": post(b"Transfer-Encoding:\r\n chunked\r\n", NULL),
    "a bare LF behind a header": get(b"X: 1\nContent-Length: 4\r\n"),
    "bare LFs": b"GET /one HTTP/1.1\n" + HOST.replace(b"\r", b"") + b"\n",
    "a bare LF behind the request line": b"GET /one HTTP/1.1\n" + HOST + END,
    "a bare CR in a value": get(b"X: 1\rContent-Length: 4\r\n"),
    "NUL in a value": get(b"X: 1\x00\r\n"),
    "NUL in a name": get(b"X\x00: 1\r\n"),
    "a control character": get(b"X: \x01\r\n"),
    "DEL": get(b"X: \x7f\r\n"),
    "a header without a name": get(b": 1\r\n"),
    "a header without a colon": get(b"Content-Length 4\r\n"),
    "a space before the first header": b"GET /one HTTP/1.1\r\n " + HOST + END,
    "a name that is no token": get(b"X(y): 1\r\n"),
    "a name beyond ASCII": get("Ä: 1\r\n".encode()),
    # hosts
    "no host": b"GET /one HTTP/1.1\r\n" + END,
    "two hosts": b"GET /one HTTP/1.1\r\n" + HOST + b"Host: other\r\n" + END,
    "the same host twice": b"GET /one HTTP/1.1\r\n" + HOST + HOST + END,
    "an empty host": b"GET /one HTTP/1.1\r\nHost:\r\n" + END,
    "an absolute target of another host": b"GET http://other/one HTTP/1.1\r\n" + HOST + END,
    "an absolute target with a user": b"GET http://x@%(host)s/one HTTP/1.1\r\n" + HOST + END,
    "an absolute target of another scheme": b"GET file:///one HTTP/1.1\r\n" + HOST + END,
    "no host in HTTP/1.0": b"GET /one HTTP/1.0\r\n\r\n",
    # request lines
    "CONNECT": b"CONNECT %(host)s:80 HTTP/1.1\r\n" + HOST + END,
    "a star": b"OPTIONS * HTTP/1.1\r\n" + HOST + END,
    "a target without a slash": b"GET one HTTP/1.1\r\n" + HOST + END,
    "a fragment": b"GET /one#two HTTP/1.1\r\n" + HOST + END,
    "a target beyond ASCII": "GET /ü HTTP/1.1\r\n".encode() + HOST + END,
    "a space in the target": b"GET /one two HTTP/1.1\r\n" + HOST + END,
    "a tab for a space": b"GET\t/one HTTP/1.1\r\n" + HOST + END,
    "HTTP/0.9": b"GET /one\r\n",
    "HTTP/1.2": b"GET /one HTTP/1.2\r\n" + HOST + END,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/1.1": b"GET /one http/1.1\r\n" + HOST + END,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    # chunks, in one piece with their head
    "a chunk of no size": post(CHUNKED, b"\r\nfine\r\n" + NULL),
    "a chunk with a sign": post(CHUNKED, b"+4\r\nfine\r\n" + NULL),
    "a chunk of 0x4": post(CHUNKED, b"0x4\r\nfine\r\n" + NULL),
    "a chunk that is longer than it says": post(CHUNKED, b"3\r\nfine\r\n" + NULL),
    "a chunk of too much": post(CHUNKED, b"ffffffffffffffff1\r\nfine\r\n" + NULL),
    "a bare LF behind a size": post(CHUNKED, b"4\nfine\r\n" + NULL),
    "a bare LF behind a chunk": post(CHUNKED, b"4\r\nfine\n0\r\n\r\n"),
    "a chunk with a space": post(CHUNKED, b"4 \r\nfine\r\n" + NULL),
    # sizes
    "a target of 9 KiB": b"GET /" + b"a" * 9216 + b" HTTP/1.1\r\n" + HOST + END,
    "101 headers": get(b"".join(b"X-%d: 1\r\n" % number for number in range(101))),
    "a header of 9 KiB": get(b"X: " + b"a" * 9216 + b"\r\n"),
    "headers of 17 KiB": get(b"".join(b"X-%d: %b\r\n" % (n, b"a" * 1700) for n in range(10))),
    # upgrades
    "a WebSocket with a body": post(UPGRADE + b"Content-Length: 4\r\n", b"fine"),
    "a WebSocket of another version": get(UPGRADE + b"Sec-WebSocket-Version: 8\r\n"),
    "a WebSocket without a key": get(UPGRADE + b"Sec-WebSocket-Version: 13\r\n"),
}  # fmt: skip

ALLOWED: dict[str, tuple[bytes, bytes]] = {
    "plain": (get(b""), b""),
    "a body": (post(b"Content-Length: 4\r\n", b"fine"), b"fine"),
    "chunks": (post(CHUNKED, b"2\r\nfi\r\n2\r\nne\r\n" + NULL), b"fine"),
    "chunks, in capitals": (post(b"transfer-encoding: CHUNKED\r\n", b"4\r\nfine\r\n" + NULL), b"fine"),
    "trailers, which are dropped": (post(CHUNKED, b"4\r\nfine\r\n0\r\nX-Evil: 1\r\n\r\n"), b"fine"),
    "chunks with words": (post(CHUNKED, b"4;a=b\r\nfine\r\n" + NULL), b"fine"),
    "an absolute target": (b"GET http://%(host)s/one HTTP/1.1\r\n" + HOST + END, b""),
    "HTTP/1.0": (b"GET /one HTTP/1.0\r\n" + HOST + b"\r\n", b""),
    "an upgrade to something else": (get(b"Upgrade: h2c\r\nHTTP2-Settings: AA\r\n"), b""),
    "connection headers": (get(b"Keep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: close\r\n"), b""),
    "100 headers": (get(b"".join(b"X-%d: 1\r\n" % number for number in range(98))), b""),
}  # fmt: skip


def filled(request: bytes, gateway: Gateway) -> bytes:
    return request.replace(b"%(host)s", gateway.host.encode())


@pytest.mark.parametrize("name", REFUSED)
async def test_nothing_of_it_reaches_the_service(gateway: Gateway, upstream: Upstream, name: str) -> None:
    answer = await gateway.send(filled(REFUSED[name], gateway))
    assert answer[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.0 400", b"HTTP/1.1 421"), answer
    assert answer.count(b"\r\n\r\n") <= 1
    assert upstream.got == []


@pytest.mark.parametrize("name", ALLOWED)
async def test_exactly_one_request_reaches_the_service(
    gateway: Gateway, upstream: Upstream, name: str
) -> None:
    """The control of the table above: the same words, said as they should be."""
    request, body = ALLOWED[name]
    answer = await gateway.send(filled(request, gateway))
    assert answer[:12] in (b"HTTP/1.1 200", b"HTTP/1.0 200"), answer
    found, content = upstream.only()
    assert (found.target, content) == (b"/one", body)
    names = {name for name, _ in found.headers}
    assert not names & {b"upgrade", b"http2-settings", b"te", b"keep-alive", b"x-evil", b"expect"}


async def test_requests_behind_each_other_get_connections_of_their_own(
    gateway: Gateway, upstream: Upstream
) -> None:
    """What is pipelined is answered in order; nothing of one request is part of another's."""
    one = b"POST /%b HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\n\r\nfine"
    last = b"GET /last HTTP/1.1\r\n" + HOST + END
    many = b"".join(one.replace(b"%b", b"%d" % number) for number in range(5))
    answer = await gateway.send(filled(many + last, gateway))
    assert answer.count(b"HTTP/1.1 200") == 6
    assert len(upstream.got) == 6
    targets = [request.target for request, _ in upstream.requests()]
    assert targets == [b"/%d" % number for number in range(5)] + [b"/last"]


async def test_a_body_that_breaks_off_is_no_whole_request(opener: Opener, upstream: Upstream) -> None:
    """What has been passed on by then cannot be read as a whole request."""
    async with opener(Limits(body=0.5)) as gateway:
        await breaks_off(gateway, upstream)


async def breaks_off(gateway: Gateway, upstream: Upstream) -> None:
    reader, writer = await gateway.open()
    head = b"POST /one HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n4\r\nfine\r\n"
    writer.write(filled(head, gateway))
    while not upstream.got or b"fine" not in upstream.got[0]:
        await asyncio.sleep(0.01)
    writer.write(b"zz\r\n" + NULL)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 408")
    assert parsed(bytes(upstream.got[0])) == []


async def test_a_client_that_leaves_takes_its_request_along(gateway: Gateway, upstream: Upstream) -> None:
    reader, writer = await gateway.open()
    writer.write(filled(b"POST /one HTTP/1.1\r\n" + HOST + b"Content-Length: 8\r\n\r\nfine", gateway))
    while not upstream.got or b"fine" not in upstream.got[0]:
        await asyncio.sleep(0.01)
    writer.close()
    del reader
    await asyncio.sleep(0.2)
    assert parsed(bytes(upstream.got[0])) == []


async def test_expecting_to_be_told_to_go_on(gateway: Gateway, upstream: Upstream) -> None:
    reader, writer = await gateway.open()
    head = HOST + b"Content-Length: 4\r\nExpect: 100-continue\r\n" + END
    writer.write(filled(b"POST /one HTTP/1.1\r\n" + head, gateway))
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert upstream.got == []
    writer.write(b"fine")
    assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"fine")
    writer.close()
