"""Rows of templates that workspaces have built: versions, and the tags that lead to them."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from pandastack.model.build import BuildForm, ImageConfig, OwnTemplate
from pandastack.model.comparison import Package
from pandastack.store import inputs
from pandastack.store.tables import template_tags, templates

NEWEST = "latest"
"""The tag that a name without any stands for."""

THERE = False
"""What a version that can be used says of being deleted."""


def insert(connection: sa.Connection, template: OwnTemplate) -> None:
    """Write a version."""
    values = {name: getattr(template, name) for name in template.__struct_fields__}
    values |= {"config": msgspec.to_builtins(template.config)}
    values |= {"packages": msgspec.to_builtins(template.packages)}
    connection.execute(templates.insert(), values)


def point(connection: sa.Connection, workspace: str, name: str, tag: str, version: int) -> None:
    """Have a tag lead to a version."""
    here = _tags_of(workspace, name) & (template_tags.c.tag == tag)
    connection.execute(template_tags.delete().where(here))
    row = {"workspace": workspace, "name": name, "tag": tag, "version": version}
    connection.execute(template_tags.insert(), row)


def find(connection: sa.Connection, workspace: str, name: str, which: str = NEWEST) -> OwnTemplate | None:
    """The version of this number, or that this tag leads to."""
    number = int(which) if which.isdecimal() else None
    if number is None:
        query = sa.select(template_tags.c.version).where(
            _tags_of(workspace, name), template_tags.c.tag == which
        )
        number = connection.scalar(query)
    row = connection.execute(
        templates.select().where(
            templates.c.workspace == workspace,
            templates.c.name == name,
            templates.c.version == number,
            templates.c.deleting == THERE,
        )
    ).one_or_none()
    return None if row is None else _template(row)


def listing(
    connection: sa.Connection,
    workspace: str | None = None,
    name: str | None = None,
    *,
    deleting: bool = THERE,
) -> list[OwnTemplate]:
    """All versions, by name and newest first; of one workspace or of all."""
    query = templates.select().where(templates.c.deleting == deleting)
    query = query.order_by(templates.c.name, templates.c.version.desc())
    if workspace is not None:
        query = query.where(templates.c.workspace == workspace)
    if name is not None:
        query = query.where(templates.c.name == name)
    return [_template(row) for row in connection.execute(query)]


def tags(connection: sa.Connection, workspace: str) -> dict[str, dict[str, int]]:
    """Where the tags of each name lead."""
    found: dict[str, dict[str, int]] = {}
    query = template_tags.select().where(template_tags.c.workspace == workspace)
    for row in connection.execute(query.order_by(template_tags.c.tag)):
        found.setdefault(row.name, {})[row.tag] = row.version
    return found


def condemn(connection: sa.Connection, workspace: str, name: str, version: int | None = None) -> int:
    """Have all versions, or one, be deleted: nothing new comes of them. How many that were."""
    here = (templates.c.workspace == workspace) & (templates.c.name == name)
    lost = _tags_of(workspace, name)
    if version is not None:
        here &= templates.c.version == version
        lost &= template_tags.c.version == version
    connection.execute(template_tags.delete().where(lost))
    inputs.forget(connection, workspace, name, version)
    changed = templates.update().where(here, templates.c.deleting == THERE).values(deleting=True)
    return connection.execute(changed).rowcount


def forget(connection: sa.Connection, template: OwnTemplate) -> None:
    """Remove the row of one that is being deleted."""
    connection.execute(
        templates.delete().where(
            templates.c.workspace == template.workspace,
            templates.c.name == template.name,
            templates.c.version == template.version,
            templates.c.deleting != THERE,
        )
    )


def _tags_of(workspace: str, name: str) -> sa.ColumnElement[bool]:
    return (template_tags.c.workspace == workspace) & (template_tags.c.name == name)


def _template(row: sa.Row[Any]) -> OwnTemplate:
    fields = dict(row._mapping) | {"form": BuildForm(row.form)}
    fields |= {"config": msgspec.convert(row.config, ImageConfig)}
    fields |= {"packages": msgspec.convert(row.packages, list[Package])}
    return OwnTemplate(**fields)
