"""The steps lead to the tables that the code knows, from any earlier state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from pandastack.errors import InternalError
from pandastack.store import migrations
from pandastack.store.db import open_database
from pandastack.store.tables import metadata

pytestmark = pytest.mark.anyio


def shape(connection: sa.Connection) -> dict[str, object]:
    """Everything of a schema that matters: columns, keys, indexes."""
    inspector = sa.inspect(connection)
    return {
        table: (
            [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)],
            inspector.get_pk_constraint(table)["constrained_columns"],
            sorted(
                (str(i["name"]), tuple(i["column_names"]), bool(i["unique"]))
                for i in inspector.get_indexes(table)
            ),
        )
        for table in inspector.get_table_names()
        if table != "schema_steps"
    }


@pytest.fixture
def connections() -> Iterator[tuple[sa.Connection, sa.Connection]]:
    """Two empty databases."""
    engines = sa.create_engine("sqlite://"), sa.create_engine("sqlite://")
    with engines[0].connect() as first, engines[1].connect() as second:
        yield first, second
    for engine in engines:
        engine.dispose()


def test_all_steps_lead_to_the_tables(connections: tuple[sa.Connection, sa.Connection]) -> None:
    stepped, made = connections
    migrations.upgrade(stepped)
    metadata.create_all(made)
    assert shape(stepped) == shape(made)


def test_taking_the_steps_again_changes_nothing(connections: tuple[sa.Connection, sa.Connection]) -> None:
    connection = connections[0]
    migrations.upgrade(connection)
    before = shape(connection)
    migrations.upgrade(connection)
    assert shape(connection) == before


def test_steps_are_numbered_without_gaps() -> None:
    assert [int(name.split("_")[0]) for name in migrations.steps()] == list(
        range(1, len(migrations.steps()) + 1)
    )


async def test_a_database_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    async with open_database(path) as database:
        newer = sa.text("INSERT INTO schema_steps (name) VALUES ('9999_later')")
        await database.write(lambda connection: connection.execute(newer).close())
    with pytest.raises(InternalError, match="newer version"):
        async with open_database(path):
            pytest.fail("it must not be opened")
