"""Ports, and the proxy of the API."""

from __future__ import annotations

import asyncio
import hashlib
import os

import httpx2
import pytest

from pandastack.services.activity import Use
from tests.api.conftest import TOKEN, World, below, client, raw
from tests.gateway.upstream import NONSENSE, Reader, Upstream, Writer, serving_upstream

pytestmark = pytest.mark.anyio


# -- the list


async def test_ports_with_names_and_without(world: World, box: str, upstream: Upstream) -> None:
    ports = f"/v1/sandboxes/{box}/ports"
    found = {item["port"]: item for item in (await world.http.get(ports)).json()}
    assert found[upstream.port] == {
        "port": upstream.port,
        "label": None,
        "listening": True,
        "source": "detected",
        "proxy_url": below(box, upstream.port, "/"),
    }
    assert 22 not in found
    named = await world.http.post(ports, json={"port": 4, "label": "nothing there"})
    assert (named.status_code, named.json()["listening"], named.json()["source"]) == (201, False, "user")
    assert (await world.http.post(ports, json={"port": upstream.port})).json()["label"] == "service"
    listed = (await world.http.get(ports)).json()
    assert [item["port"] for item in listed] == sorted(item["port"] for item in listed)
    assert (await world.http.get(f"/v1/sandboxes/{box}")).json()["metadata"]["port.4"] == "nothing there"
    assert (await world.http.delete(f"{ports}/4")).status_code == 204
    assert (await world.http.delete(f"{ports}/4")).status_code == 204
    assert 4 not in {item["port"] for item in (await world.http.get(ports)).json()}


@pytest.mark.parametrize("port", [0, 22, 65_536, -1])
async def test_ports_that_nobody_is_let_to(world: World, box: str, port: int) -> None:
    """Nor by any verb: names, links, the proxy, plain connections."""
    answers = [
        await world.http.post(f"/v1/sandboxes/{box}/ports", json={"port": port}),
        await world.http.post(f"/v1/sandboxes/{box}/preview", json={"port": port}),
        await world.http.get(below(box, port)),
    ]
    assert [answer.status_code for answer in answers] == [400, 400, 400]
    if port == 22:
        assert "port 22 is reserved (ssh bridge)" in answers[0].json()["error"]


@pytest.mark.parametrize("word", ["08000", "+8000", "8000%20", "0x1f", "eight", "٨٠٠٠"])
async def test_a_port_is_written_in_one_way(world: World, box: str, word: str) -> None:
    assert (await world.http.get(f"/v1/sandboxes/{box}/proxy/{word}/")).status_code == 400


# -- the proxy


async def test_a_request_arrives_as_it_was_sent_but_for_what_is_ours(
    world: World, wire: httpx2.AsyncClient, box: str, upstream: Upstream
) -> None:
    await world.create()
    answer = await wire.request(
        "PATCH",
        below(box, upstream.port, "/a%2Fb/..%2f?x=1&access_token=pds_1&acce%73s_token=2&y=%20"),
        headers={
            "x-api-key": TOKEN,
            "x-node-token": "n",
            "x-forwarded-for": "6.6.6.6",
            "x-forwarded-host": "evil",
            "x-forwarded-port": "1",
            "x-fcs-workspace": "admin",
            "x-pandastack-user-id": "root",
            "x-stub-user": "root",
            "forwarded": "for=6.6.6.6",
            "proxy-authorization": "Basic eA==",
            "cookie": "a=1; pandastack_session=s; pandastack_form=f; b=2",
            "connection": "x-hop",
            "x-hop": "1",
            "te": "trailers",
            "x-own": "kept",
        },
        content=b"body",
    )
    assert (answer.status_code, answer.content) == (200, b"fine")
    request, body = upstream.only()
    assert (request.method, request.target, body) == (b"PATCH", b"/a%2Fb/..%2f?x=1&y=%20", b"body")
    headers = dict(request.headers)
    assert headers[b"cookie"] == b"a=1; b=2"
    assert headers[b"x-own"] == b"kept"
    assert headers[b"x-forwarded-for"] == b"6.6.6.6"  # a proxy of this machine is believed about its client
    assert headers[b"x-forwarded-proto"] == b"http"
    assert headers[b"x-forwarded-host"] == headers[b"host"] == str(wire.base_url.netloc.decode()).encode()
    assert headers[b"x-fcs-sandbox"] == box.encode()
    assert TOKEN.encode() not in bytes(upstream.got[0])
    gone = {b"authorization", b"x-api-key", b"x-node-token", b"x-fcs-workspace", b"x-stub-user", b"x-hop"}
    gone |= {b"x-forwarded-port", b"x-pandastack-user-id", b"forwarded", b"proxy-authorization", b"te"}
    assert not gone & set(headers)


