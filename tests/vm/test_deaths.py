"""Machines that die within a verb, and guests that panic: told, with nothing lost but what was never kept."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from tests.api.test_kills import ALL
from tests.vm.cases import Case, asked, ready
from tests.vm.yard import Yard

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

PANIC = "echo c > /proc/sysrq-trigger; sleep 60"
PURGE = "i=0; while [ $i -lt 400 ]; do kill -9 1; kill -9 -1; i=$((i+1)); done; echo done"


async def failed(yard: Yard, box: str, why: str) -> dict[str, Any]:
    """Its row, which soon tells why it has failed."""
    async with asyncio.timeout(10):
        while (row := await yard.row(box))["status"] != "failed":
            await asyncio.sleep(0.1)
    assert why in row["cause"], row
    return row


async def a_guest_panics_while_it_is_kept(yard: Yard) -> None:
    """What was taken before is whole."""
    case = await ready(yard, "snapshot")
    task = asked(yard, case)
    await yard.reached("snapshot.taken")
    answer = await yard.http.post(f"{ALL}/{case.box}/exec", json={"cmd": PANIC})
    assert answer.status_code == 500 and "panic" in answer.json()["error"], answer.text
    taken = (await task).json()
    await failed(yard, case.box, "panicked")
    await yard.look_at_child(taken["id"], yard.tokens[case.box])


async def a_guest_kills_all_that_it_can_while_it_is_kept(yard: Yard) -> None:
    """That is what the agent has begun to freeze its disk with, too. It goes on, and can be written to."""
    case = await ready(yard, "snapshot")
    long = yard.ask("POST", f"{ALL}/{case.box}/exec", {"cmd": ["sleep", "60"]})
    line = yard.ask("POST", f"{ALL}/{case.box}/exec", {"cmd": PURGE})
    taken = [await asked(yard, case) for _ in range(2)]
    assert (await line).json()["stdout"] == "done\n"
    assert (await long).json()["exit_code"] == 137
    for answer in taken:
        assert answer.status_code == 201, answer.text
        await yard.give_up((await yard.call("POST", ALL, {"from_snapshot": answer.json()["id"]}, 201))["id"])
    await yard.say(case.box, "echo more > /root/more; sync")
    await yard.give_up(case.box)


async def killed_in(yard: Yard, verb: str, point: str) -> tuple[Case, httpx2.Response]:
    """What a verb answers whose machine is killed at a point."""
    case = await ready(yard, verb)
    task = asked(yard, case)
    await yard.reached(point)
    yard.kill_machine(case.box)
    return case, await task


async def a_parent_dies(yard: Yard) -> None:
    """Its children have all that it had."""
    case, answer = await killed_in(yard, "fork", "fork.taken")
    assert answer.status_code == 201, answer.text
    await failed(yard, case.box, "SIGKILL")
    for child in answer.json()["children"]:
        yard.tokens[child] = yard.tokens[case.box]
        await yard.look_into(child)


async def a_copy_dies_before_its_only_child(yard: Yard) -> None:
    """Another one is made: the parent lives."""
    case = await ready(yard, "fork-one")
    task = asked(yard, case)
    await yard.reached("fork.taken")
    yard.kill_copies(case.box)
    answer = await task
    assert answer.status_code == 201, answer.text
    (child,) = answer.json()["children"] if "children" in answer.json() else [answer.json()["id"]]
    yard.tokens[child] = yard.tokens[case.box]
    await yard.look_into(child)
    await yard.look_into(case.box)


async def a_machine_dies_behind_its_image(yard: Yard) -> None:
    """It sleeps, as it was asked for."""
    case, answer = await killed_in(yard, "hibernate", "hibernate.taken")
    assert (answer.status_code, (await yard.row(case.box))["status"]) == (200, "hibernated")
    await yard.look_into(case.box)


async def a_machine_dies_while_it_wakes(yard: Yard) -> None:
    """It was awake, and then it was dead; what it slept in is kept."""
    case, answer = await killed_in(yard, "wake", "wake.started")
    assert answer.status_code == 200, answer.text
    row = await failed(yard, case.box, "SIGKILL")
    assert f"roll it back to snapshot {row['snapshot_id']}" in row["cause"]
    await yard.call("POST", f"{ALL}/{case.box}/rollback", {"snapshot_id": row["snapshot_id"]})
    await yard.look_into(case.box)


async def a_machine_dies_while_it_is_rolled_back(yard: Yard) -> None:
    """So does what it was to go back to."""
    case, answer = await killed_in(yard, "rollback", "rollback.replaced")
    assert answer.status_code == 500 and "SIGKILL" in answer.json()["error"], answer.text
    await failed(yard, case.box, "SIGKILL")
    await yard.call("POST", f"{ALL}/{case.box}/rollback", {"snapshot_id": case.snapshot})
    await yard.look_into(case.box)


SLEEPS = ("snapshot.taken", "fork.taken", "hibernate.taken", "wake.started", "rollback.replaced")


async def test_what_dies_within_a_verb_is_told_and_takes_nothing_along(yard: Yard) -> None:
    async with yard.life(";".join(f"{point}=sleep:0.5" for point in SLEEPS)):
        await a_guest_panics_while_it_is_kept(yard)
        await a_guest_kills_all_that_it_can_while_it_is_kept(yard)
        await a_parent_dies(yard)
        await a_copy_dies_before_its_only_child(yard)
        await a_machine_dies_behind_its_image(yard)
        await a_machine_dies_while_it_wakes(yard)
        await a_machine_dies_while_it_is_rolled_back(yard)
        await yard.check()
    async with yard.life(leave="destroy"):
        await yard.check()


WALK = (
    ("create", "create.started"),
    ("create", "create.running"),
    ("snapshot", "snapshot.drafted"),
    ("snapshot", "snapshot.taken"),
    ("snapshot", "snapshot.published"),
    ("fork", "fork.taken"),
    ("fork-one", "fork.taken"),
    ("fork", "fork.child"),
    ("fork", "fork.borne"),
    ("hibernate", "hibernate.taken"),
    ("hibernate", "hibernate.committed"),
    ("wake", "wake.started"),
    ("wake", "wake.committed"),
    ("rollback", "rollback.replaced"),
    ("rollback", "rollback.committed"),
    ("delete", "delete.stopping"),
    ("drop", "drop.marked"),
    ("drop", "drop.dropped"),
)
"""Every point at which there is a machine."""

SPOKEN_TO = ("create.running", "snapshot.drafted", "snapshot.published", "fork.child", "wake.committed")
"""Those at which a command can have its guest panic, which is the death of its agent too."""


async def killed_at(yard: Yard, verb: str, point: str, how: str) -> tuple[Case, httpx2.Response]:
    """What a verb answers whose machine dies at a point: its process is killed, or its guest panics."""
    before = {home.name for home in (yard.state / "v").iterdir()}
    case = await ready(yard, verb)
    task = asked(yard, case)
    await yard.reached(point)
    box = case.box
    if not box:
        (box,) = {home.name for home in (yard.state / "v").iterdir()} - before
    if how == "SIGKILL":
        yard.kill_machine(box)
    else:
        told = await yard.http.post(f"{ALL}/{box}/exec", json={"cmd": PANIC})
        assert told.status_code == 500, told.text
    return Case(verb, box, case.snapshot), await task


async def found_dead(yard: Yard, case: Case, answer: httpx2.Response, how: str) -> None:
    """The verb was done or its end is told; what was kept of the sandbox is whole, and it itself is gone or
    tells what it has died of.
    """
    assert answer.is_success or how in answer.json()["error"], answer.text
    for child in (answer.json() if answer.is_success and answer.content else {}).get("children", []):
        yard.tokens[child] = yard.tokens[case.box]
        await yard.look_into(child)
        await yard.give_up(child)
    if case.verb == "delete":
        del yard.tokens[case.box]
        return
    if case.verb == "create" and not answer.is_success:
        return
    if case.verb == "hibernate":
        await yard.look_into(case.box)
    else:
        await failed(yard, case.box, how)
    for snapshot in await yard.snapshots(case.box):
        await yard.look_at_child(snapshot["id"], yard.tokens[case.box])
    await yard.give_up(case.box)


async def test_a_machine_may_die_at_any_step(yard: Yard) -> None:
    walk = [(*step, "SIGKILL") for step in WALK]
    walk += [(*step, "panicked") for step in WALK if step[1] in SPOKEN_TO]
    async with yard.life(";".join(f"{point}=sleep:0.15" for point in {step[1] for step in WALK})):
        for verb, point, how in walk:
            case, answer = await killed_at(yard, verb, point, how)
            await found_dead(yard, case, answer, how)
        await yard.check()
    async with yard.life(leave="destroy"):
        await yard.check()
