"""Rows of who changed what. A change of ours carries its row in its own transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from msgspec import Struct

from pandastack.model.account import AuditEntry, Caller
from pandastack.store.tables import audit

_INSERT = audit.insert()


class Deed(Struct, frozen=True):
    """An entry to be: the request, when it was answered and how."""

    caller: Caller
    at: datetime
    status: int
    meta: dict[str, object] = {}


def add(connection: sa.Connection, *deeds: Deed) -> None:
    connection.execute(_INSERT, [_values(deed) for deed in deeds])


def since(connection: sa.Connection, workspace: str, start: datetime, limit: int) -> list[AuditEntry]:
    """The newest `limit` entries from `start` on, newest first."""
    query = (
        audit.select()
        .where(audit.c.workspace == workspace, audit.c.ts >= start)
        .order_by(audit.c.ts.desc(), audit.c.id.desc())
        .limit(limit)
    )
    return [AuditEntry(*row) for row in connection.execute(query)]


def purge(connection: sa.Connection, before: datetime) -> None:
    connection.execute(audit.delete().where(audit.c.ts < before))


def _values(deed: Deed) -> dict[str, Any]:
    caller = deed.caller
    return {
        "ts": deed.at,
        "workspace": caller.workspace,
        "request_id": caller.request_id,
        "method": caller.method,
        "path": caller.path,
        "status": deed.status,
        "actor": caller.actor,
        "meta": deed.meta,
    }
