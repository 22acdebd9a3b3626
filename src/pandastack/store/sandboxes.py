"""Rows of sandboxes. Every change of state is `move`: a guarded UPDATE over the table of legal moves."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from pandastack.model.account import Limits, Usage
from pandastack.model.egress import Egress
from pandastack.model.restore import RestoreProof
from pandastack.model.sandbox import ALIVE, MOVES, Checkpoints, Isolation, OnTimeout, Sandbox, SandboxState
from pandastack.model.volume import Mount
from pandastack.store import accounts
from pandastack.store.tables import sandboxes

SOURCES: dict[SandboxState, frozenset[SandboxState]] = {
    target: frozenset(source for source, targets in MOVES.items() if target in targets)
    for target in SandboxState
}
"""From where a state may be entered."""

_INSERT = sandboxes.insert()
_BY_ID = sandboxes.select().where(sandboxes.c.id == sa.bindparam("by_id"))


def insert(connection: sa.Connection, sandbox: Sandbox, limits: Limits) -> bool:
    """Reserve its share of the workspace's quota and write its row; False when the quota has no room."""
    if not accounts.reserve(connection, sandbox.workspace, sandbox.cpu, sandbox.memory_mb, limits):
        return False
    connection.execute(_INSERT, _values(sandbox))
    return True


def find(connection: sa.Connection, sandbox_id: str, workspace: str | None = None) -> Sandbox | None:
    """The sandbox in any state, even deleted; None when there is none or it is another workspace's."""
    row = connection.execute(_BY_ID, {"by_id": sandbox_id}).one_or_none()
    if row is None or workspace not in (None, row.workspace):
        return None
    return _sandbox(row)


def listing(
    connection: sa.Connection, states: Iterable[SandboxState], workspace: str | None = None
) -> list[Sandbox]:
    """Those in one of `states`, oldest first."""
    query = sandboxes.select().where(sandboxes.c.state.in_([*states])).order_by(sandboxes.c.created_at)
    if workspace is not None:
        query = query.where(sandboxes.c.workspace == workspace)
    return [_sandbox(row) for row in connection.execute(query)]


def move(
    connection: sa.Connection,
    sandbox_id: str,
    to: SandboxState,
    *,
    only_from: Iterable[SandboxState] | None = None,
    **values: object,
) -> tuple[Sandbox, Sandbox] | None:
    """Change the state if the table of moves allows it: (before, after), or None when it does not.

    `values` are further fields to set. The workspace's books follow: they hold the shares of the living.
    """
    before = find(connection, sandbox_id)
    sources = SOURCES[to] if only_from is None else SOURCES[to] & frozenset(only_from)
    if before is None or before.status not in sources:
        return None
    query = sandboxes.update().where(sandboxes.c.id == sandbox_id, sandboxes.c.state == before.status)
    if connection.execute(query.values(state=to, **values)).rowcount != 1:
        return None
    if (more := (to in ALIVE) - (before.status in ALIVE)) != 0:
        accounts.adjust(connection, before.workspace, Usage(more, more * before.cpu, more * before.memory_mb))
    return before, msgspec.structs.replace(before, status=to, **values)


def change(connection: sa.Connection, sandbox_id: str, **values: object) -> None:
    """Set fields other than the state."""
    if not values:
        return
    connection.execute(sandboxes.update().where(sandboxes.c.id == sandbox_id).values(**values))


def note_activity(connection: sa.Connection, seen: dict[str, datetime]) -> None:
    """Remember when each was last active."""
    query = (
        sandboxes.update().where(sandboxes.c.id == sa.bindparam("by_id")).values(active_at=sa.bindparam("at"))
    )
    connection.execute(query, [{"by_id": sandbox_id, "at": at} for sandbox_id, at in seen.items()])


def of_tree(connection: sa.Connection, workspace: str, tree_id: str) -> list[Sandbox]:
    """The members of a fork tree that are not deleted, oldest first."""
    mine = (sandboxes.c.workspace == workspace, sandboxes.c.tree_id == tree_id)
    query = sandboxes.select().where(*mine, sandboxes.c.state != SandboxState.DELETED)
    return [_sandbox(row) for row in connection.execute(query.order_by(sandboxes.c.created_at))]


