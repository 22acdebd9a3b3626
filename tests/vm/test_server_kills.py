"""Every verb, cut off on real machines: the server is killed between any two of its steps, or errs there."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from msgspec import Struct

from tests.vm.cases import Case, asked, ready
from tests.vm.yard import Yard

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

FOR_EVER = "sleep:600"


class Cut(Struct, frozen=True):
    """A life of the server: verbs that are under way, each at a point, when it is killed, or kills itself at
    the last of them.
    """

    under_way: dict[str, str]
    by_itself: bool = False

    def armed(self) -> str:
        *waiting, last = [f"{point}={FOR_EVER}" for point in self.under_way.values()]
        last = last.replace(FOR_EVER, "exit") if self.by_itself else last
        return ";".join([*waiting, last])


CUTS = (
    Cut(
        {
            "wake": "wake.committed",
            "rollback": "rollback.committed",
            "delete": "delete.stopped",
            "drop": "drop.dropped",
            "snapshot": "snapshot.taken",
            "create": "create.started",
        }
    ),
    Cut(
        {
            "wake": "wake.started",
            "rollback": "rollback.replaced",
            "delete": "delete.stopping",
            "drop": "drop.marked",
            "snapshot": "snapshot.drafted",
            "create": "create.reserved",
        }
    ),
    Cut(
        {
            "fork": "fork.taken",
            "fork-one": "fork.taken",
            "hibernate": "hibernate.taken",
            "snapshot": "snapshot.published",
            "create": "create.running",
        }
    ),
    Cut({"fork": "fork.child", "hibernate": "hibernate.committed"}, by_itself=True),
    Cut({"hibernate": "hibernate.stopped", "fork": "fork.borne"}, by_itself=True),
)

ERRORS: tuple[dict[str, str], ...] = (
    {
        "hibernate": "hibernate.taken",
        "fork": "fork.taken",
        "drop": "drop.marked",
        "wake": "wake.started",
        "rollback": "rollback.replaced",
        "delete": "delete.stopping",
        "snapshot": "snapshot.published",
    },
    {
        "create": "create.started",
        "hibernate": "hibernate.committed",
        "fork": "fork.child",
        "wake": "wake.committed",
        "rollback": "rollback.committed",
    },
    {"create": "create.running", "hibernate": "hibernate.stopped"},
    {"fork": "fork.borne", "snapshot": "snapshot.drafted"},
    {
        "create": "create.reserved",
        "snapshot": "snapshot.taken",
        "drop": "drop.dropped",
        "delete": "delete.stopped",
    },
)
"""Of each life the points where verbs meet with an error. What one has left undone the next one finishes, so
the ends of deletions come last. The children of a fork are reserved while its snapshot is taken: the two
points are of two lives.
"""

QUIETLY = {"drop.dropped"}
"""Behind what was promised: the answer is that it is done, and it is done later."""


async def refused(yard: Yard, points: dict[str, str], cases: dict[str, Case]) -> None:
    """The caller is told, each time."""
    for verb, point in points.items():
        answer = await asked(yard, cases[verb])
        if point in QUIETLY:
            assert answer.is_success, answer.text
        else:
            assert answer.status_code == 500 and point in answer.json()["error"], answer.text


async def cut_off(yard: Yard, cut: Cut, cases: dict[str, Case]) -> None:
    """The verbs up to the end of the server: nobody is told that anything was done."""
    tasks = []
    for verb, point in cut.under_way.items():
        tasks.append(asked(yard, cases[verb]))
        await yard.reached(point)
    if not cut.by_itself:
        yard.kill()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, httpx2.TransportError), outcome


async def look_around(yard: Yard) -> None:
    """At the beginning of a life: a create that nobody was told of is whole, or nothing; all else agrees."""
    for made in await yard.unclaimed():
        await yard.say(made, "true")
        yard.tokens[made] = ""
    await yard.check()


async def outlived(yard: Yard, case: Case) -> None:
    """The verb was done or was not, its sandbox holds all that it held, and every snapshot does."""
    if case.verb in {"delete", "create"}:
        return
    await yard.look_into(case.box)
    found = await yard.snapshots(case.box)
    assert case.verb != "drop" or not found
    for snapshot in found:
        await yard.look_at_child(snapshot["id"], yard.tokens[case.box])


async def all_outlived(yard: Yard, cases: list[dict[str, Case]]) -> None:
    """In the last life, which takes everything along."""
    async with yard.life(leave="destroy"):
        await look_around(yard)
        for each in cases:
            for case in each.values():
                await outlived(yard, case)
        await yard.check()


def forget_deleted(yard: Yard, cases: dict[str, Case]) -> None:
    """Deleting it was begun, so it goes whatever comes."""
    if "delete" in cases:
        del yard.tokens[cases["delete"].box]


async def test_a_server_that_dies_leaves_nothing_half_done_and_loses_nothing(yard: Yard) -> None:
    """One life after the other, each beginning with what the last one left."""
    async with yard.life():
        cases = [{verb: await ready(yard, verb) for verb in cut.under_way} for cut in CUTS]
    for cut, its_cases in zip(CUTS, cases, strict=True):
        async with yard.life(cut.armed()):
            await look_around(yard)
            await cut_off(yard, cut, its_cases)
        forget_deleted(yard, its_cases)
    await all_outlived(yard, cases)


async def test_an_error_at_any_step_is_told_and_loses_nothing(yard: Yard) -> None:
    async with yard.life():
        cases = [{verb: await ready(yard, verb) for verb in points} for points in ERRORS]
    for points, its_cases in zip(ERRORS, cases, strict=True):
        async with yard.life(";".join(f"{point}=error" for point in points.values())):
            await look_around(yard)
            await refused(yard, points, its_cases)
        forget_deleted(yard, its_cases)
    await all_outlived(yard, cases)
