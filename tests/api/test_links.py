"""Links to ports, which anybody may use who has them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.api.conftest import TOKEN, World, client, raw
from tests.gateway.upstream import Upstream

pytestmark = pytest.mark.anyio


async def link(world: World, box: str, port: int, **more: object) -> dict[str, Any]:
    answer = await world.http.post(f"/v1/sandboxes/{box}/preview-token", json={"port": port, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.fixture
async def nobody(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client without a key."""
    async with client(None, url, None) as nobody:
        yield nobody


async def test_a_link_leads_to_its_port(
    world: World, nobody: httpx2.AsyncClient, box: str, upstream: Upstream
) -> None:
    made = await link(world, box, upstream.port)
    assert made["url"].endswith(f"/v1/p/{made['token']}/")
    headers = {"authorization": f"Bearer {TOKEN}", "x-api-key": TOKEN, "cookie": f"a={TOKEN}; b=1"}
    answer = await nobody.get(f"/v1/p/{made['token']}/deep/path?q=1", headers=headers)
    assert answer.content == b"fine"
    request, _ = upstream.only()
    assert request.target == b"/deep/path?q=1"
    assert TOKEN.encode() not in bytes(upstream.got[0])
    assert dict(request.headers)[b"cookie"] == b"b=1"


async def test_a_link_ends(world: World, nobody: httpx2.AsyncClient, box: str, upstream: Upstream) -> None:
    short, long = [await link(world, box, upstream.port, ttl_seconds=ttl) for ttl in (10, 604_800)]
    world.time.passes(11)
    assert (await nobody.get(f"/v1/p/{short['token']}/")).status_code == 401
    assert (await nobody.get(f"/v1/p/{long['token']}/")).status_code == 200
    await world.http.delete(f"/v1/sandboxes/{box}")
    assert (await nobody.get(f"/v1/p/{long['token']}/")).status_code == 404
    too_long = await world.http.post(
        f"/v1/sandboxes/{box}/preview", json={"port": 80, "ttl_seconds": 604_801}
    )
    assert too_long.status_code == 400


async def test_a_link_that_was_tampered_with(
    world: World, nobody: httpx2.AsyncClient, box: str, upstream: Upstream
) -> None:
    body, signature = (await link(world, box, upstream.port))["token"].split(".")
    other = (await link(world, box, upstream.port, ttl_seconds=99))["token"].split(".")
    wrong = [body, f"{body}.", f".{signature}", f"{other[0]}.{signature}", f"{body}.{other[1]}", "x.y"]
    wrong += [
        f"{body}=.{signature}",
        f"{body}.{signature}=",
        f"{body[:-1]}.{signature}",
        f"{body}.{signature}.x",
    ]
    wrong += [f"{body}.{signature[:-1]}", f"{body}.{signature.swapcase()}"]
    statuses = [(await nobody.get(f"/v1/p/{token}/")).status_code for token in wrong]
    assert statuses == [401] * len(wrong)
    assert upstream.got == []
    assert (await nobody.get(f"/v1/p/{body}.{signature}/")).status_code == 200


INSIDE = ["/docs", "/docs/", "/docs/a/b?c=/..", "/docs/%C3%BC", "/pub", "/%64ocs/x"]
OUTSIDE = [
    *("/", "/docsx", "/Docs", "/other", "/docs/../other", "/docs/..", "/docs/./x", "/docs//x", "//docs"),
    *("/docs/%2e%2e/other", "/docs/%2E./x", "/docs%2fx", "/docs/%2F../x", "/docs/%5c..%5cx", "/docs\\x"),
    *("/docs/..;/other", "/docs/..;a=1/other", "/docs/.;/x", "/docs/%252e%252e/other", "/docs/x%00"),
    *("/docs/%25%32%65", "/docs/%0a", "/other/%2e%2e/docs", "/docs/%2e%2e;/other"),
]  # fmt: skip


async def test_a_link_for_some_paths(world: World, url: str, box: str, upstream: Upstream) -> None:
    """Sent as raw bytes: a client would tidy the paths."""
    token = (await link(world, box, upstream.port, paths=["/docs/", "/pub"]))["token"]

    async def status(path: str) -> int:
        reader, writer = await raw(url)
        writer.write(f"GET /v1/p/{token}{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        head = await reader.readline()
        writer.close()
        return int(head.split()[1])

    assert {path: await status(path) for path in INSIDE} == dict.fromkeys(INSIDE, 200)
    seen = len(upstream.got)
    assert {path: await status(path) for path in OUTSIDE} == dict.fromkeys(OUTSIDE, 403)
    assert len(upstream.got) == seen


@pytest.mark.parametrize("path", ["docs", "/a|b", "/a,b", "/a/../b", "/a%2e", "/a?b", "//a", "/a\nb"])
async def test_paths_that_no_link_can_have(world: World, box: str, path: str) -> None:
    answer = await world.http.post(f"/v1/sandboxes/{box}/preview", json={"port": 80, "paths": [path]})
    assert answer.status_code == 400


async def test_previews_can_be_off(
    world: World, nobody: httpx2.AsyncClient, box: str, upstream: Upstream
) -> None:
    token = (await link(world, box, upstream.port))["token"]
    await world.http.post(f"/v1/sandboxes/{box}/metadata", json={"preview": "off"})
    assert (await nobody.get(f"/v1/p/{token}/")).status_code == 404
    refused = await world.http.post(f"/v1/sandboxes/{box}/preview", json={"port": 80})
    assert refused.status_code == 403
    await world.http.post(f"/v1/sandboxes/{box}/metadata", json={"preview": "private"})
    assert (await nobody.get(f"/v1/p/{token}/")).status_code == 200


async def test_the_secret_outlives_a_restart_and_is_nobody_elses(
    world: World, box: str, upstream: Upstream
) -> None:
    token = (await link(world, box, upstream.port))["token"]
    secret = world.folder / "control" / "preview.secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert len(secret.read_bytes()) == 32
    await world.stop()
    await world.start()
    assert (await world.http.get(f"/v1/p/{token}/")).content == b"fine"
    secret.write_bytes(bytes(32))
    await world.stop()
    await world.start()
    assert (await world.http.get(f"/v1/p/{token}/")).status_code == 401


async def test_the_log_does_not_hold_links(
    world: World, box: str, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    token = (await link(world, box, upstream.port))["token"]
    assert (await world.http.get(f"/v1/p/{token}/x")).status_code == 200
    said = capsys.readouterr()
    assert "/v1/p/…/x" in said.out + said.err
    assert token not in said.out + said.err
