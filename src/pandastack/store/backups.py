"""Rows of backups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from pandastack.model.backup import Backup, BackupStatus
from pandastack.store.tables import backups

KEPT_FAILED = 50
"""Backups of a workspace that failed and are remembered."""


def insert(connection: sa.Connection, backup: Backup) -> None:
    """Write its row."""
    connection.execute(backups.insert(), {name: getattr(backup, name) for name in backup.__struct_fields__})


def find(connection: sa.Connection, workspace: str, backup_id: str) -> Backup | None:
    """The workspace's backup of this id, in any state."""
    query = backups.select().where(backups.c.workspace == workspace, backups.c.id == backup_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else _backup(row)


def listing(
    connection: sa.Connection,
    workspace: str | None = None,
    volume: str | None = None,
    states: Iterable[BackupStatus] = tuple(BackupStatus),
) -> list[Backup]:
    """Those in one of `states`, the newest first; of one workspace or of all, of one volume or of all."""
    query = backups.select().order_by(backups.c.created_at.desc(), backups.c.id)
    query = query.where(backups.c.status.in_([*states]))
    if workspace is not None:
        query = query.where(backups.c.workspace == workspace)
    if volume is not None:
        query = query.where(backups.c.volume == volume)
    return [_backup(row) for row in connection.execute(query)]


def move(
    connection: sa.Connection,
    backup_id: str,
    to: BackupStatus,
    only_from: Iterable[BackupStatus],
    values: Mapping[str, object],
) -> bool:
    """Change the status, with further fields, of one in one of these; whether it did."""
    query = backups.update().where(backups.c.id == backup_id, backups.c.status.in_([*only_from]))
    return connection.execute(query.values(status=to, **values)).rowcount == 1


def forget(connection: sa.Connection, backup_id: str, only_from: Iterable[BackupStatus]) -> bool:
    """Remove the row if it is in one of these states."""
    query = backups.delete().where(backups.c.id == backup_id, backups.c.status.in_([*only_from]))
    return connection.execute(query).rowcount == 1


def trim(connection: sa.Connection, workspace: str) -> None:
    """Forget the oldest of a workspace that failed, beyond those that are kept."""
    for old in listing(connection, workspace, states=[BackupStatus.FAILED])[KEPT_FAILED:]:
        forget(connection, old.id, [BackupStatus.FAILED])


def _backup(row: sa.Row[Any]) -> Backup:
    fields = dict(row._mapping)
    return Backup(**fields | {"status": BackupStatus(row.status)})
