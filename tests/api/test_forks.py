"""Forks, fork trees, promotion and lineage over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from pandastack.model.host import VmState
from tests.api.conftest import World
from tests.api.test_life import pid_of, sandbox, until
from tests.api.test_state import held, machines, post, types, used

pytestmark = pytest.mark.anyio

ALL = "/v1/sandboxes"


async def tree(world: World, sandbox_id: str) -> dict[str, Any]:
    return dict((await world.http.get(f"{ALL}/{sandbox_id}/tree")).json())


async def test_a_fork_is_the_value_of_the_wire(world: World) -> None:
    box = (await world.create(metadata={"a": "parent's"}, ttl_seconds=9, persistent=True))["id"]
    made = await post(world, f"{box}/fork", {"metadata": {"b": "mine"}, "mode": "warm"}, 201)
    (child,) = made["children"]
    assert (made["parent_id"], made["sandbox"]["id"], made["sandboxes"]) == (box, child, [made["sandbox"]])
    assert made["at"] and "errors" not in made
    got = await sandbox(world, child)
    assert got == made["sandbox"]
    assert got["metadata"] == {"b": "mine", "forked_from": box, "fork_parent_id": box}
    assert (got["ttl_seconds"], got["persistent"], got["tree_id"]) == (300, False, None)
    assert (got["parent_id"], got["from_snapshot"]) == (box, made["snapshot_id"])
    assert got["boot_mode"] == "snapshot" and got["template"] == "base"
    assert (await world.exec(child, "echo here"))["stdout"] == "here\n"
    assert machines(world) == {box: VmState.RUNNING, child: VmState.RUNNING}
    assert held(world) == set(), "what it was forked from is not kept"
    assert (await types(world, child)) == ["sandbox.forked", "sandbox.running"]
    told = (await world.events(box))[-1]
    assert told["type"] == "fork.completed" and told["payload"]["children"] == [child]


async def test_children_are_as_many_as_asked_for(world: World, box: str) -> None:
    for body, count in ((None, 1), ({"count": 3}, 3)):
        made = await post(world, f"{box}/fork?warm=1", body, 201)
        assert len(set(made["children"])) == count
    assert await used(world) == 5


@pytest.mark.parametrize("count", [0, 17, "2"])
async def test_a_count_that_cannot_be_is_refused(world: World, box: str, count: object) -> None:
    for verb in ("fork", "fork-tree"):
        refused = await world.http.post(f"{ALL}/{box}/{verb}", json={"count": count})
        assert refused.status_code == 400 and "count" in refused.json()["error"]
    assert machines(world) == {box: VmState.RUNNING}


async def test_a_paused_parent_stays_paused(world: World, box: str) -> None:
    await post(world, f"{box}/pause", status=204)
    child = (await post(world, f"{box}/fork", status=201))["children"][0]
    assert machines(world) == {box: VmState.PAUSED, child: VmState.RUNNING}
    assert (await sandbox(world, box))["status"] == "paused"


async def test_a_sleeping_parent_sleeps_on(world: World, box: str) -> None:
    await post(world, f"{box}/hibernate")
    image = (await sandbox(world, box))["snapshot_id"]
    made = await post(world, f"{box}/fork", {"count": 2}, 201)
    assert made["snapshot_id"] == image and held(world) == {image}
    assert machines(world) == dict.fromkeys(made["children"], VmState.RUNNING)
    await post(world, f"{box}/wake")
    assert (await world.exec(box, "echo on"))["stdout"] == "on\n"


async def test_a_fork_of_a_fork_is_in_the_same_lineage(world: World, box: str) -> None:
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    child = (await post(world, f"{box}/fork", status=201))["children"][0]
    grandchild = (await post(world, f"{child}/fork-tree", {"count": 1}, 201))["children"][0]
    other = await world.create(from_snapshot=taken)
    await world.create()
    await world.http.delete(f"{ALL}/{child}")
    found = await tree(world, grandchild["id"])
    assert found["root"] == box and found == await tree(world, box)
    nodes = {node["id"]: node for node in found["nodes"]}
    assert nodes.keys() == {box, child, grandchild["id"], other["id"]}
    assert found["nodes"][0]["id"] == box
    assert nodes[child]["status"] == "deleted" and nodes[box]["parent_id"] is None
    assert nodes[grandchild["id"]]["parent_id"] == child
    assert nodes[grandchild["id"]]["tree_id"] == grandchild["tree_id"]
    assert nodes[other["id"]]["via_snapshot"] == taken


async def test_a_lineage_stays_connected_when_its_root_is_forgotten(world: World, box: str) -> None:
    children = (await post(world, f"{box}/fork", {"count": 2, "persistent": True}, 201))["children"]
    await world.http.delete(f"{ALL}/{box}")
    world.time.passes(90_000)
    await world.control.plane.purge.purge()
    found = await tree(world, children[0])
    assert found["root"] == box and {node["id"] for node in found["nodes"]} == set(children)


async def test_a_fork_tree_is_ordered_and_knows_itself(world: World, box: str) -> None:
    asked = {"count": 3, "metadata": {"explore": "1", "fork_index": "mine"}, "ttl_seconds": 77}
    made = await post(world, f"{box}/fork-tree", asked, 201)
    assert made["parent_id"] == box and made["tree_id"] and made["at"]
    for index, child in enumerate(made["children"]):
        assert child["metadata"] == {
            "explore": "1",
            "fork_tree_id": made["tree_id"],
            "fork_tree_role": "child",
            "fork_parent_id": box,
            "fork_index": str(index),
        }
        assert (child["tree_id"], child["parent_id"], child["ttl_seconds"]) == (made["tree_id"], box, 77)
        assert child == await sandbox(world, child["id"])
    told = (await world.events(box))[-1]
    assert told["type"] == "fork_tree.completed"
    assert told["payload"]["requested"] == told["payload"]["succeeded"] == 3


async def test_children_that_cannot_be_made_are_told_one_by_one(idle_world: World) -> None:
    await idle_world.start(quota_sandboxes=3)
    box = (await idle_world.create())["id"]
    made = await post(idle_world, f"{box}/fork-tree", {"count": 4}, 201)
    assert len(made["children"]) == len(made["errors"]) == 2
    for failed in made["errors"]:
        assert failed["code"] == "quota.sandboxes_exceeded" and failed["err"] == failed["error"]
    indexes = {child["metadata"]["fork_index"] for child in made["children"]}
    assert indexes | {str(failed["index"]) for failed in made["errors"]} == {"0", "1", "2", "3"}
    assert (await types(idle_world, box)).count("fork.child_failed") == 2
    none = await idle_world.http.post(f"{ALL}/{box}/fork", json={"count": 2})
    assert (none.status_code, none.json()["code"]) == (429, "quota.sandboxes_exceeded")
    assert await used(idle_world) == 3 and held(idle_world) == set()


async def test_a_fork_whose_client_leaves_leaves_nothing(world: World, box: str) -> None:
    for seconds in (0.005, 0.01, 0.02, 0.03):
        forking = asyncio.ensure_future(world.http.post(f"{ALL}/{box}/fork", json={"count": 4}))
        await asyncio.sleep(seconds)
        forking.cancel()
        await asyncio.wait([forking])
        listed = [found["id"] for found in (await world.http.get(ALL)).json()]
        assert set(listed) == machines(world).keys() and held(world) == set()
        assert await used(world) == len(listed)
    assert (await world.exec(box, "echo on"))["stdout"] == "on\n"


async def test_a_dead_parent_cannot_be_forked(world: World, box: str) -> None:
    os.kill(pid_of(world, box), signal.SIGKILL)
    async with asyncio.timeout(10):
        while (await sandbox(world, box))["status"] != "failed":
            await asyncio.sleep(0.01)
    for verb in ("fork", "fork-tree", "snapshots", "hibernate", "wake"):
        assert (await world.http.post(f"{ALL}/{box}/{verb}")).status_code == 409


async def test_branches_of_an_exploration_may_idle_as_long_as_it_says(world: World, box: str) -> None:
    async def idling(ttl: str, **body: object) -> int:
        asked = {"count": 1, "metadata": {"explore": "1", "explore_ttl": ttl}, **body}
        made = await post(world, f"{box}/fork-tree", asked, 201)
        return int(made["children"][0]["ttl_seconds"])

    assert await idling("900") == 900
    assert await idling("900", ttl_seconds=7) == 7
    assert await idling("999999999") == 366 * 86_400
    assert await idling("soon") == await idling("9" * 5000) == 300


async def test_promotion_keeps_the_winner_alone(world: World, box: str) -> None:
    made = await post(world, f"{box}/fork-tree", {"count": 3}, 201)
    winner, *losers = [child["id"] for child in made["children"]]
    promoted = await post(world, f"{winner}/promote", {"cleanup_siblings": True})
    assert (promoted["winner"], promoted["tree_id"]) == (winner, made["tree_id"])
    assert sorted(promoted["deleted"]) == sorted(losers) and promoted["failures"] == {}
    assert machines(world).keys() == {box, winner}
    kept = await sandbox(world, winner)
    assert kept["tree_id"] is None and kept["metadata"]["fork_tree_role"] == "winner"
    again = await post(world, f"{winner}/promote", {"cleanup_siblings": True, "tree_id": made["tree_id"]})
    assert (again["tree_id"], again["deleted"]) == (made["tree_id"], [])
    told = [event for event in await world.events(winner) if event["type"] == "fork_tree.promoted"]
    assert sorted(told[0]["payload"]["deleted"]) == sorted(losers)


async def test_of_two_that_are_promoted_at_once_one_wins(world: World, box: str) -> None:
    made = await post(world, f"{box}/fork-tree", {"count": 3}, 201)
    ids = [child["id"] for child in made["children"]]
    body = {"cleanup_siblings": True}
    asked = [world.http.post(f"{ALL}/{each}/promote", json=body) for each in ids[:2]]
    first, second = await asyncio.gather(*asked)
    assert (first.status_code, second.status_code) == (200, 404)
    assert machines(world).keys() == {box, ids[0]}


async def test_the_living_are_not_removed_for_a_dead_winner(world: World, box: str) -> None:
    made = await post(world, f"{box}/fork-tree", status=201)
    dead, living = [child["id"] for child in made["children"]]
    os.kill(pid_of(world, dead), signal.SIGKILL)
    await until(world, dead, "failed")
    refused = await world.http.post(f"{ALL}/{dead}/promote", json={"cleanup_siblings": True})
    assert (refused.status_code, refused.json()["code"]) == (409, "sandbox.invalid_state")
    assert (await world.exec(living, "echo here"))["stdout"] == "here\n"


async def test_promotion_without_cleanup_spares_the_others(world: World, box: str) -> None:
    made = await post(world, f"{box}/fork-tree", status=201)
    winner = made["children"][0]["id"]
    promoted = await post(world, f"{winner}/promote")
    assert promoted == {"winner": winner, "tree_id": made["tree_id"], "deleted": [], "failures": {}}
    assert len(machines(world)) == 3


async def test_promotion_of_what_is_of_no_tree(world: World, box: str) -> None:
    assert (await post(world, f"{box}/promote"))["tree_id"] is None
    refused = await world.http.post(f"{ALL}/{box}/promote", json={"cleanup_siblings": True})
    assert refused.status_code == 400 and "tree_id required" in refused.json()["error"]
    made = await post(world, f"{box}/fork-tree", status=201)
    stranger = {"cleanup_siblings": True, "tree_id": made["tree_id"]}
    assert (await world.http.post(f"{ALL}/{box}/promote", json=stranger)).status_code == 400
    assert len(machines(world)) == 3
