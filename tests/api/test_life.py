"""What happens with time, at a restart, and when things die."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import httpx2
import pytest

from pandastack.errors import Conflict
from pandastack.host import procfs
from pandastack.model.account import Caller, Scope
from pandastack.model.sandbox import SandboxState
from pandastack.services.ledger import Story
from tests.api.conftest import World

pytestmark = pytest.mark.anyio

OWNER = Caller("default", "test", Scope.ADMIN)


async def sandbox(world: World, sandbox_id: str, query: str = "") -> dict[str, Any]:
    return dict((await world.http.get(f"/v1/sandboxes/{sandbox_id}{query}")).json())


async def until(world: World, sandbox_id: str, status: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while (found := await sandbox(world, sandbox_id))["status"] != status:
            await asyncio.sleep(0.01)
    return found


def pid_of(world: World, sandbox_id: str) -> int:
    return next(vm.pid for vm in world.host.vms.reports() if vm.id == sandbox_id)


async def test_an_idle_sandbox_is_deleted_with_its_cause(world: World) -> None:
    box = (await world.create(ttl_seconds=60))["id"]
    kept = (await world.create(ttl_seconds=60, persistent=True))["id"]
    world.time.passes(59)
    await world.control.plane.reaper.reap()
    assert (await sandbox(world, box))["status"] == "running"
    world.time.passes(2)
    await world.control.plane.reaper.reap()
    gone = await sandbox(world, box, "?deleted=1")
    assert gone["status"] == "deleted" and gone["ended_at"]
    assert "longer than its ttl of 60 s" in gone["cause"]
    assert "longer than its ttl" in (await sandbox(world, box))["error"]
    assert (await world.events(box))[-1]["payload"]["cause"] == gone["cause"]
    assert [vm.id for vm in world.host.vms.reports()] == [kept]


@pytest.mark.parametrize(("then", "left"), [("kill", "deleted"), ("hibernate", "hibernated")])
async def test_idling_ends_in_every_workspace(
    world: World, foreigner: httpx2.AsyncClient, then: str, left: str
) -> None:
    async with foreigner as http:
        box = (await http.post("/v1/sandboxes", json={"ttl_seconds": 60, "on_timeout": then})).json()["id"]
        world.time.passes(61)
        await world.control.plane.reaper.reap()
        assert (await http.get(f"/v1/sandboxes/{box}?deleted=1")).json()["status"] == left


async def test_a_paused_idle_sandbox_is_deleted_too(world: World, box: str) -> None:
    await world.http.post(f"/v1/sandboxes/{box}/pause")
    world.time.passes(301)
    await world.control.plane.reaper.reap()
    assert (await sandbox(world, box, "?deleted=1"))["status"] == "deleted"


async def test_a_changed_ttl_counts_from_the_change(world: World, box: str) -> None:
    world.time.passes(299)
    await world.http.patch(f"/v1/sandboxes/{box}/lifecycle", json={"ttl_seconds": 10})
    world.time.passes(9)
    await world.control.plane.reaper.reap()
    assert (await sandbox(world, box))["status"] == "running"


async def test_a_machine_that_dies_leaves_its_cause(world: World, box: str) -> None:
    (world.folder / "host" / "v" / box / "console.log").write_bytes(b"last words\n")
    os.kill(pid_of(world, box), signal.SIGKILL)
    dead = await until(world, box, "failed")
    assert "SIGKILL" in dead["cause"] or "killed" in dead["cause"].lower()
    died = (await world.events(box))[-1]
    assert (died["type"], died["payload"]["cause"]) == ("vm.died", dead["cause"])
    assert "last words" in died["payload"]["console"]
    assert "last words" in (await world.http.get(f"/v1/sandboxes/{box}/logs")).text
    refused = await world.http.post(f"/v1/sandboxes/{box}/exec", json={"cmd": "true"})
    assert refused.status_code == 409 and dead["cause"] in refused.json()["error"]
    assert (await world.http.get("/v1/quotas")).json()["used"]["sandboxes"] == 0
    assert (await world.http.delete(f"/v1/sandboxes/{box}")).status_code == 204
    assert (await sandbox(world, box, "?deleted=1"))["cause"] == dead["cause"]
    assert (await world.http.get("/v1/quotas")).json()["used"]["sandboxes"] == 0


async def test_a_command_whose_machine_dies_is_told_so(world: World, box: str) -> None:
    running = asyncio.ensure_future(world.http.post(f"/v1/sandboxes/{box}/exec", json={"cmd": "sleep 100"}))
    await asyncio.sleep(0.2)
    os.kill(pid_of(world, box), signal.SIGKILL)
    answer = await running
    assert answer.status_code == 500
    assert "The sandbox ended meanwhile" in answer.json()["error"]
    assert "timeout" not in answer.json()["error"]


async def test_a_command_whose_sandbox_is_deleted_is_told_by_whom(world: World, box: str) -> None:
    running = asyncio.ensure_future(world.http.post(f"/v1/sandboxes/{box}/exec", json={"cmd": "sleep 100"}))
    await asyncio.sleep(0.2)
    assert (await world.http.delete(f"/v1/sandboxes/{box}")).status_code == 204
    answer = await running
    assert answer.status_code == 409
    assert "was ended meanwhile: deleted by its owner" in answer.json()["error"]


async def test_running_sandboxes_are_adopted_by_the_next_start(world: World, box: str) -> None:
    paused = (await world.create(metadata={"a": "b"}))["id"]
    await world.http.post(f"/v1/sandboxes/{paused}/pause")
    before = await sandbox(world, paused)
    pids = pid_of(world, box), pid_of(world, paused)
    await world.stop()
    await world.start()
    assert (await sandbox(world, box))["status"] == "running"
    assert await sandbox(world, paused) == before
    assert (pid_of(world, box), pid_of(world, paused)) == pids
    assert (await world.events(box))[-1]["type"] == "sandbox.adopted"
    assert (await world.exec(box, "echo here"))["stdout"] == "here\n"
    await world.http.post(f"/v1/sandboxes/{paused}/resume")
    assert (await world.exec(paused, "echo here too"))["stdout"] == "here too\n"


async def test_a_restart_counts_as_activity(world: World, box: str) -> None:
    world.time.passes(299)
    await world.stop()
    await world.start()
    world.time.passes(299)
    await world.control.plane.reaper.reap()
    assert (await sandbox(world, box))["status"] == "running"
    world.time.passes(2)
    await world.control.plane.reaper.reap()
    assert "error" in await sandbox(world, box)


async def test_a_machine_that_died_meanwhile_is_recorded_at_the_start(world: World, box: str) -> None:
    pid = pid_of(world, box)
    await world.stop()
    os.kill(pid, signal.SIGKILL)
    await world.start()
    dead = await sandbox(world, box)
    assert dead["status"] == "failed" and dead["cause"]
    assert (await world.events(box))[-1]["type"] == "vm.died"
    assert world.host.vms.reports() == []


async def test_a_machine_that_listens_no_more_does_not_stop_the_start(world: World, box: str) -> None:
    pid = pid_of(world, box)
    await world.stop()
    (world.folder / "host" / "v" / box / "agent").unlink()
    await world.start()
    dead = await sandbox(world, box)
    assert dead["status"] == "failed" and "did not answer" in dead["cause"]
    assert procfs.start_ticks(pid) is None


async def test_machines_that_nobody_knows_are_ended_at_the_start(world: World, box: str) -> None:
    await world.stop()
    for file in (world.folder / "control").glob("control.db*"):
        file.unlink()
    await world.start()
    assert world.host.vms.reports() == []
    assert (await world.http.get("/v1/sandboxes")).json() == []


@pytest.mark.parametrize(("machine", "ends_as"), [(True, "running"), (False, "deleted")])
async def test_a_create_that_was_cut_off_is_settled_at_the_start(
    world: World, box: str, machine: bool, ends_as: str
) -> None:
    """The row says CREATING, as after a crash of the server between its two transactions."""
    if not machine:
        await world.host.stop(box)
    await rewrite_state(world, box, SandboxState.CREATING)
    await world.stop()
    await world.start()
    assert (await sandbox(world, box, "?deleted=1"))["status"] == ends_as
    assert len(world.host.vms.reports()) == int(machine)
    used = (await world.http.get("/v1/quotas")).json()["used"]["sandboxes"]
    assert used == int(machine)


async def test_a_delete_that_was_cut_off_is_finished_at_the_start(world: World, box: str) -> None:
    await world.control.plane.ledger.begin_end(OWNER, box, "deleted by its owner", 204)
    await world.stop()
    await world.start()
    assert world.host.vms.reports() == []
    gone = await sandbox(world, box, "?deleted=1")
    assert (gone["status"], gone["cause"]) == ("deleted", "deleted by its owner")


async def test_a_create_whose_answer_is_lost_is_settled(idle_world: World) -> None:
    """A host that does not answer in time: the caller hears that nobody knows; then somebody finds out."""
    await idle_world.start(create_timeout_seconds=0.0001)
    headers = {"idempotency-key": "k"}
    lost = await idle_world.http.post("/v1/sandboxes", headers=headers)
    assert (lost.status_code, lost.json()["code"]) == (504, "outcome.unknown")
    box = lost.json()["details"]["sandbox_id"]
    assert (await sandbox(idle_world, box))["status"] == "creating"
    again = await idle_world.http.post("/v1/sandboxes", headers=headers)
    assert (again.status_code, again.json()["code"]) == (409, "idempotency.in_flight")
    assert again.headers["retry-after"]
    await idle_world.control.plane.adoption.settle()
    gone = await sandbox(idle_world, box, "?deleted=1")
    assert gone["status"] == "deleted" and "interrupted" in gone["cause"]
    assert (await idle_world.http.get("/v1/quotas")).json()["used"]["sandboxes"] == 0


async def test_what_hangs_is_settled_while_the_server_runs(world: World, box: str) -> None:
    await world.control.plane.ledger.begin_end(OWNER, box, "deleted by its owner", 204)
    await world.control.plane.adoption.settle()
    assert (await sandbox(world, box, "?deleted=1"))["status"] == "deleted"
    assert world.host.vms.reports() == []


async def test_what_is_over_is_forgotten_after_a_day(world: World, box: str) -> None:
    await world.http.delete(f"/v1/sandboxes/{box}")
    world.time.passes(86_300)
    await world.control.plane.purge.purge()
    assert (await sandbox(world, box, "?deleted=1"))["status"] == "deleted"
    world.time.passes(200)
    await world.control.plane.purge.purge()
    answer = await world.http.get(f"/v1/sandboxes/{box}?deleted=1")
    assert answer.status_code == 404
    assert (await world.http.get(f"/v1/sandboxes/{box}/events")).status_code == 404


async def test_a_server_told_to_destroy_leaves_no_machine(idle_world: World) -> None:
    await idle_world.start(on_exit="destroy")
    boxes = [(await idle_world.create())["id"] for _ in range(3)]
    await idle_world.stop()
    await idle_world.start()
    assert idle_world.host.vms.reports() == []
    for box in boxes:
        assert (await sandbox(idle_world, box, "?deleted=1"))["cause"] == "the server was stopped"


async def test_two_servers_do_not_share_a_state_directory(world: World, idle_world: World) -> None:
    other = World(world.folder, world.hosts)
    with pytest.raises(Conflict, match="Another server"):
        await other.start()
    await other.stop()


async def test_deleting_and_creating_at_the_same_time_leaves_nothing(world: World) -> None:
    """A delete that comes while a create is under way wins, and the create is told."""
    creating = [asyncio.ensure_future(world.http.post("/v1/sandboxes")) for _ in range(8)]
    deletes = 0
    while not all(task.done() for task in creating):
        for found in (await world.http.get("/v1/sandboxes?state=creating")).json():
            await world.http.delete(f"/v1/sandboxes/{found['id']}")
            deletes += 1
        await asyncio.sleep(0.001)
    statuses = [(await task).status_code for task in creating]
    assert set(statuses) <= {201, 409} and deletes
    left = len((await world.http.get("/v1/sandboxes")).json())
    assert left == len(world.host.vms.reports()) <= statuses.count(201)
    assert (await world.http.get("/v1/quotas")).json()["used"]["sandboxes"] == left


async def rewrite_state(world: World, sandbox_id: str, state: SandboxState) -> None:
    """Put the row into a state that no verb puts it into, as a crash would leave it."""
    await world.control.plane.ledger.change(sandbox_id, Story(), state=state)


async def test_the_flush_remembers_when_it_was_last_used(world: World, box: str) -> None:
    await world.control.plane.flush()
    world.time.passes(50)
    await world.exec(box, "true")
    await world.control.plane.flush()
    assert (await world.http.get(f"/v1/sandboxes/{box}/lifecycle")).json()["idle_seconds"] < 5
