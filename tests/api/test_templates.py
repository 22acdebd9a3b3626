"""Builds and templates of one's own over HTTP, where nothing can be built: machines here have no disks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx2
import pytest
from msgspec import structs

from pandastack.model.build import Build, BuildForm, BuildStatus, OwnTemplate
from pandastack.store import builds, templates
from tests.api.conftest import World

pytestmark = pytest.mark.anyio

BUILD = "/v1/templates/build"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
OWN = OwnTemplate(
    name="mine",
    workspace="default",
    version=1,
    host="local",
    cpu=1,
    memory_mb=512,
    disk_mb=1024,
    size_bytes=1000,
    created_at=NOW,
    build_id="b",
    form=BuildForm.IMAGE,
)


async def ended(http: httpx2.AsyncClient, build_id: str) -> dict[str, Any]:
    """The build when it has ended."""
    async with asyncio.timeout(30):
        while True:
            build = (await http.get(f"/v1/templates/builds/{build_id}")).json()
            if build["ended_at"] is not None:
                return dict(build)
            await asyncio.sleep(0.02)


async def own(world: World, *versions: int, **fields: Any) -> None:  # noqa: ANN401  # fields of a template
    """Rows of built templates, the last version being the newest."""

    def transaction(connection: Any) -> None:  # noqa: ANN401  # the store's own type
        for version in versions:
            row = structs.replace(OWN, version=version, **fields)
            templates.insert(connection, row)
            templates.point(connection, row.workspace, row.name, templates.NEWEST, version)

    await world.control.plane.ground.database.write(transaction)


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({}, 400, "A form is sent as"),
        ({"image_ref": "a"}, 400, "missing required field `name`"),
        ({"name": "x"}, 400, "rootfs file required"),
        ({"name": "UPPER", "dockerfile": "FROM a"}, 400, "`name`"),
        ({"name": "x/y", "dockerfile": "FROM a"}, 400, "`name`"),
        ({"name": "x", "dockerfile": ""}, 400, "`dockerfile`"),
        ({"name": "x", "image_ref": "a b"}, 400, "`image_ref`"),
        ({"name": "x", "image_ref": "--authfile=/etc/passwd"}, 400, "`image_ref`"),
        ({"name": "x", "image_ref": "a", "size_mb": "99999"}, 400, "`size_mb`"),
        ({"name": "x", "image_ref": "a", "size_mb": "much"}, 400, "`size_mb`"),
        ({"name": "x", "image_ref": "a", "cpu": "0"}, 400, "`cpu`"),
        ({"name": "x", "image_ref": "a", "memory_mb": "1"}, 400, "`memory_mb`"),
        ({"name": "x", "image_ref": "a", "build_args": "{"}, 400, "`build_args` is not JSON"),
        ({"name": "x", "image_ref": "a", "target": "-f"}, 400, "`target`"),
        ({"name": "x", "image_ref": "a", "nonsense": "1"}, 400, "nonsense"),
        ({"name": "x", "image_ref": "a", "registry_nonsense": "1"}, 400, "nonsense"),
        ({"name": "base", "image_ref": "a"}, 403, "public template cannot be replaced"),
    ],
)
async def test_what_cannot_be_built_is_refused(
    http: httpx2.AsyncClient, fields: dict[str, str], status: int, words: str
) -> None:
    answer = await http.post(BUILD, data=fields)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert (await http.get("/v1/templates/builds")).json() == []


async def test_other_bodies_than_forms_are_refused(http: httpx2.AsyncClient) -> None:
    answer = await http.post(BUILD, json={"name": "x"})
    assert answer.status_code == 400
    assert "multipart/form-data" in answer.json()["error"]
    broken = {"content-type": "multipart/form-data; boundary=xyz"}
    answer = await http.post(BUILD, content=b"no form", headers=broken)
    assert answer.status_code == 400


async def test_a_build_that_fails_is_told_to_its_end(world: World, http: httpx2.AsyncClient) -> None:
    answer = await http.post(BUILD, data={"name": "x", "image_ref": "registry.example/a:1"})
    assert answer.status_code == 202
    begun = answer.json()
    assert (begun["status"], begun["image_ref"], begun["owner_workspace"]) == (
        "queued",
        "registry.example/a:1",
        "default",
    )
    build = await ended(http, begun["id"])
    assert (build["status"], build["code"]) == ("failed", "template.not_found")
    logs = f"/v1/templates/builds/{begun['id']}/logs"
    for suffix in ("", "?follow=1", "?follow=true"):
        text = (await http.get(logs + suffix)).text
        assert "data: error: unknown template" in text
        assert text.endswith("data: end\n\n")
    assert [each["id"] for each in (await http.get("/v1/templates/builds")).json()] == [begun["id"]]
    assert not any((world.folder / "control" / "builds").iterdir())
    again = (await http.post(BUILD, data={"name": "x", "image_ref": "a"})).json()
    assert again["version"] == begun["version"] + 1, "no version is there twice"
    await ended(http, again["id"])


async def test_what_was_uploaded_goes_with_the_build(world: World, http: httpx2.AsyncClient) -> None:
    begun = (await http.post(BUILD, data={"name": "x"}, files={"rootfs": b"x" * 200_000})).json()
    await ended(http, begun["id"])
    archives = world.folder / "control" / "builds"
    assert not any(archives.iterdir())
    refused = await http.post(BUILD, data={"name": "base"}, files={"rootfs": b"x"})
    assert refused.status_code == 403
    assert not any(archives.iterdir())


async def test_builds_of_a_server_that_ended_have_failed(idle_world: World) -> None:
    world = idle_world
    await world.start()
    going = Build(
        id="going",
        name="x",
        workspace="default",
        form=BuildForm.IMAGE,
        status=BuildStatus.RUNNING,
        created_at=NOW,
        size_mb=1,
        cpu=1,
        memory_mb=1,
    )
    await world.control.plane.ground.database.write(partial(builds.insert, build=going))
    (world.folder / "control" / "builds" / "left").write_bytes(b"x")
    await world.stop()
    await world.start()
    build = (await world.http.get("/v1/templates/builds/going")).json()
    assert (build["status"], build["code"]) == ("failed", "build.interrupted")
    assert not any((world.folder / "control" / "builds").iterdir())


async def test_versions_and_tags(world: World, http: httpx2.AsyncClient) -> None:
    await own(world, 1, 2)
    listed = (await http.get("/v1/templates")).json()
    assert [(each["name"], each["version"]) for each in listed if not each["is_global"]] == [("mine", 2)]
    assert listed[0]["is_global"], "the first can be created at once"
    newest = (await http.get("/v1/templates/mine/versions")).json()
    assert [(each["version"], each["tags"]) for each in newest] == [(2, ["latest"]), (1, [])]
    for name, version in (("mine", 2), ("mine:1", 1), ("mine:latest", 2)):
        assert (await http.get(f"/v1/templates/{name}")).json()["version"] == version
    back = await http.put("/v1/templates/mine/tags/latest", json={"version": 1})
    assert (back.status_code, back.json()["version"]) == (200, 1)
    assert (await http.get("/v1/templates/mine")).json()["version"] == 1
    assert (await http.put("/v1/templates/mine/tags/prod", json={"version": 9})).status_code == 404
    assert (await http.get("/v1/templates/mine/bill")).json()["form"] == "image"
    refused = await http.post(BUILD, data={"name": "mine", "image_ref": "a"})
    assert (refused.status_code, refused.json()["code"]) == (409, "template.exists")
    assert "pass replace=true" in refused.json()["error"]
    assert (await http.delete("/v1/templates/mine:1")).status_code == 204
    assert [each["version"] for each in (await http.get("/v1/templates/mine/versions")).json()] == [2]
    assert (await http.delete("/v1/templates/mine")).status_code == 204
    assert (await http.get("/v1/templates/mine")).status_code == 404
    assert (await http.delete("/v1/templates/mine")).status_code == 404
    assert (await http.delete("/v1/templates/base")).status_code == 403


async def test_templates_are_a_workspaces_own(
    world: World, http: httpx2.AsyncClient, foreigner: httpx2.AsyncClient
) -> None:
    await own(world, 1)
    begun = (await http.post(BUILD, data={"name": "x", "image_ref": "a"})).json()
    await ended(http, begun["id"])
    unknown = ["/v1/templates/mine", "/v1/templates/mine:1", "/v1/templates/mine/versions"]
    unknown += ["/v1/templates/mine/bill", f"/v1/templates/builds/{begun['id']}"]
    unknown += [f"/v1/templates/builds/{begun['id']}/logs"]
    for path in unknown:
        assert (await http.get(path)).status_code == 200, "the control: its owner sees it"
        assert (await foreigner.get(path)).status_code == 404
    assert (await foreigner.post(f"/v1/templates/builds/{begun['id']}/cancel")).status_code == 404
    assert (await foreigner.put("/v1/templates/mine/tags/latest", json={"version": 1})).status_code == 404
    assert (await foreigner.delete("/v1/templates/mine")).status_code == 404
    assert (await foreigner.post("/v1/sandboxes", json={"template": "mine"})).status_code == 404
    assert "mine" not in (await foreigner.get("/v1/templates")).text
    assert (await foreigner.get("/v1/templates/builds")).json() == []
    begun = await foreigner.post(BUILD, data={"name": "mine", "image_ref": "a"})
    assert begun.status_code == 202, "a name is taken in its own workspace alone"
    await ended(foreigner, begun.json()["id"])


async def test_a_size_is_what_a_create_asks_for(world: World) -> None:
    box = await world.create(cpu=3, memory_mb=600)
    assert (box["cpu"], box["memory_mb"]) == (4, 1024), "raised to the next step"
    box = await world.create()
    assert (box["cpu"], box["memory_mb"]) == (1, 512)


async def test_many_files_of_a_form_are_not_many_bytes(world: World, http: httpx2.AsyncClient) -> None:
    piece = b"x" * (16 << 20)
    files = {f"f{number}": (f"f{number}", piece) for number in range(5)}
    answer = await http.post(BUILD, data={"name": "x", "dockerfile": "FROM a"}, files=files)
    assert (answer.status_code, answer.json()["code"]) == (413, "validation.too_large")
    assert "context_format=tar" in answer.json()["error"]
    assert (await http.get("/v1/templates/builds")).json() == []


async def test_versions_are_counted(world: World, http: httpx2.AsyncClient) -> None:
    await own(world, *range(1, 101))
    refused = await http.post(BUILD, data={"name": "x", "image_ref": "a"})
    assert (refused.status_code, refused.json()["code"]) == (429, "quota.templates_exceeded")
    await http.delete("/v1/templates/mine:7")
    begun = await http.post(BUILD, data={"name": "x", "image_ref": "a"})
    assert begun.status_code == 202
    await ended(http, begun.json()["id"])