def ancestors(connection: sa.Connection, sandbox: Sandbox) -> list[str]:
    """Ids from its parent to its root, which is the first that is not remembered or has no parent."""
    found: list[str] = []
    parent = sandbox.parent_id
    while parent is not None and parent not in found:
        found.append(parent)
        row = find(connection, parent, sandbox.workspace)
        parent = None if row is None else row.parent_id
    return found


def descendants(connection: sa.Connection, workspace: str, root: str) -> list[Sandbox]:
    """The root and all that branched off, oldest first; deleted ones as long as they are remembered."""
    first = find(connection, root, workspace)
    found = {root: first} if first else {}
    frontier = [root]
    while frontier:
        below = sandboxes.c.parent_id.in_(frontier)
        rows = connection.execute(sandboxes.select().where(below, sandboxes.c.workspace == workspace))
        fresh = [child for row in rows if (child := _sandbox(row)).id not in found]
        found |= {child.id: child for child in fresh}
        frontier = [child.id for child in fresh]
    return sorted(found.values(), key=lambda each: (each.created_at, each.id))


def count_by_state(connection: sa.Connection) -> dict[SandboxState, int]:
    query = sa.select(sandboxes.c.state, sa.func.count()).group_by(sandboxes.c.state)
    return {SandboxState(state): count for state, count in connection.execute(query)}


def last_boots(connection: sa.Connection, workspace: str, limit: int) -> list[Sandbox]:
    """The newest `limit` that ever ran, newest first."""
    query = (
        sandboxes.select()
        .where(sandboxes.c.workspace == workspace, sandboxes.c.boot_mode != "")
        .order_by(sandboxes.c.created_at.desc())
        .limit(limit)
    )
    return [_sandbox(row) for row in connection.execute(query)]


def purge(connection: sa.Connection, ended_before: datetime) -> list[str]:
    """Forget the deleted ones that ended before; the ids."""
    gone = sandboxes.c.state == SandboxState.DELETED
    query = sandboxes.delete().where(gone, sandboxes.c.ended_at < ended_before).returning(sandboxes.c.id)
    return [*connection.scalars(query)]


def _values(sandbox: Sandbox) -> dict[str, Any]:
    values = {name: getattr(sandbox, name) for name in sandbox.__struct_fields__}
    values["state"] = values.pop("status")
    return values | {"active_at": sandbox.created_at}


def _sandbox(row: sa.Row[Any]) -> Sandbox:
    return Sandbox(
        id=row.id,
        template=row.template,
        status=SandboxState(row.state),
        cpu=row.cpu,
        memory_mb=row.memory_mb,
        created_at=row.created_at,
        workspace=row.workspace,
        host=row.host,
        isolation=Isolation(row.isolation),
        degraded=row.degraded,
        metadata=row.metadata,
        persistent=row.persistent,
        ttl_seconds=row.ttl_seconds,
        boot_ms=row.boot_ms,
        boot_mode=row.boot_mode,
        phases_ms=row.phases_ms,
        guest_ip=row.guest_ip,
        from_snapshot=row.from_snapshot,
        parent_id=row.parent_id,
        tree_id=row.tree_id,
        snapshot_id=row.snapshot_id,
        on_timeout=OnTimeout(row.on_timeout),
        idle_timeout_seconds=row.idle_timeout_seconds,
        lifetime_seconds=row.lifetime_seconds,
        used_seconds=row.used_seconds,
        awake_since=row.awake_since,
        restore_proof=_proof(row.restore_proof),
        checkpoints=Checkpoints(row.checkpoints),
        keep_checkpoints=row.keep_checkpoints,
        egress=msgspec.convert(row.egress, Egress),
        volumes=[msgspec.convert(each, Mount) for each in row.volumes],
        cause=row.cause,
        ended_at=row.ended_at,
    )


def _proof(value: object) -> RestoreProof | None:
    return None if value is None else msgspec.convert(value, RestoreProof)
