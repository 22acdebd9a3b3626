"""Rows of snapshots, and of what sandboxes owe to them."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from pandastack.model.account import Limits, Usage
from pandastack.model.restore import RestoreProof
from pandastack.model.sandbox import Isolation, OnTimeout, SandboxState
from pandastack.model.snapshot import MOVES, Snapshot, SnapshotKind, SnapshotState
from pandastack.store import accounts, sandboxes, snapshots
from pandastack.store.db import Connection, Database
from tests.store.conftest import NOON, sandbox

pytestmark = pytest.mark.anyio

FREE = Limits(None, None, None)


def snapshot(snapshot_id: str, **values: Any) -> Snapshot:  # noqa: ANN401  # the fields of a Snapshot
    fixed = {"sandbox_id": "a", "workspace": "w", "template": "base", "cpu": 2, "memory_mb": 512}
    more = {"kind": SnapshotKind.USER, "state": SnapshotState.CREATING, "created_at": NOON}
    return Snapshot(snapshot_id, **{**fixed, **more, "host": "h", "isolation": Isolation.NONE, **values})


async def insert(database: Database, *rows: Snapshot) -> None:
    def transaction(connection: Connection) -> None:
        for row in rows:
            snapshots.insert(connection, row)

    await database.write(transaction)


async def test_a_row_is_the_value_that_was_written(database: Database) -> None:
    row = snapshot("s", name="ü", comment="c", parent_id="p", size_bytes=1 << 40, phases_ms={"disk": 1.5})
    await insert(database, row)
    assert await database.read(partial(snapshots.find, snapshot_id="s", workspace="w")) == row
    assert await database.read(partial(snapshots.find, snapshot_id="s", workspace="v")) is None


async def test_what_a_sandbox_owes_to_a_snapshot_is_kept(database: Database) -> None:
    row = sandbox(
        "a",
        from_snapshot="s",
        parent_id="p",
        tree_id="t",
        snapshot_id="h",
        on_timeout=OnTimeout.HIBERNATE,
        idle_timeout_seconds=5,
        lifetime_seconds=6,
        used_seconds=1.25,
        awake_since=NOON,
        restore_proof=RestoreProof(origin="s", entropy_bytes=64, hooks_failed=["x"]),
    )
    await database.write(partial(sandboxes.insert, sandbox=row, limits=FREE))
    assert await database.read(partial(sandboxes.find, sandbox_id="a")) == row


async def test_a_snapshot_is_published_once_with_what_is_known_by_then(database: Database) -> None:
    await insert(database, snapshot("s"))
    whole = snapshot("s", size_bytes=7, pause_ms=1.5, phases_ms={"disk": 1.0})
    assert await database.write(partial(snapshots.publish, snapshot=whole))
    found = await database.read(partial(snapshots.find, snapshot_id="s"))
    assert found == snapshot(
        "s", state=SnapshotState.READY, size_bytes=7, pause_ms=1.5, phases_ms={"disk": 1.0}
    )
    assert not await database.write(partial(snapshots.publish, snapshot=whole))


@pytest.mark.parametrize("state", SnapshotState)
@pytest.mark.parametrize("to", SnapshotState)
async def test_only_legal_moves_are_made(database: Database, state: SnapshotState, to: SnapshotState) -> None:
    await insert(database, snapshot("s", state=state))
    moved = await database.write(partial(snapshots.move, snapshot_id="s", to=to))
    assert moved == (to in MOVES[state])


async def test_doomed_are_the_ready_ones_of_a_kind_but_one(database: Database) -> None:
    asleep = {"kind": SnapshotKind.HIBERNATION, "state": SnapshotState.READY}
    await insert(
        database,
        snapshot("old", **asleep),
        snapshot("new", **asleep),
        snapshot("half", kind=SnapshotKind.HIBERNATION),
        snapshot("mine", state=SnapshotState.READY),
        snapshot("other", sandbox_id="b", **asleep),
    )
    doom = partial(snapshots.doom, sandbox_id="a", kind=SnapshotKind.HIBERNATION)
    assert await database.write(partial(doom, but="new")) == ["old"]
    assert await database.write(doom) == ["new"]
    assert await database.write(doom) == []


async def test_a_row_is_forgotten_in_the_states_that_are_meant(database: Database) -> None:
    await insert(database, snapshot("s"))
    forget = partial(snapshots.forget, snapshot_id="s")
    assert not await database.write(partial(forget, states=[SnapshotState.READY]))
    assert await database.write(partial(forget, states=[SnapshotState.CREATING]))
    assert await database.read(snapshots.listing) == []


async def test_what_is_held_is_counted_by_name_and_by_size(database: Database) -> None:
    await insert(
        database,
        snapshot("s", size_bytes=3),
        snapshot("h", kind=SnapshotKind.HIBERNATION, size_bytes=4),
        snapshot("v", workspace="v", size_bytes=5),
    )
    assert await database.read(partial(snapshots.held, workspace="w")) == (1, 7)
    assert await database.read(partial(snapshots.held, workspace="none")) == (0, 0)


async def test_a_list_is_narrowed_and_newest_first(database: Database) -> None:
    later = NOON + timedelta(seconds=1)
    rows = snapshot("s1"), snapshot("s2", created_at=later), snapshot("s3", sandbox_id="b")
    await insert(database, *rows, snapshot("x", workspace="v"))
    listing = partial(snapshots.listing, workspace="w")
    assert [row.id for row in await database.read(listing)] == ["s2", "s1", "s3"]
    assert [row.id for row in await database.read(partial(listing, sandbox_id="b"))] == ["s3"]


async def test_sleep_gives_a_share_back_and_waking_takes_it_again(database: Database) -> None:
    await database.write(partial(sandboxes.insert, sandbox=sandbox("a"), limits=FREE))
    for state, count in (
        (SandboxState.RUNNING, 1),
        (SandboxState.HIBERNATED, 0),
        (SandboxState.RUNNING, 1),
        (SandboxState.FAILED, 0),
        (SandboxState.RUNNING, 1),
    ):
        await database.write(partial(sandboxes.move, sandbox_id="a", to=state))
        usage = await database.read(partial(accounts.usage, workspace="w"))
        assert usage == Usage(count, 2 * count, 512 * count)


@pytest.mark.parametrize(("limits", "fits"), [(FREE, True), (Limits(1, None, None), False)])
async def test_room_is_told_before_it_is_taken(database: Database, limits: Limits, fits: bool) -> None:
    await database.write(partial(sandboxes.insert, sandbox=sandbox("a"), limits=FREE))
    room = partial(accounts.has_room, workspace="w", vcpus=2, memory_mb=512, limits=limits)
    assert await database.read(room) is fits


async def test_a_lineage_is_found_from_any_of_its_members(database: Database) -> None:
    def transaction(connection: Connection) -> None:
        for name, parent in (("root", None), ("a", "root"), ("b", "root"), ("aa", "a"), ("stranger", None)):
            sandboxes.insert(connection, sandbox(name, parent_id=parent, tree_id="t"), FREE)

    await database.write(transaction)

    def look(connection: Connection) -> tuple[list[str], list[str], list[str]]:
        leaf = sandboxes.find(connection, "aa")
        assert leaf is not None
        family = sandboxes.descendants(connection, "w", "root")
        siblings = sandboxes.of_tree(connection, "w", "t")
        return (
            sandboxes.ancestors(connection, leaf),
            [row.id for row in family],
            [row.id for row in siblings],
        )

    above, family, siblings = await database.read(look)
    assert above == ["a", "root"] and sorted(family) == ["a", "aa", "b", "root"]
    assert sorted(siblings) == ["a", "aa", "b", "root", "stranger"]
    assert await database.read(partial(sandboxes.descendants, workspace="v", root="root")) == []