async def test_the_service_may_have_an_authorization_of_its_own(
    wire: httpx2.AsyncClient, box: str, upstream: Upstream
) -> None:
    await wire.get(below(box, upstream.port), headers={"x-pandastack-broker-auth": "Bearer its-own"})
    assert upstream.header("authorization") == ["Bearer its-own"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("status", [200, 204, 304, 404, 500])
async def test_methods_and_statuses(
    wire: httpx2.AsyncClient, box: str, upstream: Upstream, method: str, status: int
) -> None:
    body = b"" if method == "HEAD" or status in (204, 304) else b"fine"
    upstream.answer = b"HTTP/1.1 %d Word\r\nx-own: 1\r\ncontent-length: 4\r\n\r\n" % status + body
    answer = await wire.request(method, below(box, upstream.port, "/"))
    assert (answer.status_code, answer.content, answer.headers["x-own"]) == (status, body, "1")


async def test_bodies_stream_both_ways(url: str, box: str, upstream: Upstream) -> None:
    """The first half of the answer comes before the second half of the request is sent."""

    async def answer(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"first")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")
        await writer.drain()

    upstream.answer = answer
    reader, writer = await raw(url)
    path = below(box, upstream.port, "/")
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
    writer.write(head.encode() + b"transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    await asyncio.wait_for(reader.readuntil(b"first"), 10)
    writer.write(b"6\r\nsecond\r\n0\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"second"), 10)
    writer.close()


async def test_16_mib_each_way(wire: httpx2.AsyncClient, box: str, upstream: Upstream) -> None:
    content = os.urandom(16 << 20)

    async def answer(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        left = len(content)
        while left:
            piece = await reader.read(65_536)
            left -= len(piece)
            writer.write(piece)
            await writer.drain()

    upstream.answer = answer
    got = await wire.post(below(box, upstream.port, "/"), content=content)
    assert hashlib.sha256(got.content).digest() == hashlib.sha256(content).digest()


@pytest.mark.parametrize("name", NONSENSE)
async def test_what_is_no_answer_is_502(
    wire: httpx2.AsyncClient, box: str, upstream: Upstream, name: str
) -> None:
    upstream.answer = NONSENSE[name]
    answer = await wire.get(below(box, upstream.port, "/"))
    assert (answer.status_code, answer.json()["code"]) == (502, "port.closed")
    assert answer.json()["error"].startswith("upstream: ")


async def test_an_answer_that_is_cut_short_is_no_whole_one(
    wire: httpx2.AsyncClient, box: str, upstream: Upstream
) -> None:
    upstream.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfine"
    with pytest.raises(httpx2.TransportError):
        await wire.get(below(box, upstream.port, "/"))


async def test_what_comes_behind_an_answer_is_nobodys(
    wire: httpx2.AsyncClient, box: str, upstream: Upstream
) -> None:
    upstream.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfineHTTP/1.1 200 OK\r\n\r\nevil"
    for _ in range(3):
        assert (await wire.get(below(box, upstream.port, "/"))).content == b"fine"
    assert len(upstream.got) == 3


async def test_a_page_of_a_guest_cannot_touch_our_origin(
    wire: httpx2.AsyncClient, box: str, upstream: Upstream
) -> None:
    upstream.answer = (
        b"HTTP/1.1 200 OK\r\nset-cookie: pandastack_session=x; path=/\r\nclear-site-data: *\r\n"
        b"service-worker-allowed: /\r\ncontent-security-policy: default-src *\r\ncontent-length: 0\r\n\r\n"
    )
    answer = await wire.get(below(box, upstream.port, "/"))
    policies = answer.headers.get_list("content-security-policy")
    assert any(word.startswith("sandbox ") and "same-origin" not in word for word in policies)
    assert not {"set-cookie", "clear-site-data", "service-worker-allowed"} & set(answer.headers)


async def test_nothing_listens(world: World, box: str, upstream: Upstream) -> None:
    async with serving_upstream() as other:
        pass
    answer = await world.http.get(below(box, other.port, "/"))
    assert (answer.status_code, answer.json()["retryable"]) == (502, False)


async def test_who_may_not(
    world: World,
    wire: httpx2.AsyncClient,
    box: str,
    upstream: Upstream,
    foreigner: httpx2.AsyncClient,
    url: str,
) -> None:
    """A foreign sandbox is answered as one that is not there; a key that only reads is no key to it."""
    absent = "00000000-0000-4000-8000-000000000000"
    there = await foreigner.get(below(box, upstream.port))
    nowhere = await foreigner.get(below(absent, upstream.port))
    assert there.status_code == nowhere.status_code == 404
    assert there.json()["error"].replace(box, absent) == nowhere.json()["error"]
    assert (await foreigner.post(f"/v1/sandboxes/{box}/preview", json={"port": 80})).status_code == 404
    made = await world.http.post("/v1/me/tokens", json={"label": "r", "scope": "read"})
    async with client(None, url, made.json()["token"]) as reader, client(None, url, None) as nobody:
        assert (await reader.get(below(box, upstream.port))).status_code == 403
        assert (await nobody.get(below(box, upstream.port))).status_code == 401
        cookie = {"cookie": f"pandastack_session={TOKEN}"}
        assert (await nobody.get(below(box, upstream.port), headers=cookie)).status_code == 401
    assert upstream.got == []
    assert (await wire.get(below(box, upstream.port))).status_code == 200


async def test_traffic_is_use_while_it_lasts(
    world: World, wire: httpx2.AsyncClient, box: str, upstream: Upstream
) -> None:
    release = asyncio.Event()

    async def answer(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine")

    upstream.answer = answer
    asking = asyncio.gather(wire.get(below(box, upstream.port, "/")))
    while not upstream.got:
        await asyncio.sleep(0.01)
    world.time.passes(10_000)
    assert world.control.plane.activity.overdue_one(box) is None
    assert [reason.kind for reason in world.control.plane.activity.reasons(box)] == [Use.CONNECTION]
    release.set()
    await asking
    world.time.passes(10_000)
    assert world.control.plane.activity.overdue_one(box) is not None


# -- sleep


async def test_50_who_come_to_one_that_sleeps_share_one_wake(
    world: World, wire: httpx2.AsyncClient, box: str, upstream: Upstream
) -> None:
    assert (await world.http.post(f"/v1/sandboxes/{box}/hibernate")).status_code == 200
    assert (await world.http.get(f"/v1/sandboxes/{box}/ports")).json() == []
    limits = httpx2.Limits(max_connections=60)
    async with httpx2.AsyncClient(base_url=wire.base_url, headers=wire.headers, limits=limits) as many:
        asking = (many.get(below(box, upstream.port, f"/{number}")) for number in range(50))
        answers = await asyncio.gather(*asking)
    assert [answer.content for answer in answers] == [b"fine"] * 50
    woken = [event for event in await world.events(box) if event["type"] == "sandbox.woken"]
    assert len(woken) == 1
    targets = {request.target for request, _ in upstream.requests()}
    assert targets == {f"/{number}".encode() for number in range(50)}


async def test_of_those_who_wait_there_is_a_limit(
    world: World, wire: httpx2.AsyncClient, box: str, upstream: Upstream
) -> None:
    await world.http.post(f"/v1/sandboxes/{box}/hibernate")
    limits = httpx2.Limits(max_connections=200)
    async with httpx2.AsyncClient(
        base_url=wire.base_url, headers=wire.headers, limits=limits, timeout=30
    ) as many:
        answers = await asyncio.gather(*(many.get(below(box, upstream.port, "/")) for _ in range(150)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert 0 < len(refused) <= 22
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert sum(answer.status_code == 200 for answer in answers) == 150 - len(refused)
