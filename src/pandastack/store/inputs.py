"""Rows of what versions of templates were built of."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from pandastack.model.build import BuildWish, Inputs, OwnTemplate
from pandastack.store.tables import template_inputs as table


def insert(connection: sa.Connection, template: OwnTemplate, inputs: Inputs) -> None:
    """Write those of a version."""
    values = {name: getattr(inputs, name) for name in inputs.__struct_fields__}
    values |= {"wish": msgspec.to_builtins(inputs.wish)}
    values |= {name: getattr(template, name) for name in ("workspace", "name", "version")}
    connection.execute(table.insert(), values)


def find(connection: sa.Connection, workspace: str, name: str, version: int) -> Inputs | None:
    """Those of a version, if they were kept."""
    query = table.select().where(
        table.c.workspace == workspace, table.c.name == name, table.c.version == version
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _inputs(row)


def files(connection: sa.Connection, workspace: str | None = None) -> dict[str, int]:
    """The files that are needed, by their digests, with their bytes; of one workspace or of all."""
    found: dict[str, int] = {}
    for kind in ("archive", "listing"):
        query = sa.select(table.c[kind], table.c[f"{kind}_bytes"]).where(table.c[kind].is_not(None))
        if workspace is not None:
            query = query.where(table.c.workspace == workspace)
        found |= {digest: size for digest, size in connection.execute(query)}
    return found


def forget(connection: sa.Connection, workspace: str, name: str, version: int | None = None) -> None:
    """Remove those of all versions, or of one."""
    here = (table.c.workspace == workspace) & (table.c.name == name)
    if version is not None:
        here &= table.c.version == version
    connection.execute(table.delete().where(here))


def _inputs(row: sa.Row[Any]) -> Inputs:
    fields = {name: row._mapping[name] for name in Inputs.__struct_fields__}
    return Inputs(**fields | {"wish": msgspec.convert(row.wish, BuildWish)})
