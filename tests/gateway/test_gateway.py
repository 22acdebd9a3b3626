"""The gateway: what it hands on, what it keeps, and how long it waits."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import httpx2
import pytest
import websockets

from pandastack.gateway.visitor import Limits
from tests.api.conftest import TOKEN, World
from tests.gateway.conftest import Gateway, Opener
from tests.gateway.upstream import NONSENSE, Reader, Upstream, Writer, echo_websocket

pytestmark = pytest.mark.anyio


async def test_what_is_ours_stays_here(gateway: Gateway, upstream: Upstream) -> None:
    """A key of ours, wherever a browser may have put it; what is the service's own is left."""
    more = (
        f"Authorization: Bearer {TOKEN}\r\nX-API-Key: {TOKEN}\r\nX-Node-Token: {TOKEN}\r\n"
        f"Cookie: own=1; stolen={TOKEN}\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n"
        f"X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Fcs-Workspace: admin\r\nX-Own: kept\r\n"
    )
    assert (await gateway.get("/a?b=c", more=more))[0] == 200
    assert TOKEN.encode() not in bytes(upstream.got[0])
    assert b"6.6.6.6" not in bytes(upstream.got[0])
    request, _ = upstream.only()
    headers = dict(request.headers)
    assert (request.target, headers[b"cookie"], headers[b"x-own"]) == (b"/a?b=c", b"own=1", b"kept")
    assert headers[b"host"] == headers[b"x-forwarded-host"] == gateway.host.encode()
    assert (headers[b"x-forwarded-for"], headers[b"x-forwarded-proto"]) == (b"127.0.0.1", b"http")
    assert b"x-fcs-workspace" not in headers


async def test_a_login_of_the_service_is_its_own(gateway: Gateway, upstream: Upstream) -> None:
    """The control of the test above: what is no key of ours passes."""
    await gateway.get(more="Authorization: Bearer its-own\r\n")
    assert upstream.header("authorization") == ["Bearer its-own"]


async def test_a_cookie_is_for_one_sandbox_alone(gateway: Gateway, upstream: Upstream) -> None:
    upstream.answer = (
        b"HTTP/1.1 200 OK\r\nset-cookie: a=1; Domain=localhost; Path=/\r\nset-cookie: b=2\r\n"
        b"connection: close, x-hop\r\nx-hop: 1\r\nalt-svc: h3\r\ncontent-length: 0\r\n\r\n"
    )
    head = f"GET / HTTP/1.1\r\nHost: {gateway.host}\r\nConnection: close\r\n\r\n"
    answer = (await gateway.send(head.encode())).lower()
    assert b"set-cookie: a=1; path=/\r\n" in answer and b"set-cookie: b=2\r\n" in answer
    assert b"x-hop" not in answer and b"alt-svc" not in answer and b"sandbox" not in answer


@pytest.mark.parametrize("name", NONSENSE)
async def test_what_is_no_answer_is_502(gateway: Gateway, upstream: Upstream, name: str) -> None:
    upstream.answer = NONSENSE[name]
    status, body = await gateway.get()
    assert status == 502 and b"upstream: " in body


async def test_an_answer_that_is_cut_short_is_no_whole_one(gateway: Gateway, upstream: Upstream) -> None:
    upstream.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfine"
    with pytest.raises(httpx2.TransportError):
        async with httpx2.AsyncClient(trust_env=False) as client:
            host, port = gateway.address
            await client.get(f"http://{host}:{port}/", headers={"host": gateway.host})


