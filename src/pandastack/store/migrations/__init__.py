"""The schema, step by step. A step that was released is never changed; a new one is added behind it.

A step is a file `NNNN_what.sql` of statements that end in `;` at the end of a line. The table `schema_steps`
remembers which ones were taken; all that are missing are taken in one transaction.
"""

from __future__ import annotations

from importlib import resources

import sqlalchemy as sa

from pandastack.errors import InternalError

_TAKEN = "CREATE TABLE IF NOT EXISTS schema_steps (name TEXT NOT NULL PRIMARY KEY)"


def steps() -> dict[str, list[str]]:
    """Every step in order: its name and its statements."""
    files = [file for file in resources.files(__name__).iterdir() if file.name.endswith(".sql")]
    return {
        file.name.removesuffix(".sql"): _statements(file.read_text("utf-8"))
        for file in sorted(files, key=lambda file: file.name)
    }


def upgrade(connection: sa.Connection) -> None:
    """Take the missing steps. Errors: InternalError for a database that a newer program has written."""
    connection.exec_driver_sql(_TAKEN)
    taken = set(connection.scalars(sa.text("SELECT name FROM schema_steps")))
    known = steps()
    if newer := taken - known.keys():
        raise InternalError(
            f"The database was written by a newer version (step {min(newer)}); upgrade first."
        )
    for name in sorted(known.keys() - taken):
        _take(connection, name, known[name])


def _take(connection: sa.Connection, name: str, statements: list[str]) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)
    connection.execute(sa.text("INSERT INTO schema_steps (name) VALUES (:name)"), {"name": name})


def _statements(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return [part.strip() for part in ("\n".join(lines) + "\n").split(";\n") if part.strip(" \n;")]
