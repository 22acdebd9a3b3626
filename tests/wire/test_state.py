"""State with our SDK: what snapshots, forks and sleep have beyond the official one."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime

import pytest

import pandastack
from pandastack import AsyncSandbox, Client, Sandbox

from .conftest import Server

pytestmark = [pytest.mark.anyio, pytest.mark.wire, pytest.mark.timeout(180, func_only=True)]


def test_a_snapshot_has_a_name(client: Client, sandbox: Sandbox) -> None:
    made = client.snapshots.create(sandbox.id, name="warm", comment="loaded and ready")
    assert (made["name"], made["comment"], made["kind"], made["state"]) == (
        "warm",
        "loaded and ready",
        "user",
        "ready",
    )
    assert (made["cpu"], made["memory_mb"]) == (sandbox.cpu, sandbox.memory_mb)
    assert made["pause_ms"] >= 0
    assert client.snapshots.get(made["id"]) == made
    with client.sandboxes.create(from_snapshot=made["id"]) as child:
        second = client.snapshots.get(child.snapshot("second"))
        assert second["parent_id"] == made["id"]
        client.snapshots.delete(made["id"])
        with client.sandboxes.create(from_snapshot=second["id"]) as grandchild:
            assert grandchild.exec("echo whole").stdout == "whole\n"
        client.snapshots.delete(second["id"])
    with pytest.raises(pandastack.BadRequestError):
        client.snapshots.create(sandbox.id, name="x" * 129)


def test_a_restore_is_proved(client: Client, server: Server, sandbox: Sandbox) -> None:
    first, second = sandbox.fork_tree(2)
    with first, second:
        proofs = [each.refresh().restore_proof for each in (sandbox, first, second)]
        told = [proof for proof in proofs if proof is not None]
        assert len(told) == 3
        assert told[0]["origin"] == "template"
        assert told[1]["origin"] == told[2]["origin"] != "template"
        if server.driver != "process":  # which has nothing of its own to renew
            assert all(proof["entropy_bytes"] >= 32 for proof in told)
            assert len({proof["boot_id"] for proof in told}) == 3
            assert len({proof["machine_id"] for proof in told}) == 3
            assert len({proof["hostname"] for proof in told}) == 3


def test_relatives_are_known(client: Client, sandbox: Sandbox) -> None:
    taken = sandbox.snapshot()
    with (
        client.sandboxes.create(from_snapshot=taken) as copy,
        sandbox.fork() as child,
        child.fork() as grandchild,
    ):
        assert (child.parent_id, grandchild.parent_id) == (sandbox.id, child.id)
        told = [each.tree() for each in (sandbox, copy, child, grandchild)]
        assert {lineage["root"] for lineage in told} == {sandbox.id}
        parents = {node["id"]: node["parent_id"] for node in told[3]["nodes"]}
        assert parents == {
            sandbox.id: None,
            copy.id: sandbox.id,
            child.id: sandbox.id,
            grandchild.id: child.id,
        }
        assert {node["status"] for node in told[0]["nodes"]} == {"running"}
    after = {node["id"]: node["status"] for node in sandbox.tree()["nodes"]}
    assert after[child.id] == "deleted"
    client.snapshots.delete(taken)


def test_a_rollback_keeps_the_id(client: Client, server: Server, sandbox: Sandbox, directory: str) -> None:
    sandbox.files.write(f"{directory}/file", "before")
    taken = sandbox.snapshot()
    if server.driver != "process":  # whose files are those of this machine
        sandbox.files.write(f"{directory}/file", "after")
    before = sandbox.id
    assert sandbox.rollback(taken).id == before
    assert sandbox.status == "running"
    assert sandbox.files.read_text(f"{directory}/file") == "before"
    assert "sandbox.rolled_back" in [event.type for event in sandbox.events()]
    with client.sandboxes.create("base") as stranger, pytest.raises(pandastack.BadRequestError):
        stranger.rollback(taken)
    with pytest.raises(pandastack.NotFoundError):
        sandbox.rollback("no-such-snapshot")
    client.snapshots.delete(taken)


def test_time_limits_are_told_and_changed(client: Client) -> None:
    with client.sandboxes.create("base", on_timeout="hibernate", lifetime_seconds=600) as sandbox:
        assert sandbox.on_timeout == "hibernate"
        assert sandbox.expires_at is not None
        told = sandbox.set_lifecycle(persistent=True, idle_timeout_seconds=300, lifetime_seconds=None)
        assert (told["persistent"], told["idle_timeout_seconds"], told["expires_at"]) == (True, 300, None)
        fresh = client.sandboxes.get(sandbox.id)
        assert (fresh.persistent, fresh.idle_timeout_seconds, fresh.expires_at) == (True, 300, None)
        assert sandbox.set_lifecycle(idle_timeout_seconds=None)["idle_timeout_seconds"] is None
        with pytest.raises(pandastack.BadRequestError):
            sandbox.set_lifecycle(on_timeout="dance")
        sandbox.set_persistent(False)


def test_a_lifetime_ends_whatever_is_done(client: Client) -> None:
    sandbox = client.sandboxes.create("base", lifetime_seconds=2)
    assert sandbox.expires_at is not None
    assert datetime.fromisoformat(sandbox.expires_at).tzinfo is not None
    deadline = time.monotonic() + 60
    with pytest.raises(pandastack.PandastackError):
        while time.monotonic() < deadline:
            sandbox.exec("sleep 0.2")
    with pytest.raises(pandastack.NotFoundError):
        while time.monotonic() < deadline:
            sandbox.refresh()


def test_idling_may_be_sleep(client: Client) -> None:
    sandbox = client.sandboxes.create("base", ttl_seconds=2, on_timeout="hibernate")
    deadline = time.monotonic() + 60
    while sandbox.refresh().status != "hibernated":
        assert time.monotonic() < deadline
        time.sleep(0.3)
    assert sandbox.exec("echo back").stdout == "back\n"
    assert [event.type for event in sandbox.events()].count("sandbox.woken") == 1
    sandbox.kill()


def test_what_keeps_a_sandbox_up_is_told(sandbox: Sandbox) -> None:
    with sandbox.commands.start(["sleep", "30"]), sandbox.terminal(cmd="cat"):
        told = sandbox.why_awake()
        assert (told["status"], told["awake"]) == ("running", True)
        assert "terminal" in {reason["kind"] for reason in told["reasons"]}
    sandbox.hibernate()
    asleep = sandbox.why_awake()
    assert (asleep["status"], asleep["awake"], asleep["reasons"]) == ("hibernated", False, [])
    assert sandbox.refresh().status == "hibernated"


async def test_many_who_wake_wake_once(async_sandbox: AsyncSandbox) -> None:
    await async_sandbox.hibernate()
    async with asyncio.TaskGroup() as group:
        for _ in range(90):
            group.create_task(async_sandbox.wake())
        tasks = [group.create_task(async_sandbox.exec(f"echo {n}")) for n in range(10)]
    assert [task.result().stdout for task in tasks] == [f"{n}\n" for n in range(10)]
    types = [event.type async for event in async_sandbox.events()]
    assert types.count("sandbox.woken") == 1


async def test_sixteen_children_answer(async_sandbox: AsyncSandbox) -> None:
    tree = await async_sandbox.fork_tree(16, ttl_seconds=120)
    assert (len(tree), tree.errors) == (16, [])
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(child.exec(f"echo {n}")) for n, child in enumerate(tree)]
    assert [task.result().stdout for task in tasks] == [f"{n}\n" for n in range(16)]
    assert {child.tree_id for child in tree} == {tree.tree_id}
    result = await tree[7].promote(cleanup_siblings=True)
    assert len(result["deleted"]) == 15
    assert (await tree[7].refresh()).tree_id is None
    await tree[7].kill()


async def test_attempts_are_made_side_by_side(async_sandbox: AsyncSandbox) -> None:
    began = time.monotonic()
    result = await async_sandbox.explore(["sleep 2; echo a", "sleep 2; echo b", "sleep 2; exit 1"])
    took = time.monotonic() - began
    assert result.winner is not None
    assert result.winner_outcome is not None
    assert result.winner_outcome.stdout_tail == "a\n"
    assert took < 3 * 2 + 10
    await result.winner.kill()
