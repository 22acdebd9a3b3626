"""Volumes over HTTP: what they are, who has them, and what becomes of them whoever dies."""

from __future__ import annotations

import asyncio
from functools import partial

import httpx2
import pytest

from pandastack.model.volume import VolumeState
from pandastack.store import volumes
from tests.api.conftest import World

pytestmark = pytest.mark.anyio

ALL = "/v1/volumes"


async def make(world: World, name: str, **body: object) -> dict[str, object]:
    answer = await world.http.post(ALL, json={"name": name, **body})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def files(world: World) -> set[str]:
    """The volumes that the host has files of."""
    return {path.name for path in (world.folder / "host" / "w").iterdir()}


async def test_a_volume_is_made_listed_and_deleted(world: World) -> None:
    made = await make(world, "data", size_mb=64)
    assert (made["name"], made["size_mb"], made["state"]) == ("data", 64, "ready")
    assert 0 < int(str(made["size_bytes"])) < 8 << 20, "an empty volume takes next to nothing"
    assert (await world.http.get(f"{ALL}/data")).json() == made
    assert (await world.http.get(ALL)).json() == [made]
    assert (
        (await world.http.post(ALL, json={"name": "data"}))
        .json()["error"]
        .startswith("volume already exists")
    )
    assert (await world.http.delete(f"{ALL}/data")).status_code == 204
    assert (await world.http.get(ALL)).json() == [] and files(world) == set()
    gone = await world.http.delete(f"{ALL}/data")
    assert gone.status_code == 404 and gone.json()["code"] == "volume.not_found"
    entries = (await world.http.get("/v1/audit")).json()["entries"]
    told = [(each["method"], each["meta"]["volume"]) for each in entries if "volume" in each.get("meta", {})]
    assert sorted(told) == [("DELETE", "data"), ("POST", "data")]


@pytest.mark.parametrize(
    "body", [{"name": "../x"}, {"name": ""}, {"name": "a/b"}, {"name": "v", "size_mb": 1}, {"name": "v" * 64}]
)
async def test_what_cannot_be_is_refused(world: World, body: dict[str, object]) -> None:
    assert (await world.http.post(ALL, json=body)).status_code == 400
    assert files(world) == set()


async def test_one_writes_or_many_read(world: World) -> None:
    await make(world, "data")
    writer = await world.create(volumes=[{"name": "data"}])
    assert [(each["path"], each["read_only"]) for each in writer["volumes"]] == [("/mnt/data", False)]
    for wish in ({"name": "data"}, {"name": "data", "read_only": True}):
        refused = await world.http.post("/v1/sandboxes", json={"template": "base", "volumes": [wish]})
        assert refused.status_code == 409 and refused.json()["code"] == "volume.busy"
        assert refused.json()["details"]["sandboxes"] == [writer["id"]]
    assert len(world.host.vms.reports()) == 1
    busy = await world.http.delete(f"{ALL}/data")
    assert busy.status_code == 409 and "writes" in busy.json()["error"]
    await world.http.delete(f"/v1/sandboxes/{writer['id']}")
    readers = [
        await world.create(volumes=[{"name": "data", "read_only": True, "path": "/d"}]) for _ in range(2)
    ]
    held = (await world.http.get(f"{ALL}/data")).json()["attachments"]
    assert {each["sandbox_id"] for each in held} == {each["id"] for each in readers}
    refused = await world.http.post("/v1/sandboxes", json={"template": "base", "volumes": [{"name": "data"}]})
    assert refused.status_code == 409
    for each in readers:
        await world.http.delete(f"/v1/sandboxes/{each['id']}")
    again = await world.create(volumes=[{"name": "data"}])
    assert again["volumes"][0]["generation"] == writer["volumes"][0]["generation"] + 1


