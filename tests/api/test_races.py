"""Two changes at the same moment, and clients that leave just then: what was acknowledged stays true."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress

import pytest

from pandastack.errors import Conflict
from pandastack.host import jail, procfs
from pandastack.model.host import SnapshotSpec, VmSpec
from tests.api.conftest import World
from tests.api.test_cut_off import check_world
from tests.api.test_life import OWNER, pid_of, sandbox
from tests.api.test_state import held, machines, post, types

pytestmark = pytest.mark.anyio

ALL = "/v1/sandboxes"


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():
            await asyncio.sleep(0.002)


async def test_what_came_up_while_rows_were_settled_is_left_alone(idle_world: World) -> None:
    """The rows were read when it was being created, and its turn came when it ran."""
    await idle_world.start(failpoints="create.reserved=sleep:0.2;delete.stopped=sleep:0.5")
    plane = idle_world.control.plane
    cut_off = (await idle_world.create())["id"]
    await plane.ledger.begin_end(OWNER, cut_off, "its server died", 204)
    creating = asyncio.ensure_future(idle_world.create())
    await asyncio.sleep(0.05)
    await plane.adoption.settle()
    made = (await creating)["id"]
    assert (await sandbox(idle_world, made))["status"] == "running"
    assert machines(idle_world).keys() == {made}


async def test_of_two_winners_of_a_tree_one_stays(world: World, box: str) -> None:
    tree = await post(world, f"{box}/fork-tree", {"count": 2}, 201)
    ids = [child["id"] for child in tree["children"]]
    promoting = [world.http.post(f"{ALL}/{each}/promote", json={"cleanup_siblings": True}) for each in ids]
    answers = await asyncio.gather(*promoting)
    assert sorted(answer.status_code for answer in answers) == [200, 404]
    assert len(machines(world).keys() & set(ids)) == 1


async def test_metadata_that_is_set_at_once_is_all_kept(world: World, box: str) -> None:
    keys = {f"k{number}": str(number) for number in range(8)}
    setting = [world.http.post(f"{ALL}/{box}/metadata", json={k: v}) for k, v in keys.items()]
    answers = await asyncio.gather(*setting)
    assert {answer.status_code for answer in answers} == {200}, [a.text for a in answers]
    assert (await sandbox(world, box))["metadata"] == keys


async def test_a_wake_whose_client_leaves_while_it_is_written_is_watched(idle_world: World) -> None:
    await idle_world.start(failpoints="wake.started=sleep:0.1")
    box = (await idle_world.create(ttl_seconds=100))["id"]
    await post(idle_world, f"{box}/hibernate")
    waking = asyncio.ensure_future(idle_world.http.post(f"{ALL}/{box}/wake"))
    await until(lambda: box in machines(idle_world))
    database = idle_world.control.plane.ground.database
    writing = asyncio.ensure_future(database.write(lambda _: time.sleep(0.6)))  # the wake's waits behind it
    await asyncio.sleep(0.4)
    waking.cancel()
    await asyncio.wait([waking, writing])
    assert (await sandbox(idle_world, box))["status"] == "running"
    assert idle_world.control.plane.activity.sleeps_in(box) is not None
    await check_world(idle_world)


@pytest.mark.parametrize("point", ["snapshot.drafted", "snapshot.taken"])
async def test_a_snapshot_that_is_deleted_while_it_is_taken_is_not_told_of(
    idle_world: World, point: str
) -> None:
    await idle_world.start(failpoints=f"{point}=sleep:0.2")
    box = (await idle_world.create())["id"]
    taking = asyncio.ensure_future(idle_world.http.post(f"{ALL}/{box}/snapshots"))
    await asyncio.sleep(0.1)
    (draft,) = (await idle_world.http.get("/v1/snapshots")).json()["snapshots"]
    assert (await idle_world.http.delete(f"/v1/snapshots/{draft['id']}")).status_code == 204
    answer = await taking
    assert answer.status_code == 409, answer.text
    assert held(idle_world) == set() and "sandbox.snapshotted" not in await types(idle_world, box)
    await check_world(idle_world)


async def test_a_snapshot_is_deleted_by_many_at_once(world: World, box: str) -> None:
    for _ in range(10):
        taken = (await post(world, f"{box}/snapshots", status=201))["id"]
        answers = await asyncio.gather(*(world.http.delete(f"/v1/snapshots/{taken}") for _ in range(4)))
        assert {answer.status_code for answer in answers} <= {204, 404}, [a.text for a in answers]
        assert held(world) == set()


async def test_the_key_of_a_create_that_was_undone_is_free_also_after_a_crash(idle_world: World) -> None:
    await idle_world.start(failpoints="create.started=error;delete.stopped=error")
    headers = {"idempotency-key": "once"}
    failed = await idle_world.http.post(ALL, json={"template": "base"}, headers=headers)
    assert failed.status_code == 500
    await idle_world.stop()
    await idle_world.start()
    made = await idle_world.http.post(ALL, json={"template": "base"}, headers=headers)
    assert (made.status_code, made.json()["status"]) == (201, "running")


async def test_a_transaction_that_nobody_waits_for_fails_in_silence(world: World) -> None:
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def refused(_: object) -> None:
        time.sleep(0.05)  # on the database's thread: it is cancelled meanwhile
        raise ValueError("no")

    writing = asyncio.ensure_future(world.control.plane.ground.database.write(refused))
    await asyncio.sleep(0.01)
    writing.cancel()
    await asyncio.wait([writing])
    assert writing.cancelled()
    del writing
    gc.collect()
    assert told == []


async def test_a_machine_is_among_the_living_or_the_dead(world: World) -> None:
    for _ in range(5):
        process = (await world.host.start(VmSpec("vm", "base"))).pid
        os.kill(process, signal.SIGKILL)
        async with asyncio.timeout(5):
            while (states := machines(world)) and states["vm"] == "running":
                await asyncio.sleep(0)
        await world.host.stop("vm")
        await asyncio.sleep(0.02)
        assert machines(world) == {}
        assert states == {"vm": "dead"}


async def test_a_snapshot_that_is_dropped_while_it_is_taken_is_refused(world: World) -> None:
    await world.host.start(VmSpec("vm", "base"))
    for turns in range(1, 30, 3):
        taking = asyncio.ensure_future(world.host.snapshot(SnapshotSpec("s", "vm")))
        for _ in range(turns):
            await asyncio.sleep(0)
        await world.host.drop_snapshot("s")
        with suppress(Conflict):
            await taking
        await world.host.drop_snapshot("s")
    assert held(world) == set()


async def test_a_snapshot_is_dropped_twice_at_once(world: World) -> None:
    await world.host.start(VmSpec("vm", "base"))
    for number in range(60):
        name = f"s{number}"
        await world.host.snapshot(SnapshotSpec(name, "vm"))
        await asyncio.gather(*(world.host.drop_snapshot(name) for _ in range(5)))


@pytest.mark.parametrize("old_lives", [True, False])
async def test_a_rollback_cut_off_while_its_machines_change_places(
    world: World, box: str, old_lives: bool
) -> None:
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    old = pid_of(world, box)
    home = world.folder / "host" / "v" / f"{box}.next"
    new = await world.host.vms._birth.made(VmSpec(box, "base", snapshot=taken), home)
    assert new.link is not None
    await new.link.close()
    new.machine.forget()
    await world.stop()
    if not old_lives:
        process = jail.adopt(old, procfs.start_ticks(old) or 0)
        assert process is not None
        await process.end(0)
        process.close()
    await world.start()
    assert pid_of(world, box) == (old if old_lives else new.machine.pid)
    await check_world(world)
    assert (await world.exec(box, "echo on"))["stdout"] == "on\n"


async def test_what_a_diff_looks_at_is_in_no_lineage(world: World, box: str) -> None:
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    points = {"a": {"snapshot_id": taken}, "b": {"sandbox_id": box}, "path": str(world.folder / "control")}
    answer = await world.http.post("/v1/diff", json=points)
    assert answer.status_code == 200, answer.text
    tree = (await world.http.get(f"{ALL}/{box}/tree")).json()
    assert len(tree["nodes"]) == 1, tree


async def test_what_could_not_be_reaped_is_tried_again(world: World) -> None:
    box = (await world.create(ttl_seconds=10))["id"]
    reaper = world.control.plane.reaper
    with closing(sqlite3.connect(world.folder / "control" / "control.db")) as other:
        other.execute("ALTER TABLE audit RENAME TO aside")
        world.time.passes(11)
        await reaper.reap()
        assert (await sandbox(world, box))["status"] == "running"
        other.execute("ALTER TABLE aside RENAME TO audit")
    world.time.passes(61)
    await reaper.reap()
    assert (await sandbox(world, box, "?deleted=1"))["status"] == "deleted"


async def test_what_is_used_while_others_are_reaped_stays(idle_world: World) -> None:
    await idle_world.start(failpoints="hibernate.taken=sleep:0.2")
    first = (await idle_world.create(ttl_seconds=10, on_timeout="hibernate"))["id"]
    idle_world.time.passes(1)
    second = (await idle_world.create(ttl_seconds=10))["id"]
    idle_world.time.passes(11)
    reaping = asyncio.ensure_future(idle_world.control.plane.reaper.reap())
    await asyncio.sleep(0.1)
    assert (await idle_world.exec(second, "echo on"))["stdout"] == "on\n"
    await reaping
    assert (await sandbox(idle_world, first))["status"] == "hibernated"
    assert (await idle_world.exec(second, "echo on"))["stdout"] == "on\n"


async def test_a_step_is_of_the_machine_that_its_command_ran_on(world: World) -> None:
    box = (await world.create(checkpoints="exec"))["id"]
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    async with world.control.plane.ground.turns.turn(box):
        rolling = asyncio.ensure_future(world.http.post(f"{ALL}/{box}/rollback", json={"snapshot_id": taken}))
        await asyncio.sleep(0.05)
        await world.exec(box, "echo lost")
    assert (await rolling).status_code == 200
    told = (await world.http.get(f"{ALL}/{box}/timeline")).json()
    assert [step["command"] for step in told["steps"]] == [""]
    assert [missed["command"] for missed in told["missing"]] == ["echo lost"]
    await check_world(world)


async def test_of_what_was_deleted_while_the_other_woke_no_diff_is_made(idle_world: World) -> None:
    await idle_world.start(failpoints="wake.started=sleep:0.2")
    asleep, other = [(await idle_world.create())["id"] for _ in range(2)]
    await post(idle_world, f"{asleep}/hibernate")
    points = {"a": {"sandbox_id": asleep}, "b": {"sandbox_id": other}, "path": str(idle_world.folder)}
    comparing = asyncio.ensure_future(idle_world.http.post("/v1/diff", json=points))
    await asyncio.sleep(0.1)
    await idle_world.http.delete(f"{ALL}/{other}")
    answer = await comparing
    assert answer.status_code == 404, answer.text
