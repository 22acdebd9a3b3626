"""Pieces of Markdown."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

NOTICE = "<!-- Made from the code by `scripts/docs`: change the code, then run it. -->"


def document(title: str, words: str, *parts: str) -> str:
    """A page that is made from the code."""
    return "\n\n".join([NOTICE, f"# {title}", words, *(part for part in parts if part)]) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; nothing when it would have no row."""
    lines = [f"| {' | '.join(cell(each) for each in row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *lines])


def cell(text: str) -> str:
    """Text that stays in its cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Text as code; a pipe in it survives a table."""
    return f"`{text}`" if text else ""


def words_of(thing: object) -> str:
    """A docstring as paragraphs: lines joined, indented blocks kept."""
    blocks = (inspect.getdoc(thing) or "").split("\n\n")
    return "\n\n".join(block if block.startswith("    ") else " ".join(block.split()) for block in blocks)
