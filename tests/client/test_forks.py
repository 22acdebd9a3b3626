"""Snapshots, forks and sleep: what is sent for each verb, and what is made of the answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

import pandastack
from pandastack.client import AsyncClient, AsyncConnection, AsyncSandbox, Settings

from .conftest import NOWHERE, SANDBOX, Scripted

pytestmark = pytest.mark.anyio

PROOF = {"origin": "snap1", "entropy_bytes": 64, "boot_id": "b", "gate_ms": 3.5}
CHILD = {**SANDBOX, "id": "c0", "parent_id": "s1", "restore_proof": PROOF, "metadata": {"fork_index": "0"}}
SNAPSHOT = {
    "id": "snap1",
    "sandbox_id": "s1",
    "template": "base",
    "size_bytes": 5,
    "created_at": "2026-01-01",
}


@pytest.fixture
async def client(server: Scripted) -> AsyncIterator[AsyncClient]:
    made = AsyncClient("http://h:1", "pds_key", transport=httpx2.MockTransport(server), surroundings=NOWHERE)
    async with made:
        yield made


@pytest.fixture
def sandbox(client: AsyncClient) -> AsyncSandbox:
    return AsyncSandbox.from_dict(SANDBOX, client)


def body(server: Scripted, index: int = -1) -> object:
    """What a request carried; nothing is None."""
    content = server.asked[index].content
    return json.loads(content) if content else None


async def test_a_snapshot_is_an_id(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(*[httpx2.Response(201, json=SNAPSHOT)] * 2)
    assert await sandbox.snapshot() == "snap1"
    assert (server.path(), body(server)) == ("POST /v1/sandboxes/s1/snapshots", None)
    assert len(server.asked[-1].headers["idempotency-key"]) == 32
    await sandbox.snapshot("warm", "loaded")
    assert body(server) == {"name": "warm", "comment": "loaded"}


async def test_snapshots_are_listed_and_removed(client: AsyncClient, server: Scripted) -> None:
    server.answers(
        httpx2.Response(201, json=SNAPSHOT),
        *[httpx2.Response(200, json={"snapshots": [SNAPSHOT]})] * 2,
        httpx2.Response(200, json=[SNAPSHOT]),
        httpx2.Response(200, json=SNAPSHOT),
        httpx2.Response(204),
        httpx2.Response(404, json={"error": "no", "code": "snapshot.not_found"}),
    )
    assert (await client.snapshots.create("s1", name="n"))["id"] == "snap1"
    assert [each["id"] for each in await client.snapshots.list()] == ["snap1"]
    assert server.path() == "GET /v1/snapshots"
    await client.snapshots.list(sandbox_id="s1")
    assert server.path() == "GET /v1/snapshots?sandbox_id=s1"
    assert len(await client.snapshots.list()) == 1
    assert (await client.snapshots.get("snap1"))["size_bytes"] == 5
    await client.snapshots.delete("snap1")
    assert server.path() == "DELETE /v1/snapshots/snap1"
    with pytest.raises(pandastack.NotFoundError):
        await client.snapshots.get("snap1")


async def test_a_create_goes_on_from_a_snapshot(client: AsyncClient, server: Scripted) -> None:
    server.answers(httpx2.Response(201, json={**CHILD, "from_snapshot": "snap1", "on_timeout": "hibernate"}))
    made = await client.sandboxes.create(
        from_snapshot="snap1", on_timeout="hibernate", idle_timeout_seconds=9, lifetime_seconds=None
    )
    assert body(server) == {
        "template": "code-interpreter",
        "from_snapshot": "snap1",
        "on_timeout": "hibernate",
        "idle_timeout_seconds": 9,
    }
    assert (made.from_snapshot, made.on_timeout) == ("snap1", "hibernate")
    assert made.restore_proof is not None
    assert made.restore_proof["entropy_bytes"] == 64
    assert json.loads(json.dumps(made.to_dict()))["restore_proof"] == PROOF


async def test_a_fork_is_a_sandbox(client: AsyncClient, sandbox: AsyncSandbox, server: Scripted) -> None:
    answer = {
        "parent_id": "s1",
        "snapshot_id": "f",
        "children": ["c0"],
        "sandbox": CHILD,
        "sandboxes": [CHILD],
    }
    server.answers(*[httpx2.Response(201, json=answer)] * 2, httpx2.Response(201, json={"children": ["c9"]}))
    child = await sandbox.fork()
    assert (server.path(), body(server)) == ("POST /v1/sandboxes/s1/fork", None)
    assert len(server.asked[-1].headers["idempotency-key"]) == 32
    assert (child.id, child.parent_id, child.boot_ms, child.metadata["fork_parent_id"]) == (
        "c0",
        "s1",
        42,
        "s1",
    )
    await sandbox.fork({"a": "b"}, ttl_seconds=7, persistent=True)
    assert body(server) == {"metadata": {"a": "b"}, "ttl_seconds": 7, "persistent": True}
    bare = await client.sandboxes.fork("s1", {"a": "b"}, ttl_seconds=7)
    assert (bare.id, bare.status, bare.parent_id) == ("c9", "running", "s1")
    assert body(server) == {"metadata": {"a": "b"}, "ttl_seconds": 7}


async def test_a_fork_tree_keeps_order_and_errors(sandbox: AsyncSandbox, server: Scripted) -> None:
    last = {**CHILD, "id": "c2", "metadata": {"fork_index": "2", "fork_tree_id": "t"}}
    failure = {"index": 1, "err": "old", "error": "There is no room.", "code": "capacity.unavailable"}
    server.answers(
        httpx2.Response(
            201, json={"tree_id": "t", "snapshot_id": "f", "children": [CHILD, last], "errors": [failure]}
        )
    )
    tree = await sandbox.fork_tree(3, {"a": "b"})
    assert server.path() == "POST /v1/sandboxes/s1/fork-tree"
    assert body(server) == {"count": 3, "metadata": {"a": "b"}}
    assert isinstance(tree, list)
    assert [child.id for child in tree] == ["c0", "c2"]
    assert (tree.tree_id, tree.snapshot_id) == ("t", "f")
    assert tree.errors == [{"index": 1, "error": "There is no room.", "code": "capacity.unavailable"}]


async def test_a_refused_fork_is_sent_again(server: Scripted) -> None:
    connection = AsyncConnection(
        Settings("http://h:1", "k"), transport=httpx2.MockTransport(server), jitter=lambda cap: 0.0
    )
    full = httpx2.Response(503, headers={"retry-after": "0"}, json={"error": "full"})
    server.answers(full, httpx2.Response(201, json={"tree_id": "t", "children": [CHILD]}))
    tree = await AsyncClient.over(connection).sandboxes.fork_tree("s1", 2, persistent=True)
    assert len(tree) == 1
    assert body(server) == {"count": 2, "persistent": True}
    assert len({request.headers["idempotency-key"] for request in server.asked}) == 1
    await connection.aclose()


async def test_a_promotion(client: AsyncClient, sandbox: AsyncSandbox, server: Scripted) -> None:
    told = {"winner": "s1", "tree_id": "t", "deleted": ["c2"], "failures": {}}
    server.answers(*[httpx2.Response(200, json=told)] * 2)
    assert await sandbox.promote() == told
    assert (server.path(), body(server)) == ("POST /v1/sandboxes/s1/promote", {"cleanup_siblings": False})
    await client.sandboxes.promote("s1", cleanup_siblings=True, tree_id="t")
    assert body(server) == {"cleanup_siblings": True, "tree_id": "t"}


async def test_a_rollback_takes_over_what_is_told(sandbox: AsyncSandbox, server: Scripted) -> None:
    told = {**SANDBOX, "status": "running", "from_snapshot": "snap1"}
    server.answers(*[httpx2.Response(200, json=told)] * 2)
    await sandbox.rollback("snap1", disk_only=True)
    assert body(server) == {"snapshot_id": "snap1", "disk_only": True}
    assert await sandbox.rollback("snap1") is sandbox
    assert (server.path(), body(server)) == ("POST /v1/sandboxes/s1/rollback", {"snapshot_id": "snap1"})
    assert sandbox.from_snapshot == "snap1"


Verb = Callable[[AsyncSandbox], Any]


@pytest.mark.parametrize(
    ("verb", "line", "sent"),
    [
        (lambda sandbox: sandbox.hibernate(), "POST hibernate", None),
        (lambda sandbox: sandbox.wake(), "POST wake", None),
        (lambda sandbox: sandbox.wake(disk_only=True), "POST wake", {"disk_only": True}),
        (lambda sandbox: sandbox.pause(), "POST pause", None),
        (lambda sandbox: sandbox.resume(), "POST resume", None),
        (lambda sandbox: sandbox.why_awake(), "GET why-awake", None),
        (lambda sandbox: sandbox.tree(), "GET tree", None),
        (lambda sandbox: sandbox.set_ttl(9), "PATCH lifecycle", {"ttl_seconds": 9}),
        (
            lambda sandbox: sandbox.set_lifecycle(on_timeout="hibernate", lifetime_seconds=None),
            "PATCH lifecycle",
            {"on_timeout": "hibernate", "lifetime_seconds": None},
        ),
    ],
)
async def test_a_verb(sandbox: AsyncSandbox, server: Scripted, verb: Verb, line: str, sent: object) -> None:
    server.answers(httpx2.Response(200, json={"status": "told"}))
    await verb(sandbox)
    method, word = line.split()
    assert (server.path(), body(server)) == (f"{method} /v1/sandboxes/s1/{word}", sent)


async def test_persistence_is_remembered(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(httpx2.Response(200, json={"persistent": True}), httpx2.Response(200, json={}))
    await sandbox.set_lifecycle(persistent=True)
    assert sandbox.persistent
    await sandbox.set_ttl(5)
    assert sandbox.persistent
