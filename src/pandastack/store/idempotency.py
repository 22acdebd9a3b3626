"""Rows of Idempotency-Keys: what a key made, and from which request."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from msgspec import Struct

from pandastack.store.tables import idempotency


class Identity(Struct, frozen=True):
    """A key, and the digest of the request that it came with."""

    key: str
    fingerprint: str


class Use(Struct, frozen=True):
    """A key as it was used. `made_id` is the id of a sandbox, a snapshot or a fork."""

    fingerprint: str
    made_id: str


def find(connection: sa.Connection, workspace: str, key: str) -> Use | None:
    mine = (idempotency.c.workspace == workspace, idempotency.c.key == key)
    row = connection.execute(idempotency.select().where(*mine)).one_or_none()
    return None if row is None else Use(row.fingerprint, row.made_id)


def insert(
    connection: sa.Connection, workspace: str, identity: Identity | None, made_id: str, at: datetime
) -> None:
    """Remember what this key makes; nothing without one."""
    if identity is None:
        return
    connection.execute(
        idempotency.insert().values(
            workspace=workspace,
            key=identity.key,
            fingerprint=identity.fingerprint,
            made_id=made_id,
            created_at=at,
        )
    )


def forget(connection: sa.Connection, made_id: str) -> None:
    """Free the key of what came to nothing, so that it can be tried again."""
    connection.execute(idempotency.delete().where(idempotency.c.made_id == made_id))


def purge(connection: sa.Connection, before: datetime) -> None:
    connection.execute(idempotency.delete().where(idempotency.c.created_at < before))
