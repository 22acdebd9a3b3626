"""Rows of secrets. What is in `sealed` only a `services.strongbox` can open."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from msgspec import Struct

from pandastack.model.secret import Secret
from pandastack.store.tables import secrets

_OF = secrets.select().where(secrets.c.sandbox_id == sa.bindparam("of")).order_by(secrets.c.name)


class SealedSecret(Struct, frozen=True):
    """A row: what its owner may see of it, and its sealed value."""

    told: Secret
    sealed: bytes


def of_sandbox(connection: sa.Connection, sandbox_id: str) -> list[SealedSecret]:
    """Those of one sandbox, by name."""
    return [_sealed(row) for row in connection.execute(_OF, {"of": sandbox_id})]


def put(connection: sa.Connection, sandbox_id: str, workspace: str, row: SealedSecret) -> None:
    """Write it, in place of one with the same name."""
    drop(connection, sandbox_id, row.told.name)
    told = {name: getattr(row.told, name) for name in row.told.__struct_fields__}
    values = {"sandbox_id": sandbox_id, "workspace": workspace, "sealed": row.sealed, **told}
    connection.execute(secrets.insert().values(values))


def drop(connection: sa.Connection, sandbox_id: str, name: str) -> None:
    """Remove one; fine when there is none."""
    connection.execute(secrets.delete().where(secrets.c.sandbox_id == sandbox_id, secrets.c.name == name))


def forget(connection: sa.Connection, sandbox_id: str) -> None:
    """Remove all of a sandbox."""
    connection.execute(secrets.delete().where(secrets.c.sandbox_id == sandbox_id))


def _sealed(row: sa.Row[Any]) -> SealedSecret:
    return SealedSecret(
        Secret(
            name=row.name,
            hosts=tuple(row.hosts),
            headers=tuple(row.headers),
            placeholder=row.placeholder,
            created_at=row.created_at,
            changed_at=row.changed_at,
        ),
        bytes(row.sealed),
    )