async def test_a_connection_serves_many_requests(gateway: Gateway, upstream: Upstream) -> None:
    reader, writer = await gateway.open()
    for number in range(20):
        writer.write(f"GET /{number} HTTP/1.1\r\nHost: {gateway.host}\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"fine"), 5)
        assert answer.startswith(b"HTTP/1.1 200")
    writer.close()
    assert [request.target for request, _ in upstream.requests()] == [b"/%d" % n for n in range(20)]


async def test_links_lead_in_by_the_suffix_itself(world: World, gateway: Gateway, upstream: Upstream) -> None:
    made = await world.http.post(f"/v1/sandboxes/{gateway.box}/preview", json={"port": gateway.port})
    token = made.json()["token"]
    assert await gateway.get(f"/v1/p/{token}/deep?q=1", host="localhost:1") == (200, b"fine")
    assert upstream.only()[0].target == b"/deep?q=1"
    assert (await gateway.get(f"/v1/p/{token}x/", host="localhost"))[0] == 401
    assert (await gateway.get(f"/v1/p/{token}/", host="other"))[0] == 421
    assert (await gateway.get("/", host="localhost"))[0] == 421
    assert (await gateway.get("/v1/sandboxes", host="localhost"))[0] == 421
    assert len(upstream.got) == 1


async def test_doors_that_are_shut(world: World, gateway: Gateway, upstream: Upstream) -> None:
    for word, status in (("private", 404), ("off", 404), ("nonsense", 404), ("public", 200)):
        await world.http.post(f"/v1/sandboxes/{gateway.box}/metadata", json={"preview": word})
        assert (await gateway.get())[0] == status
    assert len(upstream.got) == 1


async def test_50_visitors_of_one_that_sleeps_share_one_wake(
    world: World, gateway: Gateway, upstream: Upstream
) -> None:
    await world.http.post(f"/v1/sandboxes/{gateway.box}/hibernate")
    answers = await asyncio.gather(*(gateway.get(f"/{number}") for number in range(50)))
    assert answers == [(200, b"fine")] * 50
    assert [event["type"] for event in await world.events(gateway.box)].count("sandbox.woken") == 1


async def test_a_websocket_echoes(gateway: Gateway, upstream: Upstream) -> None:
    upstream.answer = echo_websocket
    host, port = gateway.address
    address = f"ws://{gateway.host}:{port}/chat"
    protocols = [websockets.Subprotocol("chat")]
    opened = websockets.connect(address, host=host, port=port, proxy=None, subprotocols=protocols)
    async with opened as socket:
        assert socket.subprotocol == "chat"
        for message in ("ü", b"bytes", "x" * 900_000, b""):
            await socket.send(message)
            assert await socket.recv() == message


async def test_a_websocket_whose_service_lies(gateway: Gateway, upstream: Upstream) -> None:
    """Consent to another key than that of the request is none."""
    upstream.answer = (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"
    )
    more = (
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    head = f"GET / HTTP/1.1\r\nHost: {gateway.host}\r\n{more}Connection: Upgrade\r\n\r\n"
    assert (await gateway.send(head.encode())).startswith(b"HTTP/1.1 502")


# -- those who keep us waiting


async def trickle(writer: Writer, content: bytes) -> None:
    for byte in content:
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0.05)


def slow(gateway: Gateway) -> dict[str, tuple[bytes, bytes]]:
    """What is sent at once, and what byte by byte."""
    head = f"POST / HTTP/1.1\r\nHost: {gateway.host}\r\nContent-Length: 100000\r\n".encode()
    return {
        "silent": (b"", b""),
        "half a head": (head, b""),
        "a head byte by byte": (b"", head + b"X: " + b"y" * 4000),
        "no body": (head + b"\r\n", b""),
        "a body byte by byte": (head + b"\r\n", b"x" * 4000),
        "half a second head": (head.replace(b"100000", b"0") + b"\r\n" + head, b""),
    }


async def ended_after(gateway: Gateway, at_once: bytes, then: bytes) -> float:
    """Seconds until the gateway has ended the connection."""
    began = time.monotonic()
    reader, writer = await gateway.open()
    writer.write(at_once)
    trickling = asyncio.create_task(trickle(writer, then))
    try:
        async with asyncio.timeout(20):
            while await reader.read(65_536):
                pass
    except ConnectionError:
        pass
    finally:
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)
        writer.close()
    return time.monotonic() - began


@pytest.mark.parametrize(
    "name",
    ["silent", "half a head", "a head byte by byte", "no body", "a body byte by byte", "half a second head"],
)
async def test_who_is_slow_is_cut_off(opener: Opener, name: str) -> None:
    async with opener(Limits(head=0.5, body=0.5, write=0.5, idle=0.5)) as gateway:
        assert await ended_after(gateway, *slow(gateway)[name]) < 4.0


