"""Rows of workspaces (what they hold) and of tokens (only their digests)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from msgspec import Struct

from pandastack.model.account import Limits, Scope, Token, Usage
from pandastack.model.sandbox import ALIVE
from pandastack.store.tables import sandboxes, tokens, workspaces


class Credential(Struct, frozen=True):
    """What a token's digest stands for."""

    digest: str
    workspace: str
    prefix: str
    scope: Scope
    expires_at: datetime | None


NO_LIMIT = 2**53
_AFTER = {
    name: workspaces.c[name] + sa.bindparam(f"add_{name}") for name in ("sandboxes", "vcpus", "memory_mb")
}
_RESERVE = (
    workspaces.update()
    .where(workspaces.c.id == sa.bindparam("by_id"))
    .where(*(after <= sa.bindparam(f"most_{name}") for name, after in _AFTER.items()))
    .values(_AFTER)
)


def reserve(connection: sa.Connection, workspace: str, vcpus: int, memory_mb: int, limits: Limits) -> bool:
    """Take a sandbox's share in one conditional UPDATE; False when it would pass a limit."""
    values: dict[str, object] = {"by_id": workspace}
    for name, amount in (("sandboxes", 1), ("vcpus", vcpus), ("memory_mb", memory_mb)):
        limit = getattr(limits, name)
        values[f"add_{name}"] = amount
        values[f"most_{name}"] = NO_LIMIT if limit is None else limit
    return connection.execute(_RESERVE, values).rowcount == 1


def has_room(connection: sa.Connection, workspace: str, vcpus: int, memory_mb: int, limits: Limits) -> bool:
    """Whether one more sandbox of that size would pass no limit."""
    held = usage(connection, workspace)
    after = {"sandboxes": held.sandboxes + 1, "vcpus": held.vcpus + vcpus}
    after["memory_mb"] = held.memory_mb + memory_mb
    return all((limit := getattr(limits, name)) is None or amount <= limit for name, amount in after.items())


def adjust(connection: sa.Connection, workspace: str, change: Usage) -> None:
    """Change what the workspace holds, whatever its limits."""
    query = workspaces.update().where(workspaces.c.id == workspace)
    connection.execute(
        query.values(
            sandboxes=workspaces.c.sandboxes + change.sandboxes,
            vcpus=workspaces.c.vcpus + change.vcpus,
            memory_mb=workspaces.c.memory_mb + change.memory_mb,
        )
    )


def usage(connection: sa.Connection, workspace: str) -> Usage:
    row = connection.execute(workspaces.select().where(workspaces.c.id == workspace)).one()
    return Usage(row.sandboxes, row.vcpus, row.memory_mb)


def recount(connection: sa.Connection, workspace: str) -> Usage:
    """Make sure that the workspace has a row and that it tells what its living sandboxes hold."""
    query = sa.select(
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(sandboxes.c.cpu), 0),
        sa.func.coalesce(sa.func.sum(sandboxes.c.memory_mb), 0),
    ).where(sandboxes.c.workspace == workspace, sandboxes.c.state.in_([*ALIVE]))
    held = Usage(*connection.execute(query).one())
    values = {"sandboxes": held.sandboxes, "vcpus": held.vcpus, "memory_mb": held.memory_mb}
    update = workspaces.update().where(workspaces.c.id == workspace).values(**values)
    if connection.execute(update).rowcount == 0:
        connection.execute(workspaces.insert().values(id=workspace, **values))
    return held


def insert_token(connection: sa.Connection, digest: str, workspace: str, token: Token) -> None:
    connection.execute(
        tokens.insert().values(
            digest=digest,
            workspace=workspace,
            prefix=token.prefix,
            label=token.label,
            scope=token.scope,
            created_at=token.created_at,
            expires_at=token.expires_at,
            last_used_at=None,
        )
    )


def credential(connection: sa.Connection, digest: str) -> Credential | None:
    row = connection.execute(tokens.select().where(tokens.c.digest == digest)).one_or_none()
    if row is None:
        return None
    return Credential(row.digest, row.workspace, row.prefix, Scope[row.scope.upper()], row.expires_at)


def holder(connection: sa.Connection, workspace: str, prefix: str) -> Credential | None:
    """What the token of this prefix stands for, for who has shown it before."""
    query = tokens.select().where(tokens.c.workspace == workspace, tokens.c.prefix == prefix).limit(1)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return Credential(row.digest, row.workspace, row.prefix, Scope[row.scope.upper()], row.expires_at)


def list_tokens(connection: sa.Connection, workspace: str) -> list[Token]:
    query = tokens.select().where(tokens.c.workspace == workspace).order_by(tokens.c.created_at)
    return [_token(row) for row in connection.execute(query)]


def delete_token(connection: sa.Connection, workspace: str, prefix: str) -> bool:
    query = tokens.delete().where(tokens.c.workspace == workspace, tokens.c.prefix == prefix)
    return connection.execute(query).rowcount == 1


def count_tokens(connection: sa.Connection) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(tokens)) or 0


def note_use(connection: sa.Connection, used: dict[str, datetime]) -> None:
    """Remember when each token (by digest) was last used."""
    query = (
        tokens.update().where(tokens.c.digest == sa.bindparam("by")).values(last_used_at=sa.bindparam("at"))
    )
    connection.execute(query, [{"by": digest, "at": at} for digest, at in used.items()])


def _token(row: sa.Row[Any]) -> Token:
    return Token(row.prefix, row.label, row.scope, row.created_at, row.expires_at, row.last_used_at)
