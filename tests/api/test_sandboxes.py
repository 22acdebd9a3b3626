"""The life of a sandbox over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from tests.api.conftest import World

pytestmark = pytest.mark.anyio

ALL = "/v1/sandboxes"


async def test_a_created_sandbox_runs_and_is_the_value_of_the_wire(world: World) -> None:
    made = await world.create(metadata={"k": "v", "secret.x": "hidden"}, ttl_seconds=77)
    assert made["status"] == made["state"] == "running"
    assert made["template"] == "base" and made["isolation"] == "none"
    assert made["degraded"] is None
    assert isinstance(made["boot_ms"], int) and made["phases_ms"]
    assert made["ttl_seconds"] == 77 and made["persistent"] is False
    assert made["metadata"] == {"k": "v", "secret.x": "[redacted]"}
    got = await world.http.get(f"{ALL}/{made['id']}")
    assert got.json() == made
    assert (await world.http.get(ALL)).json() == [made]


async def test_an_empty_body_makes_the_default_template(http: httpx2.AsyncClient) -> None:
    answer = await http.post(ALL, headers={"content-type": "application/json"})
    assert answer.status_code == 201
    assert answer.json()["template"] == "code-interpreter"


async def test_a_list_is_narrowed_by_state_and_template(world: World, box: str) -> None:
    await world.create(template="code-interpreter")
    for query, count in (("", 2), ("?template=base", 1), ("?state=running", 2), ("?state=paused", 0)):
        assert len((await world.http.get(ALL + query)).json()) == count
    assert (await world.http.get(f"{ALL}?state=odd")).status_code == 400


async def test_a_deleted_sandbox_is_gone_and_its_end_can_be_asked_for(world: World, box: str) -> None:
    assert (await world.http.delete(f"{ALL}/{box}")).status_code == 204
    assert world.host.vms.reports() == []
    gone = await world.http.get(f"{ALL}/{box}")
    assert gone.status_code == 404 and "deleted by its owner" in gone.json()["error"]
    assert (await world.http.get(ALL)).json() == []
    assert (await world.http.delete(f"{ALL}/{box}")).status_code == 404
    remembered = (await world.http.get(f"{ALL}/{box}?deleted=1")).json()
    assert remembered["status"] == "deleted" and remembered["cause"] == "deleted by its owner"
    assert [event["type"] for event in await world.events(box)] == ["sandbox.running", "sandbox.deleted"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"template": "nope"}, 404, "this server has base, code-interpreter"),
        ({"template": 3}, 400, "`template` does not fit"),
        ({"tempate": "base"}, 400, "did you mean 'template'"),
        ({"ttl_seconds": -1}, 400, "ttl_seconds is 0 to"),
        ({"ttl_seconds": "5"}, 400, "`ttl_seconds`"),
        ({"metadata": {"a": 1}}, 400, "`metadata"),
        ({"metadata": {"a": "x" * 20_000}}, 400, "16384 bytes"),
        ({"cpu": 64}, 400, "cpu is 1 to 8; got 64"),
        ({"vcpus": 0}, 400, "cpu is 1 to 8; got 0"),
        ({"memory_mb": 99_999}, 400, "memory_mb is 1 to 16384; got 99999"),
        ({"disk_gb": 1000}, 400, "disk_gb is 1 to 64; got 1000"),
        ({"env": {"A=B": "c"}}, 400, "env has 'A=B'"),
        ({"from_snapshot": "s"}, 404, "There is no snapshot s"),
        ({"lifetime_seconds": 0}, 400, "`lifetime_seconds`"),
        ({"on_timeout": "explode"}, 400, "`on_timeout`"),
        ({"volumes": [{"name": "v"}]}, 404, "no volume 'v'"),
        ({"volumes": [{"name": "v", "path": "/proc/x"}]}, 400, "the machine needs"),
        ({"volumes": [{"name": "v", "path": "/a/../etc"}]}, 400, "without `..`"),
        ({"volumes": [{"name": "v"}, {"name": "v", "path": "/b"}]}, 400, "asked for twice"),
        ({"volumes": [{"name": "v"}], "checkpoints": "exec"}, 400, "leave checkpoints or volumes out"),
        ([], 400, "expected `object`"),
    ],
)
async def test_what_cannot_be_made_is_refused_by_field(
    http: httpx2.AsyncClient, body: object, status: int, words: str
) -> None:
    answer = await http.post(ALL, json=body)
    assert answer.status_code == status
    assert words in answer.json()["error"] and isinstance(answer.json()["code"], str)
    assert (await http.get("/v1/quotas")).json()["used"]["sandboxes"] == 0


async def test_sizes_equal_to_the_templates_are_fine(world: World) -> None:
    assert (await world.create(cpu=1, vcpus=1, memory_mb=512))["cpu"] == 1


async def test_a_body_that_is_too_large_is_refused(http: httpx2.AsyncClient) -> None:
    answer = await http.post(ALL, content=b'{"metadata":{"a":"' + b"x" * (1 << 20) + b'"}}')
    assert answer.status_code == 413 and "1048576" in answer.json()["error"]


async def test_the_environment_reaches_every_command_and_no_answer(world: World) -> None:
    made = await world.create(env={"PLANET": "earth"})
    assert "env" not in made
    assert (await world.exec(made["id"], "echo $PLANET"))["stdout"] == "earth\n"


async def test_pause_and_resume_can_be_said_twice(world: World, box: str) -> None:
    one = f"{ALL}/{box}"
    for _ in range(2):
        assert (await world.http.post(f"{one}/pause")).status_code == 204
        assert (await world.http.get(one)).json()["status"] == "paused"
    refused = await world.http.post(f"{one}/exec", json={"cmd": "true"})
    assert refused.status_code == 409 and "resume it first" in refused.json()["error"]
    for _ in range(2):
        assert (await world.http.post(f"{one}/resume")).status_code == 204
        assert (await world.http.get(one)).json()["status"] == "running"
    assert (await world.exec(box, "true"))["exit_code"] == 0
    types = [event["type"] for event in await world.events(box)]
    assert types == ["sandbox.running", "sandbox.paused", "sandbox.resumed"]


async def test_a_paused_sandbox_can_be_deleted(world: World, box: str) -> None:
    await world.http.post(f"{ALL}/{box}/pause")
    assert (await world.http.delete(f"{ALL}/{box}")).status_code == 204


async def test_lifecycle_is_read_and_changed(world: World, box: str) -> None:
    path = f"{ALL}/{box}/lifecycle"
    assert (await world.http.get(path)).json() == {
        "ttl_seconds": 300,
        "persistent": False,
        "idle_seconds": 0,
        "idle_timeout_seconds": None,
        "on_timeout": "kill",
        "lifetime_seconds": None,
        "expires_at": None,
        "checkpoints": "off",
        "keep_checkpoints": 20,
    }
    changed = await world.http.patch(path, json={"ttl_seconds": 5})
    assert changed.json()["ttl_seconds"] == 5
    assert (await world.http.patch(path, json={"persistent": True})).json()["persistent"] is True
    assert (await world.http.get(f"{ALL}/{box}")).json()["ttl_seconds"] == 5
    assert (await world.http.patch(path, json={"lifetime_seconds": 600})).json()["lifetime_seconds"] == 600
    for wrong in (-1, 400 * 86_400, 1 << 63):
        assert (await world.http.patch(path, json={"ttl_seconds": wrong})).status_code == 400
    assert (await world.http.patch(path)).status_code == 200


async def test_metadata_is_merged(world: World) -> None:
    made = await world.create(metadata={"a": "1", "b": "2"})
    merged = await world.http.post(f"{ALL}/{made['id']}/metadata", json={"b": "3", "secret.c": "4"})
    assert merged.json()["metadata"] == {"a": "1", "b": "3", "secret.c": "[redacted]"}
    assert (await world.http.post(f"{ALL}/{made['id']}/metadata", json={"a": 1})).status_code == 400


async def test_metadata_that_is_merged_at_once_is_all_there(world: World, box: str) -> None:
    each = [world.http.post(f"{ALL}/{box}/metadata", json={str(n): "x"}) for n in range(10)]
    assert {answer.status_code for answer in await asyncio.gather(*each)} == {200}
    kept = (await world.http.get(f"{ALL}/{box}")).json()["metadata"]
    assert kept == {str(n): "x" for n in range(10)}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("GET", "/lifecycle"),
        ("PATCH", "/lifecycle"),
        ("POST", "/metadata"),
        ("GET", "/why-awake"),
        ("GET", "/tree"),
        ("GET", "/snapshots"),
        ("POST", "/snapshots"),
        ("POST", "/fork"),
        ("POST", "/fork-tree"),
        ("POST", "/promote"),
        ("POST", "/hibernate"),
        ("POST", "/stop"),
        ("POST", "/wake"),
        ("POST", "/start"),
        ("GET", "/metrics"),
        ("GET", "/logs"),
        ("GET", "/logs?follow=1"),
        ("GET", "/events"),
        ("GET", "/events?follow=true"),
        ("GET", "/processes"),
        ("GET", "/fs?path=/x"),
        ("HEAD", "/fs?path=/x"),
        ("PUT", "/fs?path=/x"),
        ("GET", "/fs/dir"),
        ("GET", "/fs/stat?path=/x"),
        ("GET", "/fs/watch?path=/x"),
        ("DELETE", "/fs?path=/x"),
    ],
)
async def test_an_unknown_sandbox_is_404_everywhere(http: httpx2.AsyncClient, method: str, path: str) -> None:
    answer = await http.request(method, f"{ALL}/nobody{path}")
    assert answer.status_code == 404
    if method != "HEAD":
        assert answer.json()["code"] == "sandbox.not_found"


async def test_a_key_makes_one_sandbox_however_often_it_comes(world: World) -> None:
    headers = {"idempotency-key": "k1"}
    body = {"template": "base", "ttl_seconds": 9}
    first = await world.http.post(ALL, json=body, headers=headers)
    assert "idempotent-replayed" not in first.headers
    again = await world.http.post(ALL, json=body, headers=headers)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json() == first.json()
    other = await world.http.post(ALL, json={"template": "base"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency.mismatch")
    assert len((await world.http.get(ALL)).json()) == 1


async def test_a_key_used_at_the_same_time_makes_one_sandbox(world: World) -> None:
    headers = {"idempotency-key": "k1"}
    answers = await asyncio.gather(*(world.http.post(ALL, headers=headers) for _ in range(6)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(world.host.vms.reports()) == 1


async def test_a_key_of_a_refused_create_can_be_used_again(world: World) -> None:
    headers = {"idempotency-key": "k1"}
    assert (await world.http.post(ALL, json={"template": "nope"}, headers=headers)).status_code == 404
    assert (await world.http.post(ALL, json={"template": "base"}, headers=headers)).status_code == 201


async def test_twenty_creates_at_once_all_succeed(world: World) -> None:
    answers = await asyncio.gather(*(world.http.post(ALL) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 20
    deleted = await asyncio.gather(*(world.http.delete(f"{ALL}/{answer.json()['id']}") for answer in answers))
    assert {answer.status_code for answer in deleted} == {204}
    assert world.host.vms.reports() == []


async def test_a_quota_holds_however_many_ask_at_once(idle_world: World) -> None:
    await idle_world.start(quota_sandboxes=3)
    answers = await asyncio.gather(*(idle_world.http.post(ALL) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [429] * 7
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "retry-after" not in refused.headers and "max sandboxes reached" in refused.json()["error"]
    assert (await idle_world.http.get("/v1/quotas")).json()["used"]["sandboxes"] == 3
    made = next(answer.json()["id"] for answer in answers if answer.status_code == 201)
    await idle_world.http.delete(f"{ALL}/{made}")
    assert (await idle_world.http.post(ALL)).status_code == 201


async def test_a_line_that_is_too_long_says_when_to_come_again(idle_world: World) -> None:
    await idle_world.start(concurrent_creates=1, queue_seconds=0.001)
    answers = await asyncio.gather(*(idle_world.http.post(ALL) for _ in range(5)))
    refused = [answer for answer in answers if answer.status_code != 201]
    assert refused and {answer.status_code for answer in refused} == {503}
    assert all(answer.headers["retry-after"] and answer.json()["retryable"] for answer in refused)
    used = (await idle_world.http.get("/v1/quotas")).json()["used"]["sandboxes"]
    assert used == 5 - len(refused)


async def test_boots_are_counted_and_grouped(world: World) -> None:
    for template in ("base", "base", "code-interpreter"):
        await world.create(template=template)
    stats: dict[str, Any] = (await world.http.get("/v1/stats/boot?limit=2")).json()
    assert stats["total_samples"] == stats["overall"]["count"] == 3
    assert {name: figures["count"] for name, figures in stats["by_template"].items()} == {
        "base": 2,
        "code-interpreter": 1,
    }
    assert [boot["template"] for boot in stats["recent"]] == ["code-interpreter", "base"]
    assert stats["overall"]["min_ms"] <= stats["overall"]["p50_ms"] <= stats["overall"]["max_ms"]
    assert (await world.http.get("/v1/stats/boot?limit=0")).status_code == 400
