"""Rows of what sandboxes have reached: one each, made with its first receipt."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import sqlalchemy as sa

from pandastack.model.book import Book
from pandastack.store.tables import books


def find(connection: sa.Connection, sandbox_id: str) -> Book:
    """What is known; nothing of one that nobody has heard of."""
    kept = connection.execute(sa.select(books.c.book).where(books.c.sandbox_id == sandbox_id)).scalar()
    return Book() if kept is None else msgspec.convert(kept, Book)


def keep(connection: sa.Connection, sandbox_id: str, book: Book) -> None:
    """In place of what was known."""
    changed = connection.execute(books.update().where(books.c.sandbox_id == sandbox_id).values(book=book))
    if changed.rowcount == 0:
        connection.execute(books.insert().values(sandbox_id=sandbox_id, book=book))


def purge(connection: sa.Connection, sandbox_ids: Iterable[str]) -> None:
    connection.execute(books.delete().where(books.c.sandbox_id.in_([*sandbox_ids])))