async def test_of_many_who_want_to_write_one_does(world: World) -> None:
    await make(world, "data")
    body = {"template": "base", "volumes": [{"name": "data"}]}
    answers = await asyncio.gather(*(world.http.post("/v1/sandboxes", json=body) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7


async def test_a_create_that_fails_lets_go(world: World) -> None:
    await make(world, "data")
    await make(world, "other")
    both = [{"name": "data"}, {"name": "missing"}]
    assert (await world.http.post("/v1/sandboxes", json={"volumes": both})).status_code == 404
    writer = await world.create(volumes=[{"name": "other"}])
    both[1] = {"name": "other"}
    assert (
        await world.http.post("/v1/sandboxes", json={"template": "base", "volumes": both})
    ).status_code == 409
    assert (await world.http.get(f"{ALL}/data")).json()["attachments"] == []
    await world.http.delete(f"/v1/sandboxes/{writer['id']}")
    await world.create(volumes=both)


async def test_a_sandbox_with_volumes_is_not_copied(world: World) -> None:
    await make(world, "data")
    box = (await world.create(volumes=[{"name": "data"}]))["id"]
    for verb in ("snapshots", "fork", "fork-tree"):
        refused = await world.http.post(f"/v1/sandboxes/{box}/{verb}", json={})
        assert refused.status_code == 409 and "volumes" in refused.json()["error"], verb


async def test_it_sleeps_with_its_volumes(world: World) -> None:
    await make(world, "data")
    box = (await world.create(volumes=[{"name": "data"}]))["id"]
    assert (await world.http.post(f"/v1/sandboxes/{box}/hibernate")).status_code == 200
    refused = await world.http.post("/v1/sandboxes", json={"template": "base", "volumes": [{"name": "data"}]})
    assert refused.status_code == 409, "its memory goes on from what is on it"
    assert (await world.http.post(f"/v1/sandboxes/{box}/wake")).status_code == 200
    assert (await world.http.get(f"/v1/sandboxes/{box}")).json()["volumes"][0]["name"] == "data"


async def test_servers_come_and_go(world: World) -> None:
    await make(world, "data")
    box = (await world.create(volumes=[{"name": "data"}]))["id"]
    await world.stop()
    await world.start()
    assert (await world.http.delete(f"{ALL}/data")).status_code == 409
    await world.http.delete(f"/v1/sandboxes/{box}")
    assert (await world.http.delete(f"{ALL}/data")).status_code == 204


async def test_what_was_interrupted_is_settled(world: World) -> None:
    """A row of a volume that was never made, one of which the files are left, files without a row."""
    made = await make(world, "half")
    kept = await make(world, "kept")
    undone = partial(volumes.change, volume_id=str(made["id"]), state=VolumeState.CREATING)
    await world.control.plane.ground.database.write(undone)
    await world.host.make_volume("11111111-2222-3333-4444-555555555555", 16)
    await world.stop()
    await world.start()
    assert [each["name"] for each in (await world.http.get(ALL)).json()] == ["kept"]
    assert files(world) == {kept["id"]}


async def test_a_copy_is_a_volume_of_its_own(world: World) -> None:
    await make(world, "data", size_mb=32)
    (world.host.volumes.path_of(str((await make(world, "marked", size_mb=16))["id"]))).write_bytes(
        b"x" * 4096
    )
    copy = await make(world, "copy", from_volume="marked")
    assert (copy["size_mb"], copy["source"], copy["frozen"]) == (16, "marked", False)
    assert world.host.volumes.path_of(str(copy["id"])).read_bytes()[:4096] == b"x" * 4096
    larger = await make(world, "larger", from_volume="marked", size_mb=48)
    assert world.host.volumes.path_of(str(larger["id"])).stat().st_size == 48 << 20
    for body, status in (
        ({"name": "small", "from_volume": "data", "size_mb": 16}, 400),
        ({"name": "none", "from_volume": "missing"}, 404),
        ({"name": "copy", "from_volume": "data"}, 409),
    ):
        assert (await world.http.post(ALL, json=body)).status_code == status
    await world.create(volumes=[{"name": "data"}])
    refused = await world.http.post(ALL, json={"name": "torn", "from_volume": "data"})
    assert refused.status_code == 409 and refused.json()["code"] == "volume.busy"
    assert {each["name"] for each in (await world.http.get(ALL)).json()} == {
        "data",
        "marked",
        "copy",
        "larger",
    }
    assert len(files(world)) == 4


async def test_a_snapshot_is_never_written(world: World) -> None:
    await make(world, "data")
    kept = await world.http.post(f"{ALL}/data/snapshots", json={"name": "monday"})
    assert kept.status_code == 201 and kept.json()["frozen"] and kept.json()["source"] == "data"
    refused = await world.http.post(
        "/v1/sandboxes", json={"template": "base", "volumes": [{"name": "monday"}]}
    )
    assert refused.status_code == 400 and "is a snapshot" in refused.json()["error"]
    assert (await world.http.patch(f"{ALL}/monday", json={"size_mb": 1024})).status_code == 400
    await world.create(volumes=[{"name": "monday", "read_only": True}])
    back = await make(world, "back", from_volume="monday")
    assert not back["frozen"]
    await world.create(volumes=[{"name": "back"}])


async def test_a_volume_grows_and_never_shrinks(world: World) -> None:
    made = await make(world, "data", size_mb=32)
    grown = await world.http.patch(f"{ALL}/data", json={"size_mb": 64})
    assert grown.status_code == 200 and grown.json()["size_mb"] == 64
    assert world.host.volumes.path_of(str(made["id"])).stat().st_size == 64 << 20
    assert (await world.http.patch(f"{ALL}/data", json={"size_mb": 64})).status_code == 200, "it has that"
    assert (await world.http.patch(f"{ALL}/data", json={"size_mb": 32})).status_code == 400
    assert (await world.http.patch(f"{ALL}/data", json={"size_mb": 1 << 20})).status_code == 400
    box = (await world.create(volumes=[{"name": "data"}]))["id"]
    assert (await world.http.patch(f"{ALL}/data", json={"size_mb": 96})).status_code == 200
    await world.http.post(f"/v1/sandboxes/{box}/pause")
    assert (await world.http.patch(f"{ALL}/data", json={"size_mb": 128})).status_code == 409
    assert (await world.http.get(f"{ALL}/data")).json()["size_mb"] == 96


async def test_others_do_not_see_it(world: World, foreigner: httpx2.AsyncClient) -> None:
    await make(world, "data")
    assert (await foreigner.get(ALL)).json() == []
    assert (await foreigner.get(f"{ALL}/data")).status_code == 404
    assert (await foreigner.delete(f"{ALL}/data")).status_code == 404
    answer = await foreigner.post("/v1/sandboxes", json={"template": "base", "volumes": [{"name": "data"}]})
    assert answer.status_code == 404
    assert (await foreigner.post(ALL, json={"name": "data"})).status_code == 201, (
        "names are a workspace's own"
    )


async def test_a_volume_that_the_disk_cannot_hold_is_refused(world: World) -> None:
    answers = [await world.http.post(ALL, json={"name": f"v{turn}", "size_mb": 65_536}) for turn in range(20)]
    refused = answers[-1]
    assert refused.status_code == 507 and refused.json()["details"]["reason"] == "headroom"
    assert len(files(world)) == sum(answer.status_code == 201 for answer in answers)


async def test_what_is_on_a_volume_is_asked_for_by_a_path_of_it(world: World) -> None:
    """Machines that are processes have none to be looked at; `tests/wire` has others."""
    await make(world, "data")
    at = f"{ALL}/data/fs"
    for path in ("relative", "/a/../../etc/passwd", "/.."):
        assert (await world.http.get(at, params={"path": path})).status_code == 400
        assert (await world.http.put(at, params={"path": path}, content=b"x")).status_code == 400
    missing = await world.http.get(f"{ALL}/missing/fs/dir")
    assert missing.status_code == 404 and missing.json()["code"] == "volume.not_found"
    answer = await world.http.get(at, params={"path": "/file"})
    assert answer.status_code == 409 and answer.json()["code"] == "not_supported"
    assert world.host.vms.reports() == []
