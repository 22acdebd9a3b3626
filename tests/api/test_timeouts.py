"""Idle timeouts and lifetimes: what ends or sleeps by itself, and what keeps it awake."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from pandastack.testing.fixtures import eventually
from tests.api.conftest import World
from tests.api.test_life import sandbox
from tests.api.test_state import held, machines, post, types, used

pytestmark = pytest.mark.anyio

ALL = "/v1/sandboxes"


async def reap(world: World) -> None:
    await world.control.plane.reaper.reap()


async def why(world: World, sandbox_id: str) -> dict[str, Any]:
    return dict((await world.http.get(f"{ALL}/{sandbox_id}/why-awake")).json())


async def patch(world: World, sandbox_id: str, **change: object) -> dict[str, Any]:
    answer = await world.http.patch(f"{ALL}/{sandbox_id}/lifecycle", json=change)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_a_persistent_one_sleeps_when_it_idles(world: World) -> None:
    box = (await world.create(persistent=True, idle_timeout_seconds=60))["id"]
    world.time.passes(61)
    await reap(world)
    assert (await sandbox(world, box))["status"] == "hibernated" and machines(world) == {}
    told = (await world.events(box))[-1]
    assert told["payload"]["cause"] == "idle for 61 s, longer than its idle timeout of 60 s"
    world.time.passes(10_000)
    await reap(world)
    assert (await world.exec(box, "echo on"))["stdout"] == "on\n"


async def test_a_ttl_may_put_to_sleep_instead_of_ending(world: World) -> None:
    made = await world.create(ttl_seconds=60, on_timeout="hibernate")
    assert made["on_timeout"] == "hibernate" and made["idle_timeout_seconds"] is None
    world.time.passes(61)
    await reap(world)
    assert (await sandbox(world, made["id"]))["status"] == "hibernated"
    world.time.passes(1000)
    await reap(world)
    await post(world, f"{made['id']}/wake")
    world.time.passes(59)
    await reap(world)
    assert (await sandbox(world, made["id"]))["status"] == "running", "it idles from its wake on"


async def test_a_ttl_and_an_idle_timeout_are_two_things(world: World) -> None:
    box = (await world.create(ttl_seconds=60, idle_timeout_seconds=10))["id"]
    world.time.passes(50)
    await reap(world)
    assert (await sandbox(world, box))["status"] == "running"
    await patch(world, box, persistent=True)
    world.time.passes(11)
    await reap(world)
    assert (await sandbox(world, box))["status"] == "hibernated"


async def test_a_lifetime_is_counted_while_awake_and_ends_what_is_in_use(world: World) -> None:
    made = await world.create(lifetime_seconds=1000, ttl_seconds=10_000)
    box = made["id"]
    left = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert 1000 <= left.total_seconds() < 1050
    world.time.passes(600)
    await post(world, f"{box}/hibernate")
    assert (await sandbox(world, box))["expires_at"] is None
    world.time.passes(10_000)
    await post(world, f"{box}/wake")
    running = asyncio.ensure_future(world.http.post(f"{ALL}/{box}/exec", json={"cmd": "sleep 60"}))
    world.time.passes(350)
    await reap(world)
    assert (await sandbox(world, box))["status"] == "running"
    world.time.passes(100)
    await reap(world)
    gone = await sandbox(world, box, "?deleted=1")
    assert (gone["status"], gone["cause"]) == ("deleted", "its lifetime of 1000 s is over")
    assert (await running).status_code in {404, 409} and held(world) == set()


async def test_a_lifetime_outlives_a_restart(world: World) -> None:
    box = (await world.create(lifetime_seconds=100, persistent=True))["id"]
    world.time.passes(60)
    await world.stop()
    world.time.passes(30)
    await world.start()
    await reap(world)
    assert (await sandbox(world, box))["status"] == "running"
    world.time.passes(11)
    await reap(world)
    assert (await sandbox(world, box, "?deleted=1"))["status"] == "deleted"


async def test_one_whose_lifetime_is_over_wakes_when_it_is_given_more(world: World) -> None:
    box = (await world.create(lifetime_seconds=100, on_timeout="hibernate", persistent=True))["id"]
    world.time.passes(101)
    await reap(world)
    assert (await sandbox(world, box))["status"] == "hibernated"
    refused = await world.http.post(f"{ALL}/{box}/exec", json={"cmd": "true"})
    assert refused.status_code == 409 and "raise its lifetime_seconds first" in refused.json()["error"]
    await patch(world, box, lifetime_seconds=200)
    await post(world, f"{box}/wake")
    assert (await patch(world, box, lifetime_seconds=None))["expires_at"] is None
    world.time.passes(1000)
    await reap(world)
    assert (await sandbox(world, box))["status"] == "running"


async def test_a_lifecycle_is_changed_field_by_field(world: World, box: str) -> None:
    changed = await patch(world, box, idle_timeout_seconds=7, on_timeout="hibernate", lifetime_seconds=50)
    assert (changed["idle_timeout_seconds"], changed["on_timeout"]) == (7, "hibernate")
    assert changed["expires_at"]
    kept = await patch(world, box, persistent=True)
    assert kept == changed | {"persistent": True}
    assert (await patch(world, box, idle_timeout_seconds=None))["idle_timeout_seconds"] is None
    for wrong in ({"lifetime_seconds": 0}, {"idle_timeout_seconds": -1}, {"on_timeout": "sleep"}):
        assert (await world.http.patch(f"{ALL}/{box}/lifecycle", json=wrong)).status_code == 400


async def test_what_lasts_keeps_it_awake_and_is_named(world: World) -> None:
    box = (await world.create(ttl_seconds=60, on_timeout="hibernate"))["id"]
    running = asyncio.ensure_future(world.http.post(f"{ALL}/{box}/exec", json={"cmd": "sleep 60"}))
    await asyncio.sleep(0.2)
    world.time.passes(1000)
    await reap(world)
    found = await why(world, box)
    assert found["awake"] and found["status"] == "running" and found["sleeps_in_seconds"] is None
    assert [reason["kind"] for reason in found["reasons"]] == ["exec"] and found["reasons"][0]["since"]
    running.cancel()
    await asyncio.wait([running])
    found = await why(world, box)
    assert [reason["kind"] for reason in found["reasons"]] == ["recent_use"]
    assert 55 <= found["sleeps_in_seconds"] <= 60
    await patch(world, box, persistent=True)
    kinds = [reason["kind"] for reason in (await why(world, box))["reasons"]]
    assert kinds == ["persistent", "no_timeout"]


async def test_one_that_cannot_sleep_is_left_running_and_tried_again_later(world: World) -> None:
    """The process driver keeps no running command; the reaper does not insist every second."""
    box = (await world.create(ttl_seconds=60, on_timeout="hibernate"))["id"]
    started = await post(world, f"{box}/processes", {"cmd": "sleep 600"}, 201)
    for _ in range(3):
        world.time.passes(61)
        await reap(world)
    assert (await sandbox(world, box))["status"] == "running"
    await world.http.delete(f"{ALL}/{box}/processes/{started['process_id']}")
    world.time.passes(61)

    async def is_asleep() -> bool:
        world.time.passes(61)
        await reap(world)
        return bool((await sandbox(world, box))["status"] == "hibernated")

    async with asyncio.timeout(10):
        while not await is_asleep():
            await asyncio.sleep(0.01)


async def test_one_that_is_used_in_time_does_not_sleep(world: World) -> None:
    """Whoever comes between the look of the reaper and its turn wins."""
    box = (await world.create(ttl_seconds=60, on_timeout="hibernate"))["id"]
    world.time.passes(61)
    async with world.control.plane.ground.turns.turn(box):
        reaping = asyncio.ensure_future(reap(world))
        await eventually(lambda: world.control.plane.ground.turns.is_taken(box))
        await asyncio.sleep(0)
        assert (await world.exec(box, "echo here"))["stdout"] == "here\n"
    await reaping
    assert (await sandbox(world, box))["status"] == "running"
    assert "sandbox.hibernated" not in await types(world, box)


async def test_a_server_told_to_hibernate_keeps_what_it_can(idle_world: World) -> None:
    await idle_world.start(on_exit="hibernate")
    kept = (await idle_world.create())["id"]
    lost = (await idle_world.create())["id"]
    await post(idle_world, f"{lost}/processes", {"cmd": "sleep 600"}, 201)
    await idle_world.stop()
    await idle_world.start()
    assert machines(idle_world) == {} and await used(idle_world) == 0
    assert (await sandbox(idle_world, kept))["status"] == "hibernated"
    gone = await sandbox(idle_world, lost, "?deleted=1")
    assert "the server was stopped, and it could not be hibernated" in gone["cause"]
    assert (await idle_world.exec(kept, "echo on"))["stdout"] == "on\n"


async def test_a_failed_ones_image_goes_with_it(world: World, box: str) -> None:
    await post(world, f"{box}/hibernate")
    await post(world, f"{box}/wake")
    await world.host.stop(box)
    await world.stop()
    await world.start()
    assert (await sandbox(world, box))["status"] == "failed" and len(held(world)) == 1
    world.time.passes(90_000)
    await world.control.plane.purge.purge()
    await world.control.plane.adoption.settle()
    assert held(world) == set()
