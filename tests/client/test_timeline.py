"""Timelines: what is sent for each verb, and what is made of the answers."""

from __future__ import annotations

import httpx2
import pytest

from pandastack import Diff, FileAt, FileChange, MissedStep, Point, PortAt, ProcessAt, Step
from pandastack.client import AsyncClient, AsyncSandbox

from .conftest import SANDBOX, Scripted
from .test_forks import SNAPSHOT, body, client, sandbox

__all__ = ["client", "sandbox"]

pytestmark = pytest.mark.anyio


async def test_checkpoints_are_asked_for_and_changed(client: AsyncClient, server: Scripted) -> None:
    server.answers(
        httpx2.Response(201, json={**SANDBOX, "checkpoints": "exec", "keep_checkpoints": 3}),
        httpx2.Response(200, json={"checkpoints": "off"}),
    )
    made = await client.sandboxes.create("base", checkpoints="exec", keep_checkpoints=3)
    assert body(server) == {"template": "base", "checkpoints": "exec", "keep_checkpoints": 3}
    assert (made.checkpoints, made.keep_checkpoints) == ("exec", 3)
    assert (await made.set_lifecycle(checkpoints="off"))["checkpoints"] == "off"
    assert body(server) == {"checkpoints": "off"}


async def test_a_timeline_is_a_list_of_steps(sandbox: AsyncSandbox, server: Scripted) -> None:
    first = {"step": 0, "snapshot_id": "a", "exit_code": None, "command": ""}
    second = {"step": 1, "snapshot_id": "b", "exit_code": 3, "command": "make", "pause_ms": 2.5, "new": 1}
    server.answers(httpx2.Response(200, json={"steps": [first, second]}))
    steps = await sandbox.timeline()
    assert server.path() == "GET /v1/sandboxes/s1/timeline"
    assert steps == [Step(0, "a"), Step(1, "b", command="make", exit_code=3, pause_ms=2.5)]


async def test_steps_that_are_missing_are_told(sandbox: AsyncSandbox, server: Scripted) -> None:
    missed = {"at": "then", "command": "make", "error": "no room", "new": 1}
    server.answers(httpx2.Response(200, json={"steps": [], "missing": [missed]}))
    assert await sandbox.missed_steps() == [MissedStep("then", "make", "no room")]


async def test_one_goes_on_from_a_step(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(*[httpx2.Response(201, json={**SANDBOX, "id": "s2", "parent_id": "s1"})] * 2)
    made = await sandbox.at(0)
    assert (server.path(), body(server)) == ("POST /v1/sandboxes/s1/at", {"step": 0})
    assert (made.id, made.parent_id) == ("s2", "s1")
    await sandbox.at(-1, metadata={"a": "b"}, ttl_seconds=9, persistent=True)
    assert body(server) == {"step": -1, "metadata": {"a": "b"}, "ttl_seconds": 9, "persistent": True}


async def test_a_rollback_names_a_snapshot_or_a_step(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(*[httpx2.Response(200, json=SANDBOX)] * 2)
    await sandbox.rollback("snap1")
    assert body(server) == {"snapshot_id": "snap1"}
    await sandbox.rollback(step=0)
    assert body(server) == {"step": 0}


async def test_a_snapshot_is_given_a_name(client: AsyncClient, server: Scripted) -> None:
    server.answers(httpx2.Response(200, json={**SNAPSHOT, "name": "good"}))
    assert (await client.snapshots.update("snap1", name="good"))["name"] == "good"
    assert (server.path(), body(server)) == ("PATCH /v1/snapshots/snap1", {"name": "good"})


async def test_a_diff_names_points_and_is_a_value(
    client: AsyncClient, sandbox: AsyncSandbox, server: Scripted
) -> None:
    answer = {
        "files": {
            "added": [{"path": "/a", "size": 1}],
            "removed": [],
            "changed": [{"path": "/b", "size_a": 1, "size_b": 2, "reason": "size"}],
        },
        "processes": {"started": [{"pid": 7, "command": "x"}], "ended": []},
        "ports": {"opened": [{"port": 80, "address": "::"}], "closed": []},
        "truncated": True,
    }
    server.answers(httpx2.Response(200, json=answer), *[httpx2.Response(200, json={})] * 2)
    found = await client.diff("s1@-1", sandbox, path="/srv", limit=5)
    assert server.path() == "POST /v1/diff"
    assert body(server) == {
        "a": {"sandbox_id": "s1", "step": -1},
        "b": {"sandbox_id": "s1"},
        "path": "/srv",
        "limit": 5,
    }
    assert (found.added, found.removed) == ((FileAt("/a", 1),), ())
    assert found.changed == (FileChange("/b", 1, 2, "size"),)
    assert (found.started, found.opened) == ((ProcessAt(7, "x"),), (PortAt(80, "::"),))
    assert found.truncated
    assert await sandbox.diff(Point(snapshot_id="snap1")) == Diff()
    assert body(server) == {"a": {"sandbox_id": "s1"}, "b": {"snapshot_id": "snap1"}, "path": "/"}
    await client.diff("s1", "s2@0")
    assert body(server) == {"a": {"sandbox_id": "s1"}, "b": {"sandbox_id": "s2", "step": 0}, "path": "/"}
    with pytest.raises(ValueError, match="A step is a number"):
        await client.diff("s1@last", "s2")