async def test_who_is_slow_but_in_time_is_served(opener: Opener, upstream: Upstream) -> None:
    """The control of the test above."""
    async with opener(Limits(head=20, body=20, body_rate=1.0)) as gateway:
        head = f"POST / HTTP/1.1\r\nHost: {gateway.host}\r\nContent-Length: 4\r\n"
        reader, writer = await gateway.open()
        await trickle(writer, head.encode() + b"Connection: close\r\n\r\nslow")
        assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"fine")
        writer.close()
        assert upstream.only()[1] == b"slow"


async def test_who_takes_nothing_is_cut_off(opener: Opener, upstream: Upstream) -> None:
    """The service is let go with its visitor."""
    left = asyncio.Event()

    async def flood(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(bytes(65_536))
                await writer.drain()
        except ConnectionError:
            left.set()

    upstream.answer = flood
    async with opener(Limits(write=0.5)) as gateway:
        reader, writer = await gateway.open()
        writer.write(f"GET / HTTP/1.1\r\nHost: {gateway.host}\r\n\r\n".encode())
        await asyncio.wait_for(left.wait(), 10)
        writer.close()
        del reader


async def test_connections_of_one_address_are_counted(opener: Opener) -> None:
    async with opener(Limits(of_one_address=5)) as gateway, AsyncExitStack() as stack:
        held = [await gateway.open() for _ in range(5)]
        for _, writer in held:
            stack.callback(writer.close)
        assert await gateway.send(b"") == b""
        reader, writer = held[0]
        writer.write(f"GET / HTTP/1.1\r\nHost: {gateway.host}\r\nConnection: close\r\n\r\n".encode())
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"fine")
        await asyncio.sleep(0.1)
        assert await gateway.get() == (200, b"fine")


async def test_500_half_open_connections_slow_nobody(opener: Opener) -> None:
    """The slowest of 200 requests by somebody else, in front of 500 who keep the gateway waiting."""
    limits = Limits(head=30, of_one_address=2000)
    async with opener(limits) as gateway, AsyncExitStack() as stack:
        for number in range(500):
            _, writer = await gateway.open()
            stack.callback(writer.close)
            writer.write([b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX: "][number % 3])
        spent = []
        for _ in range(200):
            began = time.monotonic()
            assert await gateway.get() == (200, b"fine")
            spent.append(time.monotonic() - began)
        assert sorted(spent)[int(len(spent) * 0.99) - 1] < 0.2


async def test_a_link_opens_a_host_that_names_alone_do_not(
    world: World, gateway: Gateway, upstream: Upstream
) -> None:
    """By a cookie that the service is not shown, for this host alone, and not for another site's pages."""
    sandbox = f"/v1/sandboxes/{gateway.box}"
    await world.http.post(f"{sandbox}/metadata", json={"preview": "private"})
    wish = {"port": gateway.port, "ttl_seconds": 60}
    link = (await world.http.post(f"{sandbox}/preview", json=wish)).json()
    assert (await gateway.get())[0] == 404
    enter = f"/.pandastack/enter/{link['token']}"
    head = f"GET {enter}//evil.example/?a=1 HTTP/1.1\r\nHost: {gateway.host}\r\nConnection: close\r\n\r\n"
    answer = (await gateway.send(head.encode())).decode()
    assert answer.startswith("HTTP/1.1 303") and "\r\nlocation: /evil.example/\r\n" in answer.lower()
    cookie = f"pandastack_visit={link['token']}"
    assert f"{cookie}; Path=/; Max-Age=" in answer and "; HttpOnly; SameSite=Lax" in answer
    shown = f"Cookie: a=1; pandastack_visit=tossed; {cookie}\r\n"
    assert (await gateway.get("/x", more=f"{shown}Origin: http://{gateway.host}\r\n"))[0] == 200
    assert upstream.header("cookie") == ["a=1"]
    assert (await gateway.get(more=f"{shown}Origin: http://8000-{gateway.box}.localhost\r\n"))[0] == 403
    assert (await gateway.get(more="Cookie: pandastack_visit=A.B\r\n"))[0] == 401
    other = f"{gateway.port + 1}-{gateway.box}.localhost"
    assert (await gateway.get(host=other, more=f"Cookie: {cookie}\r\n"))[0] == 404
    assert (await gateway.get(enter, host=other))[0] == 404
    await world.http.post(f"{sandbox}/metadata", json={"preview": "off"})
    assert (await gateway.get(more=f"Cookie: {cookie}\r\n"))[0] == 404
