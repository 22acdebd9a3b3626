"""Rows of snapshots. A state changes by a guarded UPDATE; the row of one that is gone is removed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from pandastack.model.egress import Egress
from pandastack.model.sandbox import Isolation
from pandastack.model.snapshot import MOVES, SHOWN, Snapshot, SnapshotKind, SnapshotState
from pandastack.store.tables import snapshots

_INSERT = snapshots.insert()
_COLUMNS = [column.name for column in snapshots.columns]
_BY_ID = snapshots.select().where(snapshots.c.id == sa.bindparam("by_id"))


def insert(connection: sa.Connection, snapshot: Snapshot) -> None:
    connection.execute(_INSERT, {name: getattr(snapshot, name) for name in _COLUMNS})


def find(connection: sa.Connection, snapshot_id: str, workspace: str | None = None) -> Snapshot | None:
    """The snapshot of any kind and state; None when there is none or it is another workspace's."""
    row = connection.execute(_BY_ID, {"by_id": snapshot_id}).one_or_none()
    if row is None or workspace not in (None, row.workspace):
        return None
    return _snapshot(row)


def listing(
    connection: sa.Connection, workspace: str | None = None, sandbox_id: str | None = None
) -> list[Snapshot]:
    """Of every kind and state, newest first."""
    query = snapshots.select().order_by(snapshots.c.created_at.desc(), snapshots.c.id)
    if workspace is not None:
        query = query.where(snapshots.c.workspace == workspace)
    if sandbox_id is not None:
        query = query.where(snapshots.c.sandbox_id == sandbox_id)
    return [_snapshot(row) for row in connection.execute(query)]


def move(connection: sa.Connection, snapshot_id: str, to: SnapshotState, **values: object) -> bool:
    """Change the state if the table of moves allows it, with further fields; whether it did."""
    sources = [source for source, targets in MOVES.items() if to in targets]
    query = snapshots.update().where(snapshots.c.id == snapshot_id, snapshots.c.state.in_(sources))
    return connection.execute(query.values(state=to, **values)).rowcount == 1


def publish(connection: sa.Connection, snapshot: Snapshot) -> bool:
    """Make it READY with all that is known of it now; False when it is not CREATING any more."""
    values = {"size_bytes": snapshot.size_bytes, "pause_ms": snapshot.pause_ms}
    values |= {"cpu": snapshot.cpu, "memory_mb": snapshot.memory_mb}
    origin = {"sandbox_id": snapshot.sandbox_id, "template": snapshot.template}  # told by what is imported
    return move(
        connection,
        snapshot.id,
        SnapshotState.READY,
        phases_ms=snapshot.phases_ms,
        step=snapshot.step,
        command=snapshot.command,
        exit_code=snapshot.exit_code,
        duration_ms=snapshot.duration_ms,
        **values,
        **origin,
    )


def doom(
    connection: sa.Connection, sandbox_id: str, kind: SnapshotKind, *, but: str | None = None
) -> list[str]:
    """Give up all of one kind of a sandbox that are READY, but one; their ids."""
    mine = (snapshots.c.sandbox_id == sandbox_id, snapshots.c.kind == kind)
    query = snapshots.update().where(*mine, snapshots.c.state == SnapshotState.READY)
    if but is not None:
        query = query.where(snapshots.c.id != but)
    return [*connection.scalars(query.values(state=SnapshotState.DELETING).returning(snapshots.c.id))]


def doom_with_sandbox(connection: sa.Connection, sandbox_id: str) -> list[str]:
    """Give up what does not outlive its sandbox: images that it slept in, checkpoints without a name."""
    return doom(connection, sandbox_id, SnapshotKind.HIBERNATION) + doom_checkpoints(
        connection, sandbox_id, 0
    )


def doom_checkpoints(connection: sa.Connection, sandbox_id: str, keep: int) -> list[str]:
    """Give up all READY checkpoints of a sandbox that have no name, but the newest `keep`; their ids."""
    mine = (snapshots.c.sandbox_id == sandbox_id, snapshots.c.kind == SnapshotKind.CHECKPOINT)
    unnamed = sa.select(snapshots.c.id).where(
        *mine, snapshots.c.state == SnapshotState.READY, snapshots.c.name == ""
    )
    old = [*connection.scalars(unnamed.order_by(snapshots.c.step.desc()))][keep:]
    for snapshot_id in old:
        move(connection, snapshot_id, SnapshotState.DELETING)
    return old


def change(connection: sa.Connection, snapshot_id: str, **values: object) -> bool:
    """Set fields of one that is READY; whether there is one."""
    mine = (snapshots.c.id == snapshot_id, snapshots.c.state == SnapshotState.READY)
    return connection.execute(snapshots.update().where(*mine).values(**values)).rowcount == 1


def forget(connection: sa.Connection, snapshot_id: str, states: Iterable[SnapshotState]) -> bool:
    """Remove the row if it is in one of `states`."""
    query = snapshots.delete().where(snapshots.c.id == snapshot_id, snapshots.c.state.in_([*states]))
    return connection.execute(query).rowcount == 1


def held(connection: sa.Connection, workspace: str) -> tuple[int, int]:
    """How many the workspace keeps by name, and the bytes of all that it keeps."""
    kept = sa.case((snapshots.c.kind.in_([*SHOWN]), 1), else_=0)
    size = sa.func.coalesce(sa.func.sum(snapshots.c.size_bytes), 0)
    query = sa.select(sa.func.coalesce(sa.func.sum(kept), 0), size)
    row = connection.execute(query.where(snapshots.c.workspace == workspace)).one()
    return int(row[0]), int(row[1])


def _snapshot(row: sa.Row[Any]) -> Snapshot:
    fields = {name: getattr(row, name) for name in _COLUMNS}
    fields["kind"] = SnapshotKind(row.kind)
    fields["state"] = SnapshotState(row.state)
    fields["isolation"] = Isolation(row.isolation)
    fields["egress"] = None if row.egress is None else msgspec.convert(row.egress, Egress)
    return Snapshot(**fields)
