"""Rows of sandboxes and of what surrounds them."""

from __future__ import annotations

from datetime import UTC, timedelta
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastack.model.account import Caller, Limits, Scope, Token, Usage
from pandastack.model.sandbox import Sandbox, SandboxState
from pandastack.model.snapshot import ChildError, Fork
from pandastack.store import accounts, audit, events, forks, idempotency, sandboxes
from pandastack.store.db import Connection, Database
from pandastack.store.idempotency import Identity, Use
from pandastack.store.tables import EPOCH, Moment
from tests.store.conftest import NOON, sandbox

pytestmark = pytest.mark.anyio

FREE = Limits(None, None, None)


async def insert(database: Database, row: Sandbox, limits: Limits = FREE) -> bool:
    return await database.write(partial(sandboxes.insert, sandbox=row, limits=limits))


async def test_a_row_is_the_value_that_was_written(database: Database) -> None:
    row = sandbox(
        "a", metadata={"k": "ü", "secret.x": "y"}, persistent=True, ttl_seconds=0, phases_ms={"gate": 1.5}
    )
    assert await insert(database, row)
    assert await database.read(partial(sandboxes.find, sandbox_id="a", workspace="w")) == row


async def test_another_workspaces_row_is_not_there(database: Database) -> None:
    await insert(database, sandbox("a"))
    assert await database.read(partial(sandboxes.find, sandbox_id="a", workspace="v")) is None


async def test_a_move_that_the_table_does_not_allow_changes_nothing(database: Database) -> None:
    await insert(database, sandbox("a"))
    assert await database.write(partial(sandboxes.move, sandbox_id="a", to=SandboxState.PAUSED)) is None
    moved = await database.write(partial(sandboxes.move, sandbox_id="a", to=SandboxState.RUNNING, boot_ms=7))
    assert moved is not None
    before, after = moved
    assert (before.status, after.status, after.boot_ms) == (SandboxState.CREATING, SandboxState.RUNNING, 7)
    assert await database.read(partial(sandboxes.find, sandbox_id="a")) == after


async def test_only_from_narrows_the_table(database: Database) -> None:
    await insert(database, sandbox("a"))
    narrowed = partial(
        sandboxes.move, sandbox_id="a", to=SandboxState.FAILED, only_from=[SandboxState.RUNNING]
    )
    assert await database.write(narrowed) is None


@pytest.mark.parametrize(
    ("limits", "fits"),
    [(Limits(2, None, None), 2), (Limits(None, 5, None), 2), (Limits(None, None, 511), 0), (FREE, 4)],
)
async def test_a_quota_takes_what_fits_and_no_more(database: Database, limits: Limits, fits: int) -> None:
    taken = [await insert(database, sandbox(f"s{number}"), limits) for number in range(4)]
    assert taken == [True] * fits + [False] * (4 - fits)
    usage = await database.read(partial(accounts.usage, workspace="w"))
    assert usage == Usage(fits, 2 * fits, 512 * fits)


async def test_a_share_is_given_back_once_whatever_the_way(database: Database) -> None:
    await insert(database, sandbox("a"))
    for state in (SandboxState.RUNNING, SandboxState.FAILED, SandboxState.STOPPING, SandboxState.DELETED):
        await database.write(partial(sandboxes.move, sandbox_id="a", to=state))
    usage = await database.read(partial(accounts.usage, workspace="w"))
    assert usage == Usage(0, 0, 0)


async def test_a_recount_mends_what_the_books_say(database: Database) -> None:
    await insert(database, sandbox("a"))
    await database.write(partial(accounts.adjust, workspace="w", change=Usage(-1, -9, -9)))
    assert await database.write(partial(accounts.recount, workspace="w")) == Usage(1, 2, 512)
    assert await database.write(partial(accounts.recount, workspace="new")) == Usage(0, 0, 0)


async def test_purged_are_the_deleted_that_ended_before(database: Database) -> None:
    for name, state, ended in (
        ("old", SandboxState.DELETED, NOON),
        ("young", SandboxState.DELETED, NOON + timedelta(hours=2)),
        ("dead", SandboxState.FAILED, NOON),
    ):
        await insert(database, sandbox(name, status=state, ended_at=ended))
    purged = await database.write(partial(sandboxes.purge, ended_before=NOON + timedelta(hours=1)))
    assert purged == ["old"]


