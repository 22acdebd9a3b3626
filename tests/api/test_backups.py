"""Backups of volumes over HTTP: what they hold, what they cost, and what becomes of them whoever dies."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import httpx2
import pytest

from pandastack.blobs.place import OWNER
from tests.api.conftest import World

pytestmark = pytest.mark.anyio

VOLUMES, BACKUPS = "/v1/volumes", "/v1/backups"
MIB = 1 << 20


def disk(world: World, volume: dict[str, Any]) -> Path:
    return world.folder / "host" / "w" / str(volume["id"]) / "disk"


def write(world: World, volume: dict[str, Any], offset: int, data: bytes) -> None:
    """As a machine would."""
    with disk(world, volume).open("r+b") as file:
        file.seek(offset)
        file.write(data)


async def make(world: World, name: str = "data", size_mb: int = 64) -> dict[str, Any]:
    """A volume with 8 MiB that no compression makes less."""
    answer = await world.http.post(VOLUMES, json={"name": name, "size_mb": size_mb})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    write(world, made, 20 * MIB, os.urandom(8 * MIB))
    return made


async def begin(world: World, name: str = "data") -> dict[str, Any]:
    answer = await world.http.post(f"{VOLUMES}/{name}/backups")
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


async def ended(world: World, backup: dict[str, Any]) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            found: dict[str, Any] = (await world.http.get(f"{BACKUPS}/{backup['id']}")).json()
            if found["status"] != "saving":
                return found
            await asyncio.sleep(0.01)


async def only(world: World, volume: dict[str, Any]) -> None:
    """What was set aside goes behind the end of its backup."""
    async with asyncio.timeout(10):
        while files(world) != {volume["id"]}:
            await asyncio.sleep(0.01)


async def restored(world: World, backup: dict[str, Any], name: str, **body: object) -> httpx2.Response:
    return await world.http.post(VOLUMES, json={"name": name, "from_backup": backup["id"], **body})


def chunks(world: World) -> list[Path]:
    return [path for path in store(world).glob("volumes/*/chunks/*/*") if path.is_file()]


def store(world: World) -> Path:
    return world.folder / "control" / "blobs"


def files(world: World) -> set[str]:
    return {path.name for path in (world.folder / "host" / "w").iterdir()}


async def test_a_volume_comes_back_as_it_was(world: World) -> None:
    made = await make(world)
    before = disk(world, made).read_bytes()
    begun = await begin(world)
    assert (begun["volume"], begun["status"], begun["size_mb"]) == ("data", "saving", 64)
    write(world, made, 20 * MIB, bytes(8 * MIB))  # that was behind its moment
    first = await ended(world, begun)
    assert first["status"] == "ready" and first["error"] is None and len(first["digest"]) == 64
    assert first["total_bytes"] == first["done_bytes"] > 8 * MIB
    assert 8 * MIB < first["stored_bytes"] < 9 * MIB, "what can be compressed takes next to nothing"
    await only(world, made)

    answer = await restored(world, first, "back", size_mb=80)
    assert answer.status_code == 201, answer.text
    back = answer.json()
    assert (back["size_mb"], back["source"], back["state"]) == (80, "data", "ready")
    assert disk(world, back).read_bytes() == before + bytes(16 * MIB)
    assert back["size_bytes"] < 24 * MIB, "what was no byte takes none"

    await world.http.delete(f"{VOLUMES}/data")
    listed = (await world.http.get(f"{VOLUMES}/data/backups")).json()
    assert listed == (await world.http.get(BACKUPS)).json() == [first], "it outlives its volume"
    assert (await world.http.get(BACKUPS, params={"volume": "back"})).json() == []
    assert disk(world, (await restored(world, first, "data")).json()).read_bytes() == before


async def test_what_changed_a_little_moves_a_little(world: World) -> None:
    made = await make(world)
    first = await ended(world, await begin(world))
    write(world, made, 22 * MIB + 100, b"a few bytes")
    second = await ended(world, await begin(world))
    assert 0 < second["stored_bytes"] < 1.1 * MIB < first["stored_bytes"]
    count = len(chunks(world))
    assert (await world.http.delete(f"{BACKUPS}/{first['id']}")).status_code == 204
    assert (await world.http.get(f"{BACKUPS}/{first['id']}")).json()["code"] == "backup.not_found"
    await world.control.plane.backups.tidy()
    assert len(chunks(world)) == count - 1, "what the other one needs stays"
    now = disk(world, made).read_bytes()
    assert disk(world, (await restored(world, second, "back")).json()).read_bytes() == now
    await world.http.delete(f"{BACKUPS}/{second['id']}")
    await world.control.plane.backups.tidy()
    assert chunks(world) == [] and (await world.http.get(BACKUPS)).json() == []


async def test_a_flipped_bit_is_told_by_the_name_of_its_chunk(world: World) -> None:
    made = await make(world)
    backup = await ended(world, await begin(world))
    await only(world, made)
    assert (await world.http.post(f"{BACKUPS}/{backup['id']}/verify")).json()["damaged"] == []
    path = max(chunks(world), key=lambda each: each.stat().st_size)
    whole = path.read_bytes()
    name = path.relative_to(store(world)).as_posix()
    for harm in (whole[:500] + bytes([whole[500] ^ 1]) + whole[501:], whole[:-1], b"", None):
        path.unlink(missing_ok=True)
        if harm is not None:
            path.write_bytes(harm)
        refused = await restored(world, backup, "back")
        assert (refused.status_code, refused.json()["code"]) == (500, "backup.damaged")
        assert name in refused.json()["error"] and refused.json()["details"]["chunks"] == [name]
        assert files(world) == {made["id"]}, "nothing of it is left"
        found = (await world.http.post(f"{BACKUPS}/{backup['id']}/verify")).json()
        assert found["damaged"] == [name] and found["verified_at"]
    path.write_bytes(whole[:-1])
    again = await ended(world, await begin(world))
    assert again["stored_bytes"] == len(whole), "what was found wrong is written anew"
    assert (await world.http.post(f"{BACKUPS}/{backup['id']}/verify")).json()["damaged"] == []
    (manifest,) = store(world).glob(f"volumes/*/backups/{backup['id']}.json")
    manifest.write_bytes(manifest.read_bytes().replace(b"data", b"dada"))
    assert (await restored(world, backup, "back")).json()["details"]["chunks"] == [
        manifest.relative_to(store(world)).as_posix()
    ]
    assert (await restored(world, again, "back")).status_code == 201


@pytest.mark.parametrize("point", ["backup.saved", "backup.sealed"])
async def test_a_server_that_ends_has_the_next_one_go_on(idle_world: World, point: str) -> None:
    world = idle_world
    await world.start(failpoints=f"{point}=sleep:60")
    made = await make(world)
    before = disk(world, made).read_bytes()
    begun = await begin(world)
    async with asyncio.timeout(10):
        while len(chunks(world)) < 9:
            await asyncio.sleep(0.01)
    assert (await world.http.get(f"{BACKUPS}/{begun['id']}")).json()["done_bytes"] > 0
    await world.stop()
    await world.start(failpoints="")
    found = await ended(world, begun)
    assert found["status"] == "ready"
    await only(world, made)
    back = (await restored(world, found, "back")).json()
    assert disk(world, back).read_bytes() == before


async def test_one_that_is_given_up_leaves_nothing(idle_world: World) -> None:
    world = idle_world
    await world.start(failpoints="backup.sealed=sleep:60")
    made = await make(world)
    begun, waiting = await begin(world), await begin(world)
    async with asyncio.timeout(10):
        while not [*store(world).glob("volumes/*/backups/*")]:
            await asyncio.sleep(0.01)
    refused = await world.http.delete(f"{BACKUPS}/{begun['id']}")
    assert refused.status_code == 409 and "cancel" in refused.json()["error"]
    assert (await restored(world, begun, "back")).status_code == 409, "half a backup is none"
    for each in (waiting, begun):
        told = (await world.http.post(f"{BACKUPS}/{each['id']}/cancel")).json()
        assert (told["status"], told["code"]) == ("failed", "backup.cancelled")
    await only(world, made)
    for each in (waiting, begun):
        assert (await world.http.delete(f"{BACKUPS}/{each['id']}")).status_code == 204
    await world.control.plane.backups.tidy()
    assert chunks(world) == [] and [*store(world).glob("volumes/*/backups/*")] == []


async def test_a_store_that_fails_changes_nothing(world: World) -> None:
    await make(world)
    first = await ended(world, await begin(world))
    (folder,) = store(world).glob("volumes/*")
    away = folder.rename(store(world) / "away")
    folder.write_text("no folder")
    failed = await ended(world, await begin(world))
    assert (failed["status"], failed["code"]) == ("failed", "blobs.unavailable")
    assert (await restored(world, first, "back")).status_code in (500, 503)
    await world.http.delete(f"{BACKUPS}/{failed['id']}")
    await world.control.plane.backups.tidy()
    folder.unlink()
    away.rename(folder)
    await world.control.plane.backups.tidy()
    assert (await restored(world, first, "back")).status_code == 201
    (store(world) / OWNER).write_text("another")
    await world.stop()
    await world.start()
    refused = await world.http.post(f"{VOLUMES}/data/backups")
    assert refused.status_code == 409 and "another server" in refused.json()["error"]
    assert (await restored(world, first, "again")).status_code == 201, "reading harms nobody"


async def test_what_cannot_be_is_refused(world: World, foreigner: httpx2.AsyncClient) -> None:
    made = await make(world)
    assert (await world.http.post(f"{VOLUMES}/none/backups")).json()["code"] == "volume.not_found"
    box = await world.create(volumes=[{"name": "data"}])
    busy = await world.http.post(f"{VOLUMES}/data/backups")
    assert (busy.status_code, busy.json()["code"]) == (409, "volume.busy")
    assert (await world.http.get(BACKUPS)).json() == [] and files(world) == {made["id"]}
    await world.http.delete(f"/v1/sandboxes/{box['id']}")
    await world.create(volumes=[{"name": "data", "read_only": True}])
    backup = await ended(world, await begin(world))
    assert backup["status"] == "ready", "who reads it changes nothing"
    await only(world, made)
    for body in ({"size_mb": 32}, {"from_volume": "data"}):
        assert (await restored(world, backup, "back", **body)).status_code == 400
    assert (await restored(world, backup, "data")).json()["code"] == "volume.exists"
    one = f"{BACKUPS}/{backup['id']}"
    async with foreigner as http:
        for method, path in (
            ("GET", one),
            ("DELETE", one),
            ("POST", f"{one}/cancel"),
            ("POST", f"{one}/verify"),
        ):
            assert (await http.request(method, path)).json()["code"] == "backup.not_found"
        stolen = await http.post(VOLUMES, json={"name": "mine", "from_backup": backup["id"]})
        assert stolen.json()["code"] == "backup.not_found"
        assert (await http.get(BACKUPS)).json() == (await http.get(f"{VOLUMES}/data/backups")).json() == []
    assert files(world) == {made["id"]}


async def test_volumes_have_a_quota(idle_world: World) -> None:
    world = idle_world
    await world.start(quota_volume_mb=100)
    await make(world)
    over = await world.http.post(VOLUMES, json={"name": "more", "size_mb": 37})
    assert (over.status_code, over.json()["code"]) == (429, "quota.volumes_exceeded")
    assert over.json()["details"] == {"limit_mb": 100, "wanted_mb": 101} and over.json()["retryable"] is False
    assert (await world.http.post(VOLUMES, json={"name": "copy", "from_volume": "data"})).status_code == 429
    backup = await ended(world, await begin(world))
    assert backup["status"] == "ready", "what is set aside is nobody's"
    assert (await restored(world, backup, "back")).status_code == 429
    assert (await world.http.patch(f"{VOLUMES}/data", json={"size_mb": 101})).status_code == 429
    assert (await world.http.get(f"{VOLUMES}/data")).json()["size_mb"] == 64
    assert (await world.http.patch(f"{VOLUMES}/data", json={"size_mb": 84})).status_code == 200
    assert (await world.http.post(VOLUMES, json={"name": "more", "size_mb": 16})).status_code == 201
    quota = (await world.http.get("/v1/quotas")).json()["volumes"]
    assert quota == {"limits": {"size_mb": 100}, "used": {"volumes": 2, "size_mb": 100}}
    answers = await asyncio.gather(
        *(world.http.post(VOLUMES, json={"name": f"v{n}", "size_mb": 16}) for n in range(4))
    )
    assert {answer.status_code for answer in answers} == {429}
