"""Templates and builds in the browser: what is shown, and what its forms do."""

from __future__ import annotations

import html
from functools import partial

import pytest
from markupsafe import escape
from msgspec import structs

from pandastack.model.build import Build, BuildForm, BuildStatus
from pandastack.model.comparison import Comparison, Difference, How, PackageChange, Result
from pandastack.store import builds
from tests.api.conftest import World
from tests.api.test_templates import NOW, own
from tests.web.conftest import Browser
from tests.web.test_pages import HOSTILE, Dangers

pytestmark = pytest.mark.anyio

BUILD = Build(
    id="b1",
    name="mine",
    workspace="default",
    form=BuildForm.DOCKERFILE,
    status=BuildStatus.DONE,
    created_at=NOW,
    size_mb=64,
    cpu=1,
    memory_mb=512,
    version=2,
)
HOSTILE_COMPARISON = Comparison(
    result=Result.DIFFERS,
    content="c",
    paths=len(HOSTILE),
    differences=[Difference(payload, How.CHANGED, trace=False) for payload in HOSTILE],
    packages=[PackageChange("deb", payload, "1", None) for payload in HOSTILE],
)


async def written(world: World, build: Build, *lines: str) -> None:
    database = world.control.plane.ground.database
    await database.write(partial(builds.insert, build=build))
    await database.write(partial(builds.say, build_id=build.id, first=1, lines=lines))


async def test_versions_are_pointed_to_and_deleted(world: World, browser: Browser) -> None:
    assert "You have built none yet" in await browser.sees("/ui/templates")
    await own(world, 1, 2)
    page = await browser.sees("/ui/templates")
    assert "mine:1" in page and "mine:2" in page and "Make it the latest" in page and "base" in page
    key = await browser.form_key("/ui/templates")
    refused = await browser.post("/ui/templates/mine/latest", data={"form_key": "x" * 64, "version": "1"})
    assert refused.status_code == 403
    assert (await world.http.get("/v1/templates/mine")).json()["version"] == 2
    done = await browser.post("/ui/templates/mine/latest", data={"form_key": key, "version": "1"})
    assert (done.status_code, done.headers["location"]) == (303, "/ui/templates")
    assert (await world.http.get("/v1/templates/mine")).json()["version"] == 1
    for version in ("one", "9"):
        odd = await browser.post("/ui/templates/mine/latest", data={"form_key": key, "version": version})
        assert odd.status_code in {400, 404}
    unverifiable = await browser.post("/ui/templates/mine:1/verify", data={"form_key": key})
    assert unverifiable.status_code == 409 and "was not kept" in unverifiable.text
    await browser.post("/ui/templates/mine:2/delete", data={"form_key": key})
    assert [each["version"] for each in (await world.http.get("/v1/templates/mine/versions")).json()] == [1]


async def test_a_build_is_followed_without_a_script(world: World, browser: Browser) -> None:
    going = structs.replace(BUILD, id="going", status=BuildStatus.RUNNING, step="building")
    await written(world, going, *(f"line {number}" for number in range(600)))
    page = await browser.sees("/ui/templates/builds/going")
    assert 'http-equiv="refresh"' in page and "line 599" in page and "line 99\n" not in page
    assert "100 earlier lines" in page and not Dangers(page).found
    key = await browser.form_key("/ui/templates/builds/going")
    assert (
        await browser.post("/ui/templates/builds/going/cancel", data={"form_key": key})
    ).status_code == 303
    ended = await browser.sees("/ui/templates/builds/going")
    assert "It was cancelled." in ended and 'http-equiv="refresh"' not in ended
    await browser.sees("/ui/templates/builds/none", 404)


async def test_whatever_a_build_says_is_text(world: World, browser: Browser) -> None:
    await own(world, 1, source=HOSTILE[0])
    failed = structs.replace(
        BUILD, status=BuildStatus.FAILED, error=HOSTILE[1], comparison=HOSTILE_COMPARISON
    )
    await written(world, failed, *HOSTILE)
    for path, shown in (("/ui/templates", HOSTILE[:1]), ("/ui/templates/builds/b1", HOSTILE)):
        page = await browser.sees(path)
        for payload in shown:
            assert str(escape(payload)) in page and payload not in page
        assert not Dangers(page).found
        assert Dangers(html.unescape(page)).found
