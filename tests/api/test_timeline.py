"""Checkpoints behind each command, and what can be done with the timeline that they make."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.api.conftest import World
from tests.api.test_life import sandbox
from tests.api.test_state import ALL, held, post, types

pytestmark = pytest.mark.anyio


async def timeline(world: World, sandbox_id: str) -> list[dict[str, Any]]:
    answer = await world.http.get(f"{ALL}/{sandbox_id}/timeline")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["steps"])


async def numbers(world: World, sandbox_id: str) -> list[int]:
    return [step["step"] for step in await timeline(world, sandbox_id)]


@pytest.fixture
async def recorded(world: World) -> str:
    """A sandbox whose commands make steps."""
    return str((await world.create(checkpoints="exec"))["id"])


async def test_each_command_makes_a_step(world: World, recorded: str) -> None:
    await world.exec(recorded, "echo one")
    await world.exec(recorded, ["sh", "-c", "exit 3"])
    await world.http.post(f"{ALL}/{recorded}/exec/stream", json={"cmd": "x" * 300})
    steps = await timeline(world, recorded)
    assert [step["step"] for step in steps] == [0, 1, 2, 3]
    assert [step["command"] for step in steps] == ["", "echo one", "sh -c 'exit 3'", "x" * 200]
    assert [step["exit_code"] for step in steps] == [None, 0, 3, 127]
    assert steps[0]["duration_ms"] is None and steps[1]["duration_ms"] >= 0
    assert {step["snapshot_id"] for step in steps} == held(world)
    assert [step["at"] for step in steps] == sorted(step["at"] for step in steps)
    listed = (await world.http.get(f"{ALL}/{recorded}/snapshots")).json()["snapshots"]
    assert [each["step"] for each in listed] == [3, 2, 1, 0] and listed[0]["kind"] == "checkpoint"
    told = [event for event in await world.events(recorded) if event["type"] == "checkpoint.taken"]
    assert [event["payload"]["step"] for event in told] == [0, 1, 2, 3]


async def test_without_being_asked_nothing_is_kept(world: World, box: str) -> None:
    await world.exec(box, "true")
    assert await timeline(world, box) == [] and held(world) == set()
    assert (await sandbox(world, box))["checkpoints"] == "off"
    missing = await world.http.post(f"{ALL}/{box}/at", json={"step": 0})
    assert missing.status_code == 404 and "has no steps" in missing.json()["error"]


async def test_a_new_sandbox_goes_on_from_a_step(world: World, recorded: str) -> None:
    for number in (1, 2, 3):
        await world.exec(recorded, f"echo {number}")
    kept = {step["step"]: step["snapshot_id"] for step in await timeline(world, recorded)}
    for step, meant in ((1, 1), (2, 2), (-1, 3), (-4, 0)):
        made = await post(world, f"{recorded}/at", {"step": step, "metadata": {"a": "b"}}, 201)
        assert (made["from_snapshot"], made["parent_id"]) == (kept[meant], recorded)
        assert made["metadata"] == {"a": "b"} and made["checkpoints"] == "off"
    named = await post(world, f"{recorded}/at", {"snapshot_id": kept[2], "ttl_seconds": 7}, 201)
    assert (named["from_snapshot"], named["ttl_seconds"]) == (kept[2], 7)


async def test_whoever_comes_next_waits_for_the_step(world: World, recorded: str) -> None:
    """This host keeps nothing while a command runs, so each step was taken before the next command began."""
    for _ in range(3):
        await world.exec(recorded, "sleep 0.05")
    assert await numbers(world, recorded) == [0, 1, 2, 3]
    assert "checkpoint.failed" not in await types(world, recorded)


async def test_commands_that_end_at_once_have_a_step_or_an_event_each(world: World, recorded: str) -> None:
    await asyncio.gather(*(world.exec(recorded, f"sleep 0.0{number}") for number in range(4)))
    steps = await numbers(world, recorded)
    failed = (await types(world, recorded)).count("checkpoint.failed")
    assert len(steps) + failed == 5 and steps == [*range(len(steps))]


async def test_a_step_that_there_is_not_is_named_with_those_there_are(world: World, recorded: str) -> None:
    await world.exec(recorded, "true")
    for verb in ("at", "rollback"):
        for step in (7, -3):
            answer = await world.http.post(f"{ALL}/{recorded}/{verb}", json={"step": step})
            assert (answer.status_code, answer.json()["code"]) == (404, "snapshot.not_found")
            assert f"no step {step}; it has 0, 1." in answer.json()["error"]
        for body in ({}, {"step": 0, "snapshot_id": "x"}):
            both = await world.http.post(f"{ALL}/{recorded}/{verb}", json=body)
            assert both.status_code == 400 and "step or snapshot_id" in both.json()["error"]
    assert (await world.http.get(f"{ALL}/nobody/timeline")).status_code == 404


async def test_rollback_to_a_step_and_the_timeline_goes_on(world: World, recorded: str) -> None:
    await world.exec(recorded, "echo 1")
    await world.exec(recorded, "echo 2")
    back = await post(world, f"{recorded}/rollback", {"step": 1})
    assert back["id"] == recorded and back["checkpoints"] == "exec"
    await world.exec(recorded, "true")
    assert await numbers(world, recorded) == [0, 1, 2, 3]


async def test_old_steps_go_and_named_ones_stay(world: World) -> None:
    box = (await world.create(checkpoints="exec", keep_checkpoints=2))["id"]
    first = (await timeline(world, box))[0]["snapshot_id"]
    named = await world.http.patch(f"/v1/snapshots/{first}", json={"name": "before"})
    assert (named.status_code, named.json()["name"]) == (200, "before")
    for _ in range(4):
        await world.exec(box, "true")
    steps = await timeline(world, box)
    assert [(step["step"], step["name"]) for step in steps] == [(0, "before"), (3, ""), (4, "")]
    assert {step["snapshot_id"] for step in steps} == held(world)
    await world.http.delete(f"{ALL}/{box}")
    assert held(world) == {first}, "what nobody named goes with its sandbox"
    assert (await world.create(from_snapshot=first))["status"] == "running"
    assert (await world.http.patch("/v1/snapshots/none", json={"name": "x"})).status_code == 404


async def test_a_number_is_never_given_twice(world: World, recorded: str) -> None:
    await world.exec(recorded, "echo 1")
    for step in reversed(await timeline(world, recorded)):
        await world.http.delete(f"/v1/snapshots/{step['snapshot_id']}")
    await world.exec(recorded, "echo 2")
    assert await numbers(world, recorded) == [2]


async def test_it_is_switched_on_and_off(world: World, box: str) -> None:
    def change(**body: object) -> Any:  # noqa: ANN401  # a coroutine of the client
        return world.http.patch(f"{ALL}/{box}/lifecycle", json=body)

    await world.exec(box, "true")
    on = (await change(checkpoints="exec", keep_checkpoints=5)).json()
    assert (on["checkpoints"], on["keep_checkpoints"]) == ("exec", 5)
    await change(checkpoints="exec")
    await world.exec(box, "true")
    await change(checkpoints="off")
    await world.exec(box, "true")
    assert await numbers(world, box) == [0, 1]
    assert (await change(keep_checkpoints=201)).status_code == 400
    assert (await world.http.post(ALL, json={"checkpoints": "always"})).status_code == 400


async def test_a_checkpoint_that_fails_is_an_event_and_no_failure(world: World, recorded: str) -> None:
    """The process driver has no memory image, so nothing is kept while a process runs."""
    started = await post(world, f"{recorded}/processes", {"cmd": "sleep 60"}, 201)
    assert (await world.exec(recorded, "echo on"))["stdout"] == "on\n"
    assert await numbers(world, recorded) == [0]
    event = (await world.events(recorded))[-1]
    assert event["type"] == "checkpoint.failed" and event["payload"]["command"] == "echo on"
    assert event["payload"]["error"]
    (missing,) = (await world.http.get(f"{ALL}/{recorded}/timeline")).json()["missing"]
    assert missing == {"at": event["time"], **event["payload"]}
    await world.http.delete(f"{ALL}/{recorded}/processes/{started['process_id']}")
    await world.control.plane.archive.settle(await world.host.report())
    assert len(held(world)) == 1


async def test_a_timeline_outlives_a_restart_and_sleep(world: World, recorded: str) -> None:
    await world.exec(recorded, "echo 1")
    await numbers(world, recorded)
    await world.stop()
    await world.start()
    await world.exec(recorded, "echo 2")
    await post(world, f"{recorded}/hibernate")
    assert await numbers(world, recorded) == [0, 1, 2]
    made = await post(world, f"{recorded}/at", {"step": 1}, 201)
    assert (await world.exec(made["id"], "echo on"))["stdout"] == "on\n"
    assert (await sandbox(world, recorded))["status"] == "hibernated", "looking at it does not wake it"
    await world.exec(recorded, "true")
    assert await numbers(world, recorded) == [0, 1, 2, 3]
