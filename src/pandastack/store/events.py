"""Rows of what happened to sandboxes, written in the transaction of the change they tell."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa

from pandastack.model.sandbox import Event
from pandastack.store.tables import events

_INSERT = events.insert()


def add(
    connection: sa.Connection, sandbox_id: str, at: datetime, kind: str, payload: dict[str, object]
) -> None:
    connection.execute(_INSERT, {"sandbox_id": sandbox_id, "time": at, "type": kind, "payload": payload})


def tail(connection: sa.Connection, sandbox_id: str, limit: int) -> list[tuple[int, Event]]:
    """The newest `limit`, oldest first, each with its number."""
    query = events.select().where(events.c.sandbox_id == sandbox_id).order_by(events.c.id.desc()).limit(limit)
    return _read(connection, query)[::-1]


def newest(connection: sa.Connection, sandbox_id: str, kind: str, limit: int) -> list[Event]:
    """The newest `limit` of one kind, oldest first."""
    mine = (events.c.sandbox_id == sandbox_id, events.c.type == kind)
    query = events.select().where(*mine).order_by(events.c.id.desc()).limit(limit)
    return [event for _, event in _read(connection, query)][::-1]


def after(connection: sa.Connection, sandbox_id: str, number: int) -> list[tuple[int, Event]]:
    """All newer than `number`, oldest first."""
    mine = events.c.sandbox_id == sandbox_id
    return _read(connection, events.select().where(mine, events.c.id > number).order_by(events.c.id))


def purge(connection: sa.Connection, sandbox_ids: Iterable[str]) -> None:
    connection.execute(events.delete().where(events.c.sandbox_id.in_([*sandbox_ids])))


def _read(connection: sa.Connection, query: sa.Select[tuple[object, ...]]) -> list[tuple[int, Event]]:
    rows = connection.execute(query)
    return [(row.id, Event(row.time, row.sandbox_id, row.type, row.payload)) for row in rows]
