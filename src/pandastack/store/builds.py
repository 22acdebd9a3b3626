"""Rows of builds, and what they said line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from pandastack.model.build import ENDED, Build, BuildForm, BuildStatus
from pandastack.model.comparison import Comparison
from pandastack.store.tables import build_lines, builds, templates

KEPT = 200
"""Builds of a workspace that are remembered."""


def insert(connection: sa.Connection, build: Build) -> None:
    """Write its row."""
    values = {name: getattr(build, name) for name in build.__struct_fields__}
    connection.execute(builds.insert(), values | {"comparison": msgspec.to_builtins(build.comparison)})


def next_version(connection: sa.Connection, workspace: str, name: str) -> int:
    """A number that no build of this name has had, nor any version that is there."""
    newest = 0
    for table in (builds, templates):
        query = sa.select(sa.func.max(table.c.version))
        query = query.where(table.c.workspace == workspace, table.c.name == name)
        newest = max(newest, connection.scalar(query) or 0)
    return newest + 1


def find(connection: sa.Connection, workspace: str, build_id: str) -> Build | None:
    """The workspace's build of this id."""
    query = builds.select().where(builds.c.workspace == workspace, builds.c.id == build_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else _build(row)


def listing(connection: sa.Connection, workspace: str | None = None, *, going: bool = False) -> list[Build]:
    """All, the newest first; of one workspace or of all; `going`: those that have not ended."""
    query = builds.select().order_by(builds.c.created_at.desc(), builds.c.id)
    if workspace is not None:
        query = query.where(builds.c.workspace == workspace)
    if going:
        query = query.where(builds.c.status.not_in(ENDED))
    return [_build(row) for row in connection.execute(query)]


def move(connection: sa.Connection, build_id: str, to: BuildStatus, values: Mapping[str, object]) -> bool:
    """Change the status, with further fields, of one that has not ended; whether it did."""
    query = builds.update().where(builds.c.id == build_id, builds.c.status.not_in(ENDED))
    return connection.execute(query.values(status=to, **values)).rowcount == 1


def say(connection: sa.Connection, build_id: str, first: int, lines: Sequence[str]) -> None:
    """Write further lines, of which the first has this number."""
    rows = [{"build_id": build_id, "number": first + n, "text": text} for n, text in enumerate(lines)]
    if rows:
        connection.execute(build_lines.insert(), rows)


def said(connection: sa.Connection, build_id: str, after: int) -> list[tuple[int, str]]:
    """The lines behind this number."""
    query = build_lines.select().where(build_lines.c.build_id == build_id, build_lines.c.number > after)
    return [(row.number, row.text) for row in connection.execute(query.order_by(build_lines.c.number))]


def trim(connection: sa.Connection, workspace: str) -> None:
    """Forget the oldest of a workspace that have ended, beyond those that are kept."""
    old = [build.id for build in listing(connection, workspace)[KEPT:] if build.status in ENDED]
    connection.execute(build_lines.delete().where(build_lines.c.build_id.in_(old)))
    connection.execute(builds.delete().where(builds.c.id.in_(old)))


def _build(row: sa.Row[Any]) -> Build:
    fields = dict(row._mapping) | {"form": BuildForm(row.form), "status": BuildStatus(row.status)}
    return Build(**fields | {"comparison": msgspec.convert(row.comparison, Comparison | None)})
