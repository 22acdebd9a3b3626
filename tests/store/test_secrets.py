"""Rows of secrets, and what opens them."""

from __future__ import annotations

from functools import partial

import pytest

from pandastack.model.clock import Clock
from pandastack.model.sandbox import SandboxCreate
from pandastack.model.secret import SecretWish
from pandastack.services.safe import Safe
from pandastack.services.strongbox import Strongbox
from pandastack.store import secrets
from pandastack.store.db import Connection, Database
from tests.store.conftest import NOON, sandbox

pytestmark = pytest.mark.anyio

VALUE = "sk-live-0123456789"
WISHES = {
    "B": SecretWish(VALUE, ("*.example.com",), ("x-api-key",)),
    "A": SecretWish(f"{VALUE}-a", ("a.example.com",)),
}


def safe(database: Database, key: int = 1) -> Safe:
    placeholders = iter(f"psk_{key:02d}{number:014d}" for number in range(100))
    strongbox = Strongbox(bytes([key]) * 32, lambda count: bytes(range(count)))
    return Safe(database, strongbox, Clock(NOON.timestamp, lambda: 0.0), lambda: next(placeholders))


def nothing(_connection: Connection) -> None:
    """Nothing comes before."""


async def test_what_was_kept_is_opened_by_the_same_key_and_for_the_same_sandbox_alone(
    database: Database,
) -> None:
    one, box = safe(database), sandbox("box")
    bound = one.bound(WISHES)
    await database.write(one.kept(box, bound, nothing))
    assert await one.of(box) == tuple(sorted(bound, key=lambda each: each.name))
    rows = await one.rows("box")
    assert [row.told.name for row in rows] == ["A", "B"] and rows[1].told.headers == ("x-api-key",)
    assert rows[0].told.created_at == rows[0].told.changed_at == NOON
    assert await safe(database, 2).of(box) == (), "put in nowhere, and no error for who wakes it"
    moved = partial(secrets.put, sandbox_id="other", workspace="w", row=rows[0])
    await database.write(moved)
    assert await one.of(sandbox("other")) == ()


async def test_one_is_replaced_dropped_and_all_are_forgotten(database: Database) -> None:
    one, box = safe(database), sandbox("box")
    await database.write(one.kept(box, one.bound(WISHES), nothing))
    (first, _) = await one.rows("box")
    anew = one.rebound("A", SecretWish("another value", ("b.example.com",)), first.told)
    row = one.sealed(box, anew, first.told)
    await database.write(partial(secrets.put, sandbox_id="box", workspace="w", row=row))
    (after, _) = await one.of(box)
    assert (after.value, after.hosts) == ("another value", ("b.example.com",))
    assert after.placeholder == first.told.placeholder
    for _ in range(2):
        await database.write(partial(secrets.drop, sandbox_id="box", name="A"))
    assert [row.told.name for row in await one.rows("box")] == ["B"]
    await database.write(partial(secrets.forget, sandbox_id="box"))
    assert await one.rows("box") == []


async def test_a_child_has_other_placeholders_and_a_key_stands_for_no_value(database: Database) -> None:
    one = safe(database)
    bound = one.bound(WISHES)
    child = one.inherited(bound)
    assert [each.value for each in child] == [each.value for each in bound]
    assert not {each.placeholder for each in child} & {each.placeholder for each in bound}
    request = SandboxCreate(secrets=WISHES)
    marked = one.comparable(request)
    assert VALUE not in marked.secrets["B"].value and marked == one.comparable(request)
    assert marked.secrets["A"].value != marked.secrets["B"].value
    assert one.comparable(SandboxCreate()) == SandboxCreate()
