"""Receipts of a sandbox's whole life: they outlive its sleep, its server, and the process that counts."""

from __future__ import annotations

import asyncio
import html
import os
import re
import signal
import time
from typing import Any

import pytest

from pandastack.host import procfs
from pandastack.host.readiness import run_to_end
from tests.api.conftest import World
from tests.network.test_egress_deaths import the_process
from tests.network.test_names import FETCH, TABLE, others
from tests.network.test_policies import reached, world
from tests.network.world import SERVE, SERVERS, name_server, program
from tests.web.conftest import Browser

__all__ = ["others", "world"]

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(300)]

FIRST, SECOND, THIRD = SERVERS
BY_NAME = {"allow_domains": ["allowed.example"]}


async def told(world: World, box: str) -> list[dict[str, Any]]:
    answer = await world.http.get(f"/v1/sandboxes/{box}/egress/receipts")
    assert answer.status_code == 200, answer.text
    assert answer.json()["dropped"] == 0
    return list(answer.json()["receipts"])


def packets(receipts: list[dict[str, Any]], address: str) -> int:
    """Bytes that went to an address by UDP."""
    mine = [each for each in receipts if (each["protocol"], each["address"]) == ("udp", address)]
    return sum(each["bytes_out"] for each in mine if each["allowed"])


def named(receipts: list[dict[str, Any]], name: str) -> int:
    """Connections that told a name, to the proxy."""
    mine = [each for each in receipts if (each["protocol"], each["name"]) == ("http", name)]
    return sum(each["connections"] for each in mine)


async def fetch(world: World, box: str, url: str) -> str:
    line = f"python3 -c '{FETCH}' {url}"
    return (await run_to_end(world.host.guest(box), line, f"fetch-{time.time_ns()}"))[1].strip()


async def test_receipts_add_up_over_sleeps_and_servers(world: World) -> None:
    """The kernel's: each time it reaches a server the same is added, whatever came in between."""
    box = (await world.create())["id"]
    assert FIRST in await reached(world, box)
    once = packets(await told(world, box), FIRST)
    assert once > 0
    for verb in ("hibernate", "wake"):
        assert (await world.http.post(f"/v1/sandboxes/{box}/{verb}")).status_code < 300
        assert packets(await told(world, box), FIRST) == once, "asleep, and with a new network"
    await reached(world, box)
    assert packets(await told(world, box), FIRST) == 2 * once
    await world.stop()
    await world.start()
    assert packets(await told(world, box), FIRST) == 2 * once, "of a machine that ran on: not twice"
    await reached(world, box)
    before = packets(await told(world, box), FIRST)
    assert before == 3 * once
    assert (await world.http.post(f"/v1/sandboxes/{box}/hibernate")).status_code < 300
    await world.stop()
    await world.start()
    trial = {"allow_cidrs": [f"{FIRST}/32"]}
    tried = (await world.http.post(f"/v1/sandboxes/{box}/egress/trial", json=trial)).json()
    assert {each["address"] for each in tried["blocked"]} == {SECOND}, "tried on what it did before it slept"
    assert set(tried["suggestion"]["allow_cidrs"]) == {f"{FIRST}/32", f"{SECOND}/32"}


async def test_a_machine_and_a_process_are_told_from_those_that_get_their_number_again(
    others: set[int], world: World
) -> None:
    with name_server(TABLE), program(SERVE):
        box = (await world.create(egress=BY_NAME))["id"]
        assert await fetch(world, box, "http://allowed.example/") == "served allowed.example"
        seen, vm = await world.host.receipts(box), world.host.vms.find(box)
        process = the_process(others)
        assert seen.life == f"{vm.slot}.{vm.machine.pid}.{procfs.start_ticks(vm.machine.pid)}"
        assert seen.process.startswith(f"{process}.{procfs.start_ticks(process)}.")


async def test_receipts_of_names_outlive_the_process_that_counts_them(others: set[int], world: World) -> None:
    with name_server(TABLE), program(SERVE):
        box = (await world.create(egress=BY_NAME))["id"]
        url = "http://allowed.example/"
        assert await fetch(world, box, url) == "served allowed.example"
        assert named(await told(world, box), "allowed.example") == 1
        os.kill(the_process(others), signal.SIGKILL)
        assert named(await told(world, box), "allowed.example") == 1, "without any process"
        async with asyncio.timeout(60):
            while "served" not in await fetch(world, box, url):
                await asyncio.sleep(0.1)
        assert named(await told(world, box), "allowed.example") == 2, "the new one's are added"
        for policy in ({"internet": "off"}, BY_NAME):
            changed = await world.http.put(f"/v1/sandboxes/{box}/egress", json=policy)
            assert changed.status_code == 200, changed.text
        assert await fetch(world, box, url) == "served allowed.example"
        assert named(await told(world, box), "allowed.example") == 3, (
            "also of one that it left and serves again"
        )
        await world.stop()
        await world.start()
        assert named(await told(world, box), "allowed.example") == 3


async def test_without_a_round_what_a_killed_process_counted_is_lost(others: set[int], world: World) -> None:
    """The negative control: what is written down was there to be counted, and is gone when it is not."""
    with name_server(TABLE), program(SERVE):
        box, kept = [(await world.create(egress=BY_NAME))["id"] for _ in range(2)]
        for each in (box, kept):
            assert await fetch(world, each, "http://allowed.example/") == "served allowed.example"
        await world.control.plane.ground.books.gather(kept)
        os.kill(the_process(others), signal.SIGKILL)
        assert named(await told(world, box), "allowed.example") == 0
        assert named(await told(world, kept), "allowed.example") == 1


async def test_the_page_of_a_sandbox_shows_them_in_every_state(world: World) -> None:
    secrets = {"TOKEN": {"value": "a value that no page has", "hosts": ["api.allowed.example"]}}
    with name_server(TABLE), program(SERVE):
        box = (await world.create(egress=BY_NAME, secrets=secrets))["id"]
        assert await fetch(world, box, "http://allowed.example/") == "served allowed.example"
        assert "served" not in await fetch(world, box, "http://other.example/")
        await world.control.plane.ground.books.gather(box)
        async with Browser(world) as browser:
            await browser.logs_in()
            shown = _words(await browser.sees(f"/ui/sandboxes/{box}"))
            for words in ("Reaches allowed.example", "✓ allowed.example http 80", "✗ other.example dns"):
                assert words in shown
            assert "Secret TOKEN put in on its way to api.allowed.example" in shown
            assert "a value that no page has" not in shown
            for verb, told in (("hibernate", "Secret TOKEN"), ("delete", "Facts")):
                answer = await world.http.request(
                    "DELETE" if verb == "delete" else "POST",
                    f"/v1/sandboxes/{box}" + ("" if verb == "delete" else f"/{verb}"),
                )
                assert answer.is_success, answer.text
                page = _words(await browser.sees(f"/ui/sandboxes/{box}"))
                assert "✓ allowed.example http 80" in page and told in page


def _words(page: str) -> str:
    """What a person reads."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