async def test_events_come_oldest_first_and_can_be_read_on_from_any(database: Database) -> None:
    def write(connection: Connection) -> None:
        for number in range(5):
            events.add(connection, "a", NOON, f"e{number}", {"n": number})
        events.add(connection, "b", NOON, "other", {})

    await database.write(write)
    tail = await database.read(partial(events.tail, sandbox_id="a", limit=3))
    assert [event.type for _, event in tail] == ["e2", "e3", "e4"]
    after = await database.read(partial(events.after, sandbox_id="a", number=tail[0][0]))
    assert [event.payload for _, event in after] == [{"n": 3}, {"n": 4}]
    await database.write(partial(events.purge, sandbox_ids=["a"]))
    assert await database.read(partial(events.tail, sandbox_id="a", limit=3)) == []


async def test_the_audit_tells_who_what_and_how_it_was_answered(database: Database) -> None:
    caller = Caller("w", "pds_12345678", Scope.USE, request_id="r", method="POST", path="/v1/x")
    deed = audit.Deed(caller, NOON, 201, {"sandbox_id": "a"})
    await database.write(lambda connection: audit.add(connection, deed))
    entry = (await database.read(partial(audit.since, workspace="w", start=NOON, limit=5)))[0]
    assert (entry.actor, entry.method, entry.path, entry.status) == ("pds_12345678", "POST", "/v1/x", 201)
    assert (entry.ts, entry.meta, entry.request_id) == (NOON, {"sandbox_id": "a"}, "r")
    assert await database.read(partial(audit.since, workspace="v", start=NOON, limit=5)) == []


async def test_a_key_is_remembered_until_it_is_forgotten(database: Database) -> None:
    for identity, made in ((Identity("k", "fingerprint"), "a"), (None, "b")):
        insert = partial(idempotency.insert, workspace="w", identity=identity, made_id=made, at=NOON)
        await database.write(insert)
    found = await database.read(partial(idempotency.find, workspace="w", key="k"))
    assert found == Use("fingerprint", "a")
    assert await database.read(partial(idempotency.find, workspace="v", key="k")) is None
    await database.write(partial(idempotency.forget, made_id="a"))
    assert await database.read(partial(idempotency.find, workspace="w", key="k")) is None


async def test_a_fork_is_half_made_until_it_is_complete(database: Database) -> None:
    fork = Fork("f", "w", "p", "s", "t", ["a", "b"], NOON)
    await database.write(partial(forks.insert, fork=fork))
    assert await database.read(forks.half_made) == [fork]
    await database.write(partial(forks.purge, before=NOON + timedelta(days=1)))
    failed = ChildError(1, "no room", "no room", "capacity.unavailable")
    conclude = partial(forks.conclude, fork_id="f", children=["a"], errors=[failed], at=NOON)
    await database.write(conclude)
    assert await database.read(forks.half_made) == []
    whole = msgspec.structs.replace(fork, children=["a"], errors=[failed], at=NOON)
    assert await database.read(partial(forks.find, fork_id="f", workspace="w")) == whole
    assert await database.read(partial(forks.find, fork_id="f", workspace="v")) is None
    await database.write(partial(forks.purge, before=NOON + timedelta(days=1)))
    assert await database.read(partial(forks.find, fork_id="f")) is None


async def test_tokens_are_kept_as_digests(database: Database) -> None:
    token = Token("pds_12345678", "mine", "use", NOON, NOON + timedelta(days=1))
    await database.write(partial(accounts.insert_token, digest="d1", workspace="w", token=token))
    found = await database.read(partial(accounts.credential, digest="d1"))
    assert found is not None and found.scope is Scope.USE and found.expires_at == token.expires_at
    await database.write(partial(accounts.note_use, used={"d1": NOON}))
    listed = await database.read(partial(accounts.list_tokens, workspace="w"))
    assert listed == [msgspec.structs.replace(token, last_used_at=NOON)]
    assert not await database.write(partial(accounts.delete_token, workspace="v", prefix=token.prefix))
    assert await database.write(partial(accounts.delete_token, workspace="w", prefix=token.prefix))
    assert await database.read(partial(accounts.credential, digest="d1")) is None


@given(st.datetimes(min_value=EPOCH.replace(tzinfo=None), timezones=st.just(UTC)))
def test_a_moment_survives_exactly(moment: object) -> None:
    kind, dialect = Moment(), None
    bound = kind.process_bind_param(moment, dialect)  # type: ignore[arg-type]  # neither looks at the dialect
    assert kind.process_result_value(bound, dialect) == moment  # type: ignore[arg-type]  # as above
