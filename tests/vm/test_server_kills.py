"""Every verb of state, cut off on real machines: the server is killed, a machine, or what runs in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from msgspec import Struct

from pandastack.host.tool import run_tool
from pandastack.testing.fixtures import LeakCheck
from tests.api.test_kills import ALL, PROGRAM
from tests.vm.yard import Yard

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

FOR_EVER = "sleep:600"


class Cut(Struct, frozen=True):
    """A life of the server: verbs that are under way, each at a point, when it is killed, or kills itself at
    the last of them; and before that verbs that meet with an error.
    """

    under_way: dict[str, str]
    refused: dict[str, str] = {}
    by_itself: bool = False

    def armed(self) -> str:
        *waiting, last = [f"{point}={FOR_EVER}" for point in self.under_way.values()]
        last = last.replace(FOR_EVER, "exit") if self.by_itself else last
        return ";".join([*waiting, last, *(f"{point}=error" for point in self.refused.values())])


CUTS = (
    Cut(
        {
            "wake": "wake.committed",
            "rollback": "rollback.committed",
            "delete": "delete.stopped",
            "drop": "drop.dropped",
            "snapshot": "snapshot.taken",
        }
    ),
    Cut(
        {
            "wake": "wake.started",
            "rollback": "rollback.replaced",
            "delete": "delete.stopping",
            "drop": "drop.marked",
            "snapshot": "snapshot.drafted",
        }
    ),
    Cut(
        {
            "fork": "fork.taken",
            "fork-one": "fork.taken",
            "hibernate": "hibernate.taken",
            "snapshot": "snapshot.published",
        },
        {"wake": "wake.started", "rollback": "rollback.replaced", "drop": "drop.marked"},
    ),
    Cut(
        {"fork": "fork.child", "hibernate": "hibernate.committed"},
        {
            "wake": "wake.committed",
            "rollback": "rollback.committed",
            "delete": "delete.stopped",
            "snapshot": "snapshot.published",
        },
        by_itself=True,
    ),
    Cut(
        {"hibernate": "hibernate.stopped", "fork": "fork.borne"},
        {"delete": "delete.stopping"},
        by_itself=True,
    ),
)


class Case(Struct, frozen=True):
    """A sandbox made ready for a verb, and the snapshot that the verb is about."""

    verb: str
    box: str
    snapshot: str = ""

    def request(self) -> tuple[str, str, dict[str, Any] | None]:
        """What asks for the verb."""
        if self.verb == "drop":
            return "DELETE", f"/v1/snapshots/{self.snapshot}", None
        path = f"{ALL}/{self.box}"
        if self.verb == "delete":
            return "DELETE", path, None
        name = {"snapshot": "snapshots", "fork-one": "fork"}.get(self.verb, self.verb)
        bodies: dict[str, dict[str, Any]] = {
            "fork": {"count": 2},
            "fork-one": {"count": 1},
            "rollback": {"snapshot_id": self.snapshot},
        }
        return "POST", f"{path}/{name}", bodies.get(self.verb)


@pytest.fixture
async def yard(leak_check: LeakCheck, tmp_path: Path, images: None) -> AsyncIterator[Yard]:
    """A yard; a test that succeeds has its last server take everything along."""
    yard = Yard(tmp_path)
    leak_check.expect_empty(yard.state / "v")
    yield yard
    if any((yard.state / "v").iterdir()):
        await run_tool([PROGRAM, "down", "--state", yard.state], timeout=60)


async def ready(yard: Yard, verb: str) -> Case:
    """A sandbox for the verb."""
    box = await yard.make(f"{verb}-{len(yard.tokens)}")
    if verb == "wake":
        await yard.call("POST", f"{ALL}/{box}/hibernate")
    if verb not in {"rollback", "drop"}:
        return Case(verb, box)
    taken = await yard.call("POST", f"{ALL}/{box}/snapshots", status=201)
    return Case(verb, box, taken["id"])


def asked(yard: Yard, case: Case) -> asyncio.Task[httpx2.Response]:
    """The verb, under way."""
    return yard.ask(*case.request())


async def cut_off(yard: Yard, cut: Cut, cases: dict[str, Case]) -> None:
    """The verbs up to the end of the server: nobody is told that anything was done."""
    for verb, point in cut.refused.items():
        answer = await asked(yard, cases[verb])
        assert answer.status_code == 500 and point in answer.json()["error"], answer.text
    tasks = []
    for verb, point in cut.under_way.items():
        tasks.append(asked(yard, cases[verb]))
        await yard.reached(point)
    if not cut.by_itself:
        yard.kill()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, httpx2.TransportError), outcome
    for verb in {"delete"} & cases.keys():
        del yard.tokens[cases[verb].box]


async def outlived(yard: Yard, case: Case) -> None:
    """The verb was done or was not, its sandbox holds all that it held, and every snapshot does."""
    if case.verb == "delete":
        return
    await yard.look_into(case.box)
    found = await yard.snapshots(case.box)
    assert case.verb != "drop" or not found
    for snapshot in found:
        await yard.look_at_child(snapshot["id"], yard.tokens[case.box])


async def test_a_server_that_dies_leaves_nothing_half_done_and_loses_nothing(yard: Yard) -> None:
    """One life after the other, each beginning with what the last one left."""
    async with yard.life():
        cases = [{verb: await ready(yard, verb) for verb in (*cut.refused, *cut.under_way)} for cut in CUTS]
    for cut, its_cases in zip(CUTS, cases, strict=True):
        async with yard.life(cut.armed()):
            await yard.check()
            await cut_off(yard, cut, its_cases)
    async with yard.life(leave="destroy"):
        await yard.check()
        for its_cases in cases:
            for case in its_cases.values():
                await outlived(yard, case)
        await yard.check()


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
        await a_machine_dies_behind_its_image(yard)
        await a_machine_dies_while_it_wakes(yard)
        await a_machine_dies_while_it_is_rolled_back(yard)
        await yard.check()
    async with yard.life(leave="destroy"):
        await yard.check()
