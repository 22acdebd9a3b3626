"""Where in a Dockerfile a step stands, so that an error can name its line."""

from __future__ import annotations

import re
from collections.abc import Iterator

_STEP = re.compile(r"^STEP \d+(?:/\d+)?: (.*)$")


def step_of(line: str) -> str | None:
    """The instruction that a line of a build's output says it has come to."""
    found = _STEP.match(line)
    return found[1] if found else None


def line_of(dockerfile: str, step: str) -> int | None:
    """The first line, counted from 1, of the instruction that a build calls `step`: continued lines are one
    there, and its variables may be filled in.
    """
    wanted = _plain(step)
    word = wanted.split(" ", 1)[0].upper()
    alike = None
    for number, instruction in _instructions(dockerfile):
        plain = _plain(instruction)
        if plain == wanted:
            return number
        if plain.split(" ", 1)[0].upper() == word and alike is None and "$" in plain:
            alike = number
    return alike


def _instructions(dockerfile: str) -> Iterator[tuple[int, str]]:
    """Each instruction with the number of its first line."""
    first, parts = 0, list[str]()
    for number, line in enumerate(dockerfile.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        first = first if parts else number
        goes_on = line.rstrip().endswith("\\")
        parts.append(line.rstrip().removesuffix("\\"))
        if not goes_on:
            yield first, " ".join(parts)
            parts = []
    if parts:
        yield first, " ".join(parts)


def _plain(instruction: str) -> str:
    return " ".join(instruction.split())
