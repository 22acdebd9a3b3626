"""Idempotency-Keys of everything that makes something: made once, and told again."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from tests.api.conftest import World
from tests.api.test_state import held, machines, post

pytestmark = pytest.mark.anyio

ALL = "/v1/sandboxes"
MAKING = [
    ("snapshots", {"name": "a"}, {"name": "b"}),
    ("fork", {"count": 2}, {"count": 1}),
    ("fork-tree", {"count": 2}, {"count": 3}),
]
"""Verbs, a request of each, and another one."""


async def keyed(world: World, box: str, verb: str, body: object) -> httpx2.Response:
    """The answer to a request that has always the same key."""
    return await world.http.post(f"{ALL}/{box}/{verb}", json=body, headers={"idempotency-key": "k"})


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize(("verb", "body", "other"), MAKING)
async def test_a_key_makes_it_once(world: World, box: str, verb: str, body: object, other: object) -> None:
    first = await keyed(world, box, verb, body)
    assert first.status_code == 201 and "idempotent-replayed" not in first.headers
    there = machines(world), held(world)
    await world.stop()
    await world.start()
    again = await keyed(world, box, verb, body)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json() == first.json()
    assert code(await keyed(world, box, verb, other)) == (422, "idempotency.mismatch")
    elsewhere = next(name for name, *_ in MAKING if name != verb)
    assert code(await keyed(world, box, elsewhere, {})) == (422, "idempotency.mismatch")
    assert (machines(world), held(world)) == there
    for child in machines(world).keys() - {box}:
        await world.http.delete(f"{ALL}/{child}")
    if verb != "snapshots":
        assert {each["status"] for each in children(await keyed(world, box, verb, body))} == {"deleted"}


def children(answer: httpx2.Response) -> list[dict[str, Any]]:
    told = answer.json()
    return list(told.get("sandboxes") or told["children"])


@pytest.mark.parametrize(("verb", "body"), [(verb, body) for verb, body, _ in MAKING])
async def test_a_key_that_comes_at_the_same_time_makes_one(
    world: World, box: str, verb: str, body: object
) -> None:
    answers = await asyncio.gather(*(keyed(world, box, verb, body) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {201}
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize(("verb", "body"), [(verb, body) for verb, body, _ in MAKING])
async def test_a_key_of_what_was_refused_is_free(world: World, box: str, verb: str, body: object) -> None:
    """The process driver cannot keep a command that runs."""
    process = await post(world, f"{box}/processes", {"cmd": "sleep 60"}, 201)
    assert code(await keyed(world, box, verb, body)) == (409, "not_supported")
    signalled = f"{ALL}/{box}/processes/{process['process_id']}/signal"
    assert (await world.http.post(signalled, json={"signal": "SIGKILL"})).is_success
    async with asyncio.timeout(10):
        while (made := await keyed(world, box, verb, body)).status_code != 201:
            await asyncio.sleep(0.05)
    assert "idempotent-replayed" not in made.headers


async def test_a_client_that_left_makes_its_fork_with_its_next_try(world: World, box: str) -> None:
    for number in range(6):
        calling = asyncio.ensure_future(keyed(world, box, "fork", {"count": 2}))
        await asyncio.sleep(number / 300)
        calling.cancel()
        await asyncio.wait([calling])
    made = (await keyed(world, box, "fork", {"count": 2})).json()
    assert machines(world).keys() == {box, *made["children"]}


async def test_a_step_is_gone_on_from_once_also_when_there_are_later_ones(world: World) -> None:
    box = (await world.create(checkpoints="exec"))["id"]
    await world.exec(box, "true")
    first = await keyed(world, box, "at", {"step": -1})
    await world.exec(box, "true")
    again = await keyed(world, box, "at", {"step": -1})
    assert (first.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json() == first.json()
