"""The HTTP server itself: where it listens and how it ends."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import httpx2
import pytest

from pandastack.api.server import serving
from pandastack.errors import Conflict, InvalidRequest
from pandastack.model.sandbox import SandboxState
from tests.api.conftest import World
from tests.api.test_cut_off import check_world

pytestmark = pytest.mark.anyio


async def test_an_address_that_is_taken_is_told(world: World, url: str) -> None:
    with pytest.raises(Conflict, match=r"cannot be listened on: .* Choose another"):
        async with serving(world.control, urlsplit(url).netloc):
            pytest.fail("it must not start")


async def test_an_address_that_is_none_is_told(world: World) -> None:
    with pytest.raises(InvalidRequest, match="no address"):
        async with serving(world.control, "not an address:1"):
            pytest.fail("it must not start")


async def test_it_listens_on_ipv6_too(world: World) -> None:
    async with serving(world.control, "[::1]:0") as url, httpx2.AsyncClient(base_url=url) as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_a_request_under_way_ends_before_the_server_does(world: World, box: str) -> None:
    async with httpx2.AsyncClient(headers=dict(world.http.headers), timeout=20) as client:
        async with serving(world.control, "127.0.0.1:0") as url:
            running = asyncio.ensure_future(
                client.post(f"{url}/v1/sandboxes/{box}/exec", json={"cmd": "sleep 0.4; echo done"})
            )
            await asyncio.sleep(0.2)
        assert (await running).json()["stdout"] == "done\n"


async def test_a_request_that_takes_too_long_is_undone_before_the_server_ends(idle_world: World) -> None:
    await idle_world.start(failpoints="create.started=sleep:60;delete.stopped=sleep:0.3")
    async with httpx2.AsyncClient(headers=dict(idle_world.http.headers), timeout=20) as client:
        async with serving(idle_world.control, "127.0.0.1:0", grace_seconds=0) as url:
            creating = asyncio.ensure_future(client.post(f"{url}/v1/sandboxes", json={"template": "base"}))
            await asyncio.sleep(0.3)
            assert len(idle_world.host.vms.reports()) == 1
        counts = await idle_world.control.plane.sandboxes.count_by_state()
        await asyncio.gather(creating, return_exceptions=True)
    assert counts == {SandboxState.DELETED: 1}
    await check_world(idle_world)
