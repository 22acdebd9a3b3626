"""Egress policies through the API: echoed, kept through sleep, restart and fork, changed, refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pandastack.host.app import open_host
from pandastack.model.egress import Egress
from pandastack.model.verdict import FREE
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.real import small_host
from tests.api.conftest import World
from tests.network.probe import reach
from tests.network.test_reach import OPEN
from tests.network.world import ROUTER, SERVERS
from tests.vm.conftest import quiet

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(300)]

FIRST, SECOND, _ = SERVERS
ONLY_FIRST = {"allow_cidrs": [f"{FIRST}/32"]}


@pytest.fixture
async def world(leak_check: LeakCheck, tmp_path: Path, images: None, ground: None) -> AsyncIterator[World]:
    """A control plane over a host whose machines are real, in a network of the test's own."""

    def host(state: Path) -> Any:  # noqa: ANN401  # an async context manager
        config = small_host(state, name_servers=(f"{ROUTER}:53",))
        return open_host(config, quiet)

    world = World(tmp_path, host)
    await world.start()
    yield world
    await world.host.end_all()
    await world.stop()


async def reached(world: World, sandbox_id: str) -> list[str]:
    """Which of two servers it reaches."""
    found = await reach(world.host, sandbox_id, FIRST, SECOND, patience=1.5)
    return [name for name, how in found.items() if how == OPEN]


async def policy(world: World, sandbox_id: str) -> dict[str, Any]:
    answer = await world.http.get(f"/v1/sandboxes/{sandbox_id}/egress")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_a_policy_is_echoed_and_kept_in_every_life(world: World) -> None:
    made = await world.create(egress=ONLY_FIRST)
    box = made["id"]
    assert made["egress"]["allow_cidrs"] == ONLY_FIRST["allow_cidrs"] and made["egress"]["internet"] == "on"
    assert made["guest_ip"].startswith("10.")
    assert made["degraded"] == ((await world.host.report()).degraded or None)
    assert await reached(world, box) == [FIRST]
    taken = await world.http.post(f"/v1/sandboxes/{box}/snapshots", json={})
    for verb in ("hibernate", "wake"):
        assert (await world.http.post(f"/v1/sandboxes/{box}/{verb}")).status_code < 300
    assert await reached(world, box) == [FIRST]
    forked = (await world.http.post(f"/v1/sandboxes/{box}/fork", json={"count": 1})).json()
    child = forked["children"][0]
    again = (await world.create(from_snapshot=taken.json()["id"]))["id"]
    wider = (await world.create(from_snapshot=taken.json()["id"], egress={}))["id"]
    for sandbox_id, expected in ((child, [FIRST]), (again, [FIRST]), (wider, [FIRST, SECOND])):
        assert await reached(world, sandbox_id) == expected
    await world.stop()
    await world.start()
    assert await reached(world, box) == [FIRST]
    assert (await policy(world, again))["allow_cidrs"] == ONLY_FIRST["allow_cidrs"]


async def test_a_policy_is_changed_told_and_tried(world: World) -> None:
    box = (await world.create())["id"]
    assert await reached(world, box) == [FIRST, SECOND]
    place = f"/v1/sandboxes/{box}/egress"
    tried = (await world.http.post(f"{place}/trial", json=ONLY_FIRST)).json()
    assert {each["address"] for each in tried["blocked"]} == {SECOND}
    assert set(tried["suggestion"]["allow_cidrs"]) == {f"{FIRST}/32", f"{SECOND}/32"}
    assert await reached(world, box) == [FIRST, SECOND], "a trial changes nothing"
    changed = await world.http.put(place, json=ONLY_FIRST)
    assert changed.status_code == 200 and changed.json() == await policy(world, box)
    assert await reached(world, box) == [FIRST]
    told = (await world.http.get(f"{place}/receipts")).json()["receipts"]
    rules = {each["rule"] for each in told if each["address"] == SECOND}
    assert rules == {FREE, "no allow list names it"}, "of each time the rule that decided"
    assert "sandbox.egress_changed" in [each["type"] for each in await world.events(box)]


@pytest.mark.parametrize(
    "bad",
    [
        {"allow_cidrs": ["10.0.0.1/8"]},
        {"allow_cidrs": ["fd00::/8"]},
        {"allow_domains": ["exa mple.com"]},
        {"allow_domains": ["1.2.3.4"]},
        {"ports": ["80-8"]},
        {"internet": "maybe"},
        {"allow": ["x"]},
    ],
)
async def test_what_cannot_be_a_policy_is_refused_and_the_old_one_stays(
    world: World, bad: dict[str, Any]
) -> None:
    box = (await world.create(egress=ONLY_FIRST))["id"]
    refused = await world.http.put(f"/v1/sandboxes/{box}/egress", json=bad)
    assert refused.status_code == 400, refused.text
    assert (await policy(world, box))["allow_cidrs"] == ONLY_FIRST["allow_cidrs"]


async def test_a_sleeping_sandbox_keeps_what_it_is_told_from_its_wake_on(world: World) -> None:
    box = (await world.create())["id"]
    await world.http.post(f"/v1/sandboxes/{box}/hibernate")
    assert (await world.http.put(f"/v1/sandboxes/{box}/egress", json={"internet": "off"})).status_code == 200
    receipts = await world.http.get(f"/v1/sandboxes/{box}/egress/receipts")
    assert receipts.json() == {"receipts": [], "dropped": 0}
    assert (await world.http.get(f"/v1/sandboxes/{box}")).json()["status"] == "hibernated"
    await world.http.post(f"/v1/sandboxes/{box}/wake")
    assert await reached(world, box) == []


async def test_two_changes_at_once_end_as_the_row_says(world: World) -> None:

    box = (await world.create())["id"]
    change = partial(world.http.put, f"/v1/sandboxes/{box}/egress")
    answers = await asyncio.gather(*(change(json=each) for each in (ONLY_FIRST, {"internet": "off"}, {}) * 3))
    assert {answer.status_code for answer in answers} == {200}
    expected = {(): [FIRST, SECOND], (f"{FIRST}/32",): [FIRST]}
    now = await policy(world, box)
    held = [] if now["internet"] == "off" else expected[tuple(now["allow_cidrs"])]
    assert await reached(world, box) == held


async def test_a_server_that_ended_in_the_middle_of_a_change_keeps_to_the_row(world: World) -> None:
    """The host was told, the row was not written, and nobody was answered."""
    box = (await world.create(egress=ONLY_FIRST))["id"]
    await world.host.set_egress(box, Egress())
    assert await reached(world, box) == [FIRST, SECOND]
    await world.stop()
    await world.start()
    assert (await policy(world, box))["allow_cidrs"] == ONLY_FIRST["allow_cidrs"]
    assert await reached(world, box) == [FIRST]
