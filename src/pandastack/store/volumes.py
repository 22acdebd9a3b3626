"""Rows of volumes, and of who has them: one writer or any number of readers, by guarded UPDATEs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from pandastack.model.volume import Attachment, Mount, Volume, VolumeState, VolumeUsage
from pandastack.store.tables import attachments, volumes

WRITABLE = False
"""What a volume that can be written says of being frozen."""

_COLUMNS = [column.name for column in volumes.columns if column.name != "writer_id"]


def insert(connection: sa.Connection, volume: Volume) -> bool:
    """Write its row; False when the workspace has one of its name."""
    if find(connection, volume.workspace, volume.name) is not None:
        return False
    connection.execute(volumes.insert(), {name: getattr(volume, name) for name in _COLUMNS})
    return True


def find(connection: sa.Connection, workspace: str, name: str) -> Volume | None:
    """The workspace's volume of this name, in any state, with who has it."""
    row = connection.execute(
        volumes.select().where(volumes.c.workspace == workspace, volumes.c.name == name)
    ).one_or_none()
    return None if row is None else _volume(connection, row)


def listing(connection: sa.Connection, workspace: str | None = None) -> list[Volume]:
    """All in any state, by name; of one workspace or of all."""
    query = volumes.select().order_by(volumes.c.name, volumes.c.id)
    if workspace is not None:
        query = query.where(volumes.c.workspace == workspace)
    return [_volume(connection, row) for row in connection.execute(query)]


def usage(connection: sa.Connection, workspace: str) -> VolumeUsage:
    """Those of the workspace that it has asked for, with those that are being made."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(volumes.c.size_mb), 0)).where(
        volumes.c.workspace == workspace,
        volumes.c.state != VolumeState.DELETING,
        ~volumes.c.name.startswith(".", autoescape=True),
    )
    number, size_mb = connection.execute(query).one()
    return VolumeUsage(number, size_mb)


def move(
    connection: sa.Connection,
    volume_id: str,
    to: VolumeState,
    only_from: Iterable[VolumeState],
    **values: object,
) -> bool:
    """Change the state, with further fields, of one that nobody has; whether it did."""
    query = volumes.update().where(
        volumes.c.id == volume_id,
        volumes.c.state.in_([*only_from]),
        volumes.c.writer_id.is_(None),
        ~_is_read(),
    )
    return connection.execute(query.values(state=to, **values)).rowcount == 1


def change(connection: sa.Connection, volume_id: str, **values: object) -> bool:
    """Set fields of one that is READY; whether there is one."""
    query = volumes.update().where(volumes.c.id == volume_id, volumes.c.state == VolumeState.READY)
    return connection.execute(query.values(**values)).rowcount == 1


def forget(connection: sa.Connection, volume_id: str, only_from: Iterable[VolumeState]) -> bool:
    """Remove the row if it is in one of these states."""
    query = volumes.delete().where(volumes.c.id == volume_id, volumes.c.state.in_([*only_from]))
    return connection.execute(query).rowcount == 1


def attach(connection: sa.Connection, mount: Mount, sandbox_id: str, now: datetime) -> bool:
    """Have the sandbox have it; False when another has it in a way that this cannot go with, or has had it
    since the mount was thought out.
    """
    query = volumes.update().where(
        volumes.c.id == mount.id, volumes.c.state == VolumeState.READY, volumes.c.writer_id.is_(None)
    )
    if mount.read_only:  # the row is written all the same: who would write waits, and finds the reader
        query = query.values(generation=volumes.c.generation)
    else:
        query = query.where(
            ~_is_read(), volumes.c.generation < mount.generation, volumes.c.frozen == WRITABLE
        )
        query = query.values(generation=mount.generation, writer_id=sandbox_id)
    if connection.execute(query).rowcount != 1:
        return False
    row = {"path": mount.path, "read_only": mount.read_only, "since": now}
    connection.execute(attachments.insert(), {"volume_id": mount.id, "sandbox_id": sandbox_id, **row})
    return True


def release(connection: sa.Connection, sandbox_id: str) -> None:
    """The sandbox has none any more."""
    connection.execute(attachments.delete().where(attachments.c.sandbox_id == sandbox_id))
    mine = volumes.c.writer_id == sandbox_id
    connection.execute(volumes.update().where(mine).values(writer_id=None))


def _is_read() -> sa.Exists:
    """Whether somebody has the volume of the row."""
    return sa.exists().where(attachments.c.volume_id == volumes.c.id)


def _volume(connection: sa.Connection, row: sa.Row[Any]) -> Volume:
    fields = {name: getattr(row, name) for name in _COLUMNS}
    fields["state"] = VolumeState(row.state)
    query = attachments.select().where(attachments.c.volume_id == row.id).order_by(attachments.c.since)
    held = [
        Attachment(each.sandbox_id, each.path, each.read_only, each.since)
        for each in connection.execute(query)
    ]
    return Volume(**fields, attachments=held)
