"""Snapshots, sleep and rollback over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from pandastack.errors import Conflict
from pandastack.model.host import VmState
from tests.api.conftest import World
from tests.api.test_life import OWNER, pid_of, sandbox, until

pytestmark = pytest.mark.anyio

ALL = "/v1/sandboxes"


async def post(world: World, path: str, body: object = None, status: int = 200) -> dict[str, Any]:
    answer = await world.http.post(f"{ALL}/{path}", json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json()) if answer.content else {}


async def types(world: World, sandbox_id: str) -> list[str]:
    return [event["type"] for event in await world.events(sandbox_id)]


def held(world: World) -> set[str]:
    """Snapshots that the host has."""
    return {report.id for report in world.host.vms.vault.reports()}


def machines(world: World) -> dict[str, VmState]:
    return {vm.id: vm.state for vm in world.host.vms.reports()}


async def used(world: World) -> int:
    return int((await world.http.get("/v1/quotas")).json()["used"]["sandboxes"])


async def test_a_snapshot_is_the_value_of_the_wire(world: World, box: str) -> None:
    taken = await post(world, f"{box}/snapshots", {"name": "first", "comment": "before"}, 201)
    assert taken["sandbox_id"] == box and taken["state"] == "ready" and taken["kind"] == "user"
    assert (taken["name"], taken["comment"], taken["template"]) == ("first", "before", "base")
    assert (taken["cpu"], taken["memory_mb"], taken["workspace"]) == (1, 512, "default")
    assert taken["pause_ms"] >= 0 and taken["parent_id"] is None
    assert (await world.http.get(f"/v1/snapshots/{taken['id']}")).json() == taken
    assert machines(world) == {box: VmState.RUNNING}
    assert (await world.exec(box, "echo on"))["stdout"] == "on\n"
    told = (await world.events(box))[-1]
    assert told["type"] == "sandbox.snapshotted" and told["payload"]["snapshot_id"] == taken["id"]


async def test_a_snapshot_needs_no_body_and_leaves_a_paused_one_paused(world: World, box: str) -> None:
    await post(world, f"{box}/pause", status=204)
    answer = await world.http.post(f"{ALL}/{box}/snapshots", headers={"content-type": "application/json"})
    assert answer.status_code == 201 and answer.json()["name"] == ""
    assert machines(world) == {box: VmState.PAUSED}
    assert (await sandbox(world, box))["status"] == "paused"


async def test_snapshots_are_listed_newest_first(world: World, box: str) -> None:
    other = (await world.create())["id"]
    first, second = [(await post(world, f"{box}/snapshots", status=201))["id"] for _ in range(2)]
    third = (await post(world, f"{other}/snapshots", status=201))["id"]
    for path, ids in (
        ("/v1/snapshots", [third, second, first]),
        (f"/v1/snapshots?sandbox_id={box}", [second, first]),
        (f"{ALL}/{box}/snapshots", [second, first]),
        ("/v1/snapshots?sandbox_id=nobody", []),
    ):
        found = (await world.http.get(path)).json()["snapshots"]
        assert [snapshot["id"] for snapshot in found] == ids


async def test_a_deleted_snapshot_is_gone_and_its_children_are_not(world: World, box: str) -> None:
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    child = (await world.create(from_snapshot=taken))["id"]
    assert (await world.http.delete(f"/v1/snapshots/{taken}")).status_code == 204
    assert held(world) == set()
    for answer in (
        await world.http.get(f"/v1/snapshots/{taken}"),
        await world.http.delete(f"/v1/snapshots/{taken}"),
        await world.http.post(ALL, json={"from_snapshot": taken}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "snapshot.not_found")
    assert (await world.exec(child, "echo here"))["stdout"] == "here\n"
    assert (await types(world, box))[-1] == "snapshot.deleted"


async def deleted_in_the_making(world: World, *, taken: bool = False) -> str:
    """Delete the snapshot that is being taken, or that has been by the host; its id."""
    while True:
        for each in (await world.http.get("/v1/snapshots")).json()["snapshots"]:
            if each["state"] == "creating" and taken is (each["id"] in held(world)):
                assert (await world.http.delete(f"/v1/snapshots/{each['id']}")).status_code == 204
                return str(each["id"])


@pytest.mark.parametrize("taken", [False, True])
async def test_what_is_deleted_while_it_is_taken_is_not_acknowledged(idle_world: World, taken: bool) -> None:
    await idle_world.start(failpoints="snapshot.taken=sleep:0.5")
    box = (await idle_world.create())["id"]
    taking = asyncio.create_task(idle_world.http.post(f"{ALL}/{box}/snapshots"))
    gone = await deleted_in_the_making(idle_world, taken=taken)
    refused = await taking
    assert (refused.status_code, refused.json()["code"]) == (409, "sandbox.invalid_state")
    assert "was deleted while" in refused.json()["error"] and gone in refused.json()["error"]
    assert held(idle_world) == set() and "sandbox.snapshotted" not in await types(idle_world, box)
    assert (await idle_world.exec(box, "echo on"))["stdout"] == "on\n"


@pytest.mark.parametrize("taken", [False, True])
async def test_a_step_that_is_deleted_while_it_is_taken_is_missing(idle_world: World, taken: bool) -> None:
    await idle_world.start(failpoints="snapshot.taken=sleep:0.5")
    box = (await idle_world.create(checkpoints="exec"))["id"]
    await deleted_in_the_making(idle_world, taken=taken)
    timeline = (await idle_world.http.get(f"{ALL}/{box}/timeline")).json()
    assert timeline["steps"] == [] and "was deleted while" in timeline["missing"][0]["error"]
    assert "checkpoint.taken" not in await types(idle_world, box)


async def test_snapshots_outlive_their_sandbox_and_a_restart(world: World, box: str) -> None:
    taken = await post(world, f"{box}/snapshots", status=201)
    await world.http.delete(f"{ALL}/{box}")
    await world.stop()
    await world.start()
    world.time.passes(100)
    await world.control.plane.adoption.settle()
    assert (await world.http.get("/v1/snapshots")).json()["snapshots"] == [taken]
    assert (await world.create(from_snapshot=taken["id"]))["status"] == "running"


async def test_a_sandbox_is_made_from_a_snapshot_any_number_of_times(world: World) -> None:
    source = (await world.create(template="code-interpreter", metadata={"a": "b"}))["id"]
    taken = (await post(world, f"{source}/snapshots", status=201))["id"]
    for number in range(3):
        made = await world.create(from_snapshot=taken, ttl_seconds=number, metadata={"n": str(number)})
        assert made["from_snapshot"] == taken and made["parent_id"] == source
        assert made["template"] == "code-interpreter", "what stands beside from_snapshot is ignored"
        assert made["boot_mode"] == "snapshot" and made["metadata"] == {"n": str(number)}
        assert made["ttl_seconds"] == number
    wrong = await world.http.post(ALL, json={"from_snapshot": taken, "memory_mb": 3})
    assert wrong.status_code == 400 and "memory_mb is 3" in wrong.json()["error"]


async def test_a_key_makes_one_sandbox_of_a_snapshot_also_when_that_is_gone(world: World, box: str) -> None:
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    headers, body = {"idempotency-key": "k"}, {"from_snapshot": taken}
    first = await world.http.post(ALL, json=body, headers=headers)
    await world.http.delete(f"/v1/snapshots/{taken}")
    again = await world.http.post(ALL, json=body, headers=headers)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json()["id"] == first.json()["id"]


async def test_what_a_host_cannot_snapshot_is_said_and_leaves_nothing(world: World, box: str) -> None:
    """The process driver has no memory image, so a command that runs cannot be kept."""
    await post(world, f"{box}/processes", {"cmd": "sleep 60"}, 201)
    for verb in ("snapshots", "fork", "fork-tree", "hibernate"):
        refused = await world.http.post(f"{ALL}/{box}/{verb}")
        assert (refused.status_code, refused.json()["code"]) == (409, "not_supported")
    assert (await world.http.get("/v1/snapshots")).json()["snapshots"] == []
    assert held(world) == set() and machines(world) == {box: VmState.RUNNING}
    assert await world.control.plane.archive.interrupted() == []
    assert (await world.exec(box, "echo on"))["stdout"] == "on\n"


async def test_snapshots_have_a_quota_of_their_own(idle_world: World) -> None:
    await idle_world.start(quota_snapshots=1)
    box = (await idle_world.create())["id"]
    taken = (await post(idle_world, f"{box}/snapshots", status=201))["id"]
    over = await idle_world.http.post(f"{ALL}/{box}/snapshots")
    assert (over.status_code, over.json()["code"]) == (429, "quota.snapshots_exceeded")
    assert "retry-after" not in over.headers and held(idle_world) == {taken}
    told = (await idle_world.http.get("/v1/quotas")).json()["snapshots"]
    assert told["limits"] == {"snapshots": 1, "size_bytes": None}
    assert told["used"]["snapshots"] == 1 and told["used"]["size_bytes"] > 0
    await post(idle_world, f"{box}/fork", status=201)
    await idle_world.http.delete(f"/v1/snapshots/{taken}")
    await post(idle_world, f"{box}/snapshots", status=201)


async def test_bytes_of_snapshots_have_a_quota(idle_world: World) -> None:
    await idle_world.start(quota_snapshot_bytes=1)
    box = (await idle_world.create())["id"]
    await post(idle_world, f"{box}/snapshots", status=201)
    for verb in ("snapshots", "hibernate"):
        over = await idle_world.http.post(f"{ALL}/{box}/{verb}")
        assert over.status_code == 429 and "of 1 bytes" in over.json()["error"]
    assert machines(idle_world) == {box: VmState.RUNNING}


async def test_hibernate_and_wake_can_be_said_twice(world: World, box: str) -> None:
    for _ in range(2):
        assert await post(world, f"{box}/hibernate") == {"status": "hibernated"}
        asleep = await sandbox(world, box)
        assert asleep["status"] == "hibernated" and asleep["snapshot_id"] in held(world)
        assert machines(world) == {} and await used(world) == 0
    for _ in range(2):
        assert await post(world, f"{box}/wake") == {"status": "running"}
        assert (await sandbox(world, box))["status"] == "running"
        assert machines(world) == {box: VmState.RUNNING} and await used(world) == 1
    assert held(world) == {asleep["snapshot_id"]}, "it is kept until a newer one is durable"
    assert (await types(world, box))[1:] == ["sandbox.hibernated", "sandbox.woken"]
    told = (await world.events(box))[1]["payload"]
    assert told["snapshot_id"] == asleep["snapshot_id"] and told["cause"] == "asked for"
    await post(world, f"{box}/stop")
    again = (await sandbox(world, box))["snapshot_id"]
    assert again != asleep["snapshot_id"] and held(world) == {again}
    await post(world, f"{box}/start")
    assert (await world.exec(box, "echo on"))["stdout"] == "on\n"


async def test_a_paused_one_is_hibernated_and_wakes_running(world: World, box: str) -> None:
    await post(world, f"{box}/pause", status=204)
    await post(world, f"{box}/hibernate")
    refused = await world.http.post(f"{ALL}/{box}/pause")
    assert refused.status_code == 409 and "wake it first" in refused.json()["error"]
    await post(world, f"{box}/resume", status=204)
    assert (await sandbox(world, box))["status"] == "running"


async def test_a_hundred_wakes_are_one_restore(world: World, box: str) -> None:
    await post(world, f"{box}/hibernate")
    calls = [world.http.post(f"{ALL}/{box}/wake") for _ in range(50)]
    calls += [world.http.post(f"{ALL}/{box}/exec", json={"cmd": "true"}) for _ in range(50)]
    answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers} == {200}
    assert (await types(world, box)).count("sandbox.woken") == 1
    assert machines(world) == {box: VmState.RUNNING}


async def test_all_wakers_are_told_why_it_failed_and_it_sleeps_on(world: World, box: str) -> None:
    await post(world, f"{box}/hibernate")
    image = (await sandbox(world, box))["snapshot_id"]
    (folder,) = [path for path in (world.folder / "host").rglob(image) if path.is_dir()]
    aside = folder.rename(folder.with_name("aside"))
    for _ in range(3):
        answers = await asyncio.gather(*(world.http.post(f"{ALL}/{box}/wake") for _ in range(5)))
        assert len({(answer.status_code, answer.json()["error"]) for answer in answers}) == 1
        assert answers[0].status_code >= 400
        assert (await sandbox(world, box))["status"] == "hibernated" and machines(world) == {}
    aside.rename(folder)
    await post(world, f"{box}/wake")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "exec", {"cmd": "true"}),
        ("GET", "processes", None),
        ("GET", "fs/dir?path=/", None),
        ("POST", "processes", {"cmd": "true"}),
        ("POST", "resume", None),
    ],
)
async def test_any_use_wakes_it(world: World, box: str, method: str, path: str, body: object) -> None:
    await post(world, f"{box}/hibernate")
    answer = await world.http.request(method, f"{ALL}/{box}/{path}", json=body)
    assert answer.status_code < 300
    assert (await sandbox(world, box))["status"] == "running"


async def test_looking_at_it_does_not_wake_it(world: World, box: str) -> None:
    await post(world, f"{box}/hibernate")
    for path in ("", "/lifecycle", "/events", "/tree", "/why-awake", "/snapshots"):
        assert (await world.http.get(f"{ALL}/{box}{path}")).status_code == 200
    for path in ("/metrics", "/logs"):
        assert (await world.http.get(f"{ALL}/{box}{path}")).status_code == 409
    assert (await world.http.get(f"{ALL}?state=hibernated")).json()[0]["id"] == box
    assert (await sandbox(world, box))["status"] == "hibernated" and machines(world) == {}
    why = (await world.http.get(f"{ALL}/{box}/why-awake")).json()
    assert (why["awake"], why["reasons"], why["sleeps_in_seconds"]) == (False, [], None)


async def test_a_hibernated_one_has_no_more_snapshots_taken(world: World, box: str) -> None:
    await post(world, f"{box}/hibernate")
    refused = await world.http.post(f"{ALL}/{box}/snapshots")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_supported")
    image = (await sandbox(world, box))["snapshot_id"]
    assert (await world.http.get(f"/v1/snapshots/{image}")).status_code == 404
    assert (await world.http.delete(f"/v1/snapshots/{image}")).status_code == 404
    assert (await world.http.post(ALL, json={"from_snapshot": image})).status_code == 404
    assert (await world.http.get("/v1/snapshots")).json()["snapshots"] == []


async def test_a_deleted_one_leaves_no_image(world: World, box: str) -> None:
    await post(world, f"{box}/hibernate")
    assert (await world.http.delete(f"{ALL}/{box}")).status_code == 204
    assert held(world) == set() and await used(world) == 0
    woken = (await world.create())["id"]
    await post(world, f"{woken}/hibernate")
    await post(world, f"{woken}/wake")
    await world.http.delete(f"{ALL}/{woken}")
    assert held(world) == set() and machines(world) == {}


async def test_waking_counts_against_the_quota(idle_world: World) -> None:
    await idle_world.start(quota_sandboxes=1)
    box = (await idle_world.create())["id"]
    await post(idle_world, f"{box}/hibernate")
    other = (await idle_world.create())["id"]
    over = await idle_world.http.post(f"{ALL}/{box}/wake")
    assert (over.status_code, over.json()["code"]) == (429, "quota.sandboxes_exceeded")
    assert (await sandbox(idle_world, box))["status"] == "hibernated"
    await idle_world.http.delete(f"{ALL}/{other}")
    await post(idle_world, f"{box}/wake")


async def test_what_was_under_way_is_told_that_it_was_put_to_sleep(world: World, box: str) -> None:
    with pytest.raises(Conflict, match="hibernated meanwhile"):
        async with world.control.plane.sandboxes.use(OWNER, box) as guest:
            await post(world, f"{box}/hibernate")
            await guest.stat("/")


async def test_what_was_under_way_is_told_that_it_was_rolled_back_or_slept(world: World, box: str) -> None:
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    with pytest.raises(Conflict, match="rolled back meanwhile"):
        async with world.control.plane.sandboxes.use(OWNER, box) as guest:
            await post(world, f"{box}/rollback", {"snapshot_id": taken})
            await guest.stat("/")
    with pytest.raises(Conflict, match="hibernated and woken meanwhile"):
        async with world.control.plane.sandboxes.use(OWNER, box) as guest:
            await post(world, f"{box}/hibernate")
            await post(world, f"{box}/wake")
            await guest.stat("/")


async def test_one_that_died_after_a_wake_says_how_to_have_it_back(world: World, box: str) -> None:
    await post(world, f"{box}/hibernate")
    image = (await sandbox(world, box))["snapshot_id"]
    await post(world, f"{box}/wake")
    os.kill(pid_of(world, box), signal.SIGKILL)
    dead = await until(world, box, "failed")
    assert f"roll it back to snapshot {image}" in dead["cause"] and await used(world) == 0
    assert (await world.http.post(f"{ALL}/{box}/wake")).status_code == 409
    back = await post(world, f"{box}/rollback", {"snapshot_id": image})
    assert (back["status"], back["cause"], back["ended_at"]) == ("running", None, None)
    assert await used(world) == 1
    assert (await world.exec(box, "echo back"))["stdout"] == "back\n"
    assert (await types(world, box))[-1] == "sandbox.rolled_back"


async def test_rollback_keeps_the_id_and_ends_what_ran(world: World, box: str) -> None:
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    pid = pid_of(world, box)
    started = await post(world, f"{box}/processes", {"cmd": "sleep 60"}, 201)
    back = await post(world, f"{box}/rollback", {"snapshot_id": taken})
    assert (back["id"], back["status"]) == (box, "running")
    assert pid_of(world, box) != pid and await used(world) == 1
    processes = (await world.http.get(f"{ALL}/{box}/processes")).json()
    assert started["process_id"] not in [process["id"] for process in processes]


@pytest.mark.parametrize("verb", ["pause", "hibernate"])
async def test_one_that_stands_still_can_be_rolled_back(world: World, box: str, verb: str) -> None:
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    assert (await world.http.post(f"{ALL}/{box}/{verb}")).status_code < 300
    back = await post(world, f"{box}/rollback", {"snapshot_id": taken})
    assert back["status"] == "running" and await used(world) == 1
    assert (await world.exec(box, "echo on"))["stdout"] == "on\n"


async def test_a_snapshot_of_an_ancestor_can_be_gone_back_to(world: World, box: str) -> None:
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    child = (await post(world, f"{box}/fork", status=201))["children"][0]
    grandchild = (await post(world, f"{child}/fork", status=201))["children"][0]
    assert (await post(world, f"{grandchild}/rollback", {"snapshot_id": taken}))["status"] == "running"


async def test_a_strangers_snapshot_cannot_be_gone_back_to(world: World, box: str) -> None:
    stranger = (await world.create())["id"]
    taken = (await post(world, f"{stranger}/snapshots", status=201))["id"]
    refused = await world.http.post(f"{ALL}/{box}/rollback", json={"snapshot_id": taken})
    assert refused.status_code == 409 and "neither of sandbox" in refused.json()["error"]
    missing = await world.http.post(f"{ALL}/{box}/rollback", json={"snapshot_id": "none"})
    assert (missing.status_code, missing.json()["code"]) == (404, "snapshot.not_found")
    assert (await world.http.post(f"{ALL}/{box}/rollback")).status_code == 400


async def test_every_change_of_state_is_in_the_audit_once(world: World, box: str) -> None:
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    for verb in ("fork", "hibernate", "wake", "promote"):
        await world.http.post(f"{ALL}/{box}/{verb}")
    await post(world, f"{box}/rollback", {"snapshot_id": taken})
    await world.http.delete(f"/v1/snapshots/{taken}")
    entries = (await world.http.get("/v1/audit")).json()["entries"]
    told = [(entry["method"], entry["path"].rsplit("/", 1)[-1]) for entry in entries][::-1]
    assert told[-7:] == [
        ("POST", "snapshots"),
        ("POST", "fork"),
        ("POST", "hibernate"),
        ("POST", "wake"),
        ("POST", "promote"),
        ("POST", "rollback"),
        ("DELETE", taken),
    ]
