"""Rows of forks: which children each has, also while they are still to come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from pandastack.model.snapshot import ChildError, Fork
from pandastack.store.tables import forks


def insert(connection: sa.Connection, fork: Fork) -> None:
    connection.execute(forks.insert(), {name: getattr(fork, name) for name in fork.__struct_fields__})


def find(connection: sa.Connection, fork_id: str, workspace: str | None = None) -> Fork | None:
    """The fork; None when there is none or it is another workspace's."""
    row = connection.execute(forks.select().where(forks.c.id == fork_id)).one_or_none()
    return None if row is None or workspace not in (None, row.workspace) else _fork(row)


def conclude(
    connection: sa.Connection,
    fork_id: str,
    children: Sequence[str],
    errors: Sequence[ChildError],
    at: datetime,
) -> None:
    """It is complete: these are its children for good."""
    values = {"children": children, "errors": errors, "at": at}
    connection.execute(forks.update().where(forks.c.id == fork_id).values(**values))


def half_made(connection: sa.Connection) -> list[Fork]:
    """Those that are not complete."""
    return [_fork(row) for row in connection.execute(forks.select().where(forks.c.at.is_(None)))]


def forget(connection: sa.Connection, fork_id: str) -> None:
    connection.execute(forks.delete().where(forks.c.id == fork_id))


def purge(connection: sa.Connection, before: datetime) -> None:
    """Forget those that are complete and were begun before."""
    connection.execute(forks.delete().where(forks.c.at.is_not(None), forks.c.begun_at < before))


def _fork(row: sa.Row[Any]) -> Fork:
    fields = {name: getattr(row, name) for name in Fork.__struct_fields__}
    fields["errors"] = msgspec.convert(row.errors, list[ChildError])
    return Fork(**fields)
