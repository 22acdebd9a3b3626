"""Snapshots as files over HTTP: out of one server, into the same one or another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from pandastack.testing.fixtures import eventually
from tests.api.conftest import World
from tests.api.test_accounts import bearer, make
from tests.api.test_cut_off import check_world
from tests.api.test_state import held, post, types

pytestmark = pytest.mark.anyio

IMPORT = "/v1/snapshots/archive"


async def exported(world: World, snapshot_id: str) -> bytes:
    answer = await world.http.get(f"/v1/snapshots/{snapshot_id}/archive")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    return bytes(answer.content)


def files(world: World, snapshot_id: str) -> dict[str, bytes]:
    folder = world.folder / "host" / "s" / snapshot_id
    names = ("memory", "state", "disk.qcow2")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
async def taken(world: World, box: str) -> str:
    return str((await post(world, f"{box}/snapshots", status=201))["id"])


async def test_a_snapshot_goes_and_comes_back(world: World, box: str, taken: str) -> None:
    was = (await world.http.get(f"/v1/snapshots/{taken}")).json()
    content, before = await exported(world, taken), files(world, taken)
    await world.http.delete(f"/v1/snapshots/{taken}")
    told = await types(world, box)
    answer = await world.http.post(IMPORT, params={"name": "back", "comment": "c"}, content=content)
    made = answer.json()
    assert (answer.status_code, made["name"], made["comment"], made["kind"]) == (201, "back", "c", "user")
    same = ("sandbox_id", "template", "cpu", "memory_mb", "workspace", "isolation", "pause_ms", "state")
    assert {name: made[name] for name in same} == {name: was[name] for name in same}
    assert files(world, made["id"]) == before and held(world) == {made["id"]}
    assert await types(world, box) == told, "nothing has happened to the sandbox"
    await world.stop()
    await world.start()
    assert (await world.http.get(f"/v1/snapshots/{made['id']}")).json() == made
    child = await world.create(from_snapshot=made["id"])
    assert (child["template"], child["parent_id"]) == ("base", box)
    assert (await world.exec(child["id"], "echo on"))["stdout"] == "on\n"
    audit = (await world.http.get("/v1/audit")).json()
    done = [(each["method"], each["status"]) for each in audit["entries"] if "archive" in each["path"]]
    assert sorted(done) == [("GET", 200), ("POST", 201)]
    await check_world(world)


async def test_with_the_same_key_again_it_is_the_same_snapshot(world: World, taken: str) -> None:
    content, key = await exported(world, taken), {"idempotency-key": "k"}
    damaged = await world.http.post(IMPORT, content=content[:-1], headers=key)
    assert damaged.status_code == 400, "what came to nothing does not use up its key"
    first, again = [await world.http.post(IMPORT, content=content, headers=key) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 201) and first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true" and "idempotent-replayed" not in first.headers
    assert held(world) == {taken, first.json()["id"]}
    other = await world.http.post(IMPORT, params={"name": "n"}, content=content, headers=key)
    assert other.status_code == 422


async def test_in_another_workspace_it_is_of_no_sandbox(
    world: World,
    taken: str,
    foreigner: httpx2.AsyncClient,
) -> None:
    async with foreigner as http:
        made = (await http.post(IMPORT, content=await exported(world, taken))).json()
        assert (made["workspace"], made["sandbox_id"]) == ("other", "")
        child = (await http.post("/v1/sandboxes", json={"from_snapshot": made["id"]})).json()
        assert (child["status"], child.get("parent_id")) == ("running", None)
        assert (await http.delete(f"/v1/snapshots/{made['id']}")).status_code == 204
        await http.delete(f"/v1/sandboxes/{child['id']}")


async def test_only_an_administrator_moves_snapshots(world: World, taken: str) -> None:
    headers = bearer((await make(world.http, label="u", scope="use"))["token"])
    for method, path in (("GET", f"/v1/snapshots/{taken}/archive"), ("POST", IMPORT)):
        answer = await world.http.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "auth.forbidden")


async def test_what_is_no_good_is_refused_and_leaves_nothing(
    world: World, taken: str, wire: httpx2.AsyncClient
) -> None:
    content = await exported(world, taken)
    for damaged in (content[:-1], content[:40] + b"!" + content[41:], b"hello", b""):
        answer = await wire.post(IMPORT, content=damaged)
        assert (answer.status_code, answer.json()["code"]) == (400, "snapshot.archive_refused")
    await check_world(world)
    assert held(world) == {taken}


async def test_imports_count_for_the_quota(idle_world: World) -> None:
    await idle_world.start(quota_snapshots=1)
    box = (await idle_world.create())["id"]
    content = await exported(idle_world, (await post(idle_world, f"{box}/snapshots", status=201))["id"])
    over = await idle_world.http.post(IMPORT, content=content)
    assert (over.status_code, over.json()["code"]) == (429, "quota.snapshots_exceeded")
    await check_world(idle_world)


async def test_a_client_that_leaves_leaves_nothing(
    world: World, taken: str, wire: httpx2.AsyncClient
) -> None:
    content, stalled = await exported(world, taken), asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield content[: len(content) // 2]
        stalled.set()
        await asyncio.Event().wait()

    calling = asyncio.ensure_future(wire.post(IMPORT, content=half()))
    await stalled.wait()
    archive = world.control.plane.archive
    async with asyncio.timeout(10):
        while not archive._working:
            await asyncio.sleep(0.01)
    calling.cancel()
    await asyncio.wait([calling])
    await eventually(lambda: not archive._working)
    assert _left(world.folder / "host") == {taken}
    await check_world(world)


def _left(state: Path) -> set[str]:
    return {path.name for path in (state / "s").iterdir()}
