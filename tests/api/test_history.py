"""Events, logs, counters and the audit."""

from __future__ import annotations

import asyncio
import json

import httpx2
import pytest

from tests.api.conftest import World

pytestmark = pytest.mark.anyio


async def test_events_tell_the_history_oldest_first(world: World, box: str) -> None:
    one = f"/v1/sandboxes/{box}"
    await world.http.post(f"{one}/pause")
    await world.http.post(f"{one}/resume")
    events = await world.events(box)
    assert [event["type"] for event in events] == ["sandbox.running", "sandbox.paused", "sandbox.resumed"]
    first = events[0]
    assert first["sandbox_id"] == box and first["time"].endswith("Z")
    assert first["payload"].keys() >= {"pid", "ip", "template", "boot_ms", "boot_mode", "phases"}
    tail = (await world.http.get(f"{one}/events?tail=1")).json()["events"]
    assert [event["type"] for event in tail] == ["sandbox.resumed"]
    assert (await world.http.get(f"{one}/events?tail=-1")).status_code == 400


@pytest.mark.parametrize("follow", ["1", "true"])
async def test_events_are_followed_without_a_gap(
    world: World, wire: httpx2.AsyncClient, box: str, follow: str
) -> None:
    one, seen = f"/v1/sandboxes/{box}", []
    async with wire.stream("GET", f"{one}/events?follow={follow}&tail=5") as stream, asyncio.timeout(10):
        lines = stream.aiter_lines()
        assert await anext(lines) == ": ready"
        turns = asyncio.ensure_future(turn(world, one))
        async for line in lines:
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: "))["type"])
            if len(seen) == 9:
                break
        await turns
    assert seen == ["sandbox.running"] + ["sandbox.paused", "sandbox.resumed"] * 4


async def turn(world: World, one: str) -> None:
    for _ in range(4):
        await world.http.post(f"{one}/pause")
        await world.http.post(f"{one}/resume")


async def test_looking_at_a_sandbox_is_no_use_of_it(world: World, box: str) -> None:
    one = f"/v1/sandboxes/{box}"
    world.time.passes(100)
    for path in ("", "/lifecycle", "/events", "/logs", "/metrics"):
        assert (await world.http.get(one + path)).status_code == 200
    assert (await world.http.get(f"{one}/lifecycle")).json()["idle_seconds"] >= 100
    await world.http.get(f"{one}/fs/dir?path=/tmp")
    assert (await world.http.get(f"{one}/lifecycle")).json()["idle_seconds"] < 100


async def test_the_console_is_text_and_can_be_followed(
    world: World, wire: httpx2.AsyncClient, box: str
) -> None:
    console = world.folder / "host" / "v" / box / "console.log"
    console.write_bytes(b"one\ntwo\nthree\n")
    one = f"/v1/sandboxes/{box}/logs"
    plain = await world.http.get(one)
    assert plain.headers["content-type"].startswith("text/plain") and plain.text == "one\ntwo\nthree\n"
    assert (await world.http.get(f"{one}?tail=2&stream=stdout")).text == "two\nthree\n"
    assert (await world.http.get(f"{one}?tail=0")).text == ""
    assert (await world.http.get(f"{one}?stream=odd")).status_code == 400
    async with wire.stream("GET", f"{one}?follow=true") as stream, asyncio.timeout(10):
        seen = []
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
            if len(seen) == 4 and seen[-1] == {"line": "three\n"}:
                with console.open("ab") as more:
                    more.write(b"four\nfi")
            if len(seen) == 5:
                break
    assert seen == [{"path": "console.log"}] + [
        {"line": f"{word}\n"} for word in ("one", "two", "three", "four")
    ]


async def test_counters_are_those_of_the_machine_and_of_its_guest(world: World, box: str) -> None:
    path = f"/v1/sandboxes/{box}/metrics"
    await asyncio.sleep(0.05)  # the kernel tells ages in hundredths of a second, and a create is faster
    first = (await world.http.get(path)).json()
    assert first["pid"] > 0 and first["host_rss_bytes"] > 0 and first["threads"] >= 1
    assert first["uptime_seconds"] > 0 and first["guest"]["memory_total"] > 0
    assert first["private_dirty_bytes"] > 0
    second = (await world.http.get(path)).json()
    assert second["host_cpu_percent"] >= 0
    await world.http.post(f"/v1/sandboxes/{box}/pause")
    assert (await world.http.get(path)).json()["guest"] is None


async def test_the_audit_has_every_change_once(world: World, box: str) -> None:
    one = f"/v1/sandboxes/{box}"
    await world.exec(box, "true")
    await world.http.put(f"{one}/fs?path=/relative/../", content=b"")
    await world.http.post("/v1/sandboxes", json={"template": "none"})
    await world.http.get(one)
    await world.http.delete(one)
    audit = (await world.http.get("/v1/audit")).json()
    told = [(entry["method"], entry["path"], entry["status"]) for entry in reversed(audit["entries"])]
    assert told[0] == ("POST", "/v1/me/tokens", 200)
    assert told[1] == ("POST", "/v1/sandboxes", 201)
    assert ("POST", f"{one}/exec", 200) in told and ("POST", "/v1/sandboxes", 404) in told
    assert told.count(("DELETE", one, 204)) == 1
    assert not any(method == "GET" for method, _, _ in told)
    entry = next(entry for entry in audit["entries"] if entry["status"] == 201)
    assert entry["actor"] == "pds_00000000" and entry["meta"] == {"sandbox_id": box} and entry["request_id"]


@pytest.mark.parametrize(
    ("since", "status", "any_entries"),
    [
        ("2020-01-01T00:00:00Z", 200, True),
        ("1577836800", 200, True),
        ("2999-01-01T00:00:00Z", 200, False),
        ("yesterday", 400, False),
    ],
)
async def test_the_audit_is_asked_from_a_time_on(
    world: World, box: str, since: str, status: int, any_entries: bool
) -> None:
    answer = await world.http.get("/v1/audit", params={"since": since, "limit": "1"})
    assert answer.status_code == status
    if status == 200:
        assert len(answer.json()["entries"]) == int(any_entries)
