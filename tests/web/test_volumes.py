"""The page of volumes and backups."""

from __future__ import annotations

import pytest

from tests.api.conftest import World
from tests.api.test_backups import BACKUPS, begin, chunks, ended, make
from tests.web.conftest import Browser
from tests.web.test_pages import Dangers

pytestmark = pytest.mark.anyio

PAGE = "/ui/volumes"
HOSTILE = "/mnt/<script>alert(1)<\"'"


async def test_it_shows_who_has_a_volume_and_what_became_of_backups(world: World, browser: Browser) -> None:
    empty = await browser.sees(PAGE)
    assert "There is no volume yet" in empty and "pandastack volume backup" in empty
    assert 'href="/ui/volumes" aria-current="page"' in empty and Dangers(empty).found == []
    await make(world)
    backup = await ended(world, await begin(world))
    box = await world.create(volumes=[{"name": "data", "path": HOSTILE}])
    shown = await browser.sees(PAGE)
    assert Dangers(shown).found == [] and "Together they may hold 64 MiB" in shown
    assert box["id"] in shown and "writes" in shown and "✓" in shown and backup["id"] in shown
    max(chunks(world), key=lambda each: each.stat().st_size).unlink()
    await world.http.post(f"{BACKUPS}/{backup['id']}/verify")
    assert "not what was kept: 1" in await browser.sees(PAGE)
    await world.http.delete(f"/v1/sandboxes/{box['id']}")
    assert "nobody" in await browser.sees(PAGE)
