"""Rows of Idempotency-Keys: which sandbox a key made, and from which request."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from msgspec import Struct

from pandastack.store.tables import idempotency


class Use(Struct, frozen=True):
    """A key as it was used."""

    fingerprint: str
    sandbox_id: str


def find(connection: sa.Connection, workspace: str, key: str) -> Use | None:
    mine = (idempotency.c.workspace == workspace, idempotency.c.key == key)
    row = connection.execute(idempotency.select().where(*mine)).one_or_none()
    return None if row is None else Use(row.fingerprint, row.sandbox_id)


def insert(connection: sa.Connection, workspace: str, key: str, use: Use, at: datetime) -> None:
    connection.execute(
        idempotency.insert().values(
            workspace=workspace,
            key=key,
            fingerprint=use.fingerprint,
            sandbox_id=use.sandbox_id,
            created_at=at,
        )
    )


def forget(connection: sa.Connection, sandbox_id: str) -> None:
    """Free the key of a create that came to nothing, so that it can be tried again."""
    connection.execute(idempotency.delete().where(idempotency.c.sandbox_id == sandbox_id))


def purge(connection: sa.Connection, before: datetime) -> None:
    connection.execute(idempotency.delete().where(idempotency.c.created_at < before))
