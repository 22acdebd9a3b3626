"""The tables of the gateway at the API's own server: what two parsers could read differently goes nowhere."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.conftest import World, raw
from tests.gateway.test_smuggling import ALLOWED, REFUSED
from tests.gateway.upstream import Upstream

pytestmark = pytest.mark.anyio


HARMLESS = {
    "an absolute target of another host": "the path alone leads here, whatever host is named",
    "an absolute target with a user": "as above",
    "a star": "answered as the question of a browser, by us",
    "a fragment": "dropped by the server's parser, which nothing reads again",
    "a header of 9 KiB": "the limit here is on all of them together",
}
"""What the table refuses and this server does not, and why not."""


async def sent(world: World, url: str, box: str, port: int, request: bytes) -> bytes:
    """All that is answered, until the server ends the connection or has nothing more to say."""
    made = await world.http.post(f"/v1/sandboxes/{box}/preview", json={"port": port})
    link = f"/v1/p/{made.json()['token']}/one".encode()
    reader, writer = await raw(url)
    writer.write(request.replace(b"%(host)s", b"preview.example").replace(b"/one", link))
    got = b""
    try:
        async with asyncio.timeout(2):
            while piece := await reader.read(65_536):
                got += piece
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    return got


@pytest.mark.parametrize("name", sorted(REFUSED.keys() - HARMLESS.keys()))
async def test_nothing_of_it_reaches_the_service(
    upstream: Upstream, world: World, url: str, box: str, name: str
) -> None:
    answer = await sent(world, url, box, upstream.port, REFUSED[name])
    assert not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5")), answer
    assert upstream.requests() == []


@pytest.mark.parametrize("name", HARMLESS)
async def test_the_harmless_is_one_whole_request_at_most(
    upstream: Upstream, world: World, url: str, box: str, name: str
) -> None:
    assert (await sent(world, url, box, upstream.port, REFUSED[name])).startswith(b"HTTP/1.1 2")
    assert [request.target for request, _ in upstream.requests()] in ([], [b"/one"])


@pytest.mark.parametrize("name", ALLOWED)
async def test_exactly_one_request_reaches_the_service(
    upstream: Upstream, world: World, url: str, box: str, name: str
) -> None:
    request, body = ALLOWED[name]
    answer = await sent(world, url, box, upstream.port, request)
    assert b"HTTP/1.1 200" in answer or b"HTTP/1.0 200" in answer, answer
    found, content = upstream.only()
    assert (found.target, content) == (b"/one", body)
