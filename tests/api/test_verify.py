"""Verifying over HTTP, and the files that it takes, where nothing can be built; and bills as SPDX."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import httpx2
import pytest

from pandastack.model.build import BuildWish, Inputs
from pandastack.model.comparison import Package
from pandastack.services.inputs import Drafts
from pandastack.store import inputs
from tests.api.conftest import World
from tests.api.test_templates import OWN, ended, own

pytestmark = pytest.mark.anyio

WISH = BuildWish(name="mine", dockerfile="FROM a\n", build_args={"A": "1"})


async def kept(world: World, folder: Path, archive: bytes = b"context") -> Inputs | None:
    """Have the inputs of version 1 be kept."""
    plane = world.control.plane
    drafts = Drafts(folder / "archive", folder / "listing")
    (folder / "archive").write_bytes(archive)
    (folder / "listing").write_bytes(b"listing")
    async with plane.inputs.kept("default", WISH, {"a": "sha256:1"}, drafts) as found:
        if found is not None:
            writing = partial(inputs.insert, template=OWN, inputs=found)
            await plane.ground.database.write(writing)
    return found


def files(world: World, folder: str = "inputs") -> list[Path]:
    return [*(world.folder / "control" / folder).iterdir()]


async def test_a_version_is_verified_of_what_was_kept(
    world: World, http: httpx2.AsyncClient, foreigner: httpx2.AsyncClient, tmp_path: Path
) -> None:
    await own(world, 1, content="c")
    refused = await http.post("/v1/templates/mine/verify", json={})
    assert (refused.status_code, "was not kept" in refused.json()["error"]) == (409, True)
    assert not (await http.get("/v1/templates/mine/bill")).json()["verifiable"]
    found = await kept(world, tmp_path)
    assert found is not None and len(files(world)) == 2
    plane = world.control.plane
    assert await plane.inputs.find("default", "mine", 1) == found
    bill = (await http.get("/v1/templates/mine/bill")).json()
    assert (bill["verifiable"], bill["bases"]) == (True, {"a": "sha256:1"})
    assert (await foreigner.post("/v1/templates/mine/verify", json={})).status_code == 404
    odd = await http.post("/v1/templates/mine/verify", json={"timeout_seconds": 1})
    assert odd.status_code == 400
    begun = await http.post("/v1/templates/mine:1/verify", json={"timeout_seconds": 60})
    assert (begun.status_code, begun.json()["verifies"], begun.json()["version"]) == (202, "mine:1", 1)
    build = await ended(http, begun.json()["id"])
    assert (build["code"], build["template"]) == ("template.not_found", None), "no builder is here"
    assert not files(world, "builds") and len(files(world)) == 2
    next(path for path in files(world) if path.name == found.archive).write_bytes(b"something else")
    build = await ended(http, (await http.post("/v1/templates/mine/verify")).json()["id"])
    assert build["code"] == "template.not_verifiable" and "damaged" in build["error"]
    await plane.inputs.settle()
    assert len(files(world)) == 2
    await http.delete("/v1/templates/mine")
    await plane.inputs.settle()
    assert not files(world)


async def test_inputs_of_a_workspace_are_counted_once_each(world: World, tmp_path: Path) -> None:
    await own(world, 1)
    plane = world.control.plane
    plane.inputs._most_bytes = 20
    assert await kept(world, tmp_path, b"x" * 14) is None
    assert not files(world), "the listing alone has 7 bytes"
    assert await kept(world, tmp_path, b"x" * 13) is not None
    await plane.ground.database.write(partial(inputs.forget, workspace="default", name="mine", version=2))
    await plane.inputs.settle()
    assert len(files(world)) == 2
    await plane.ground.database.write(partial(inputs.forget, workspace="default", name="mine"))
    assert await kept(world, tmp_path, b"x" * 13) is not None, "those of no version do not count"


async def test_what_was_being_written_goes_at_the_next_start(idle_world: World, tmp_path: Path) -> None:
    world = idle_world
    await world.start()
    with world.control.plane.inputs.drafts("b", None) as drafts:
        drafts.listing.write_bytes(b"x")
        await world.stop()
        await world.start()
        assert not drafts.listing.exists()


async def test_a_bill_as_spdx(world: World, http: httpx2.AsyncClient) -> None:
    packages = [
        Package("os", "debian", "12"),
        Package("deb", "libstdc++6", "12.2.0-14"),
        Package("pypi", "Foo_Bar", "1+x"),
    ]
    await own(world, 1, packages=packages, content="abc")
    told = (await http.get("/v1/templates/mine/sbom")).json()
    assert (told["spdxVersion"], told["dataLicense"], told["SPDXID"]) == (
        "SPDX-2.3",
        "CC0-1.0",
        "SPDXRef-DOCUMENT",
    )
    assert told["documentDescribes"] == ["SPDXRef-Template"]
    urls = [
        each["externalRefs"][0]["referenceLocator"] for each in told["packages"] if "externalRefs" in each
    ]
    assert urls == ["pkg:deb/debian/libstdc%2B%2B6@12.2.0-14?distro=debian-12", "pkg:pypi/foo-bar@1%2Bx"]
    ids = {each["SPDXID"] for each in told["packages"]} | {"SPDXRef-DOCUMENT"}
    assert len(ids) == len(packages) + 2
    for each in told["relationships"]:
        assert {each["spdxElementId"], each["relatedSpdxElement"]} <= ids
    assert told == (await http.get("/v1/templates/mine:1/sbom")).json(), "the same each time"
    assert (await http.get("/v1/templates/base/sbom")).status_code == 404
