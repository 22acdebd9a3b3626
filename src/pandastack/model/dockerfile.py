"""What a Dockerfile's steps tell: where each stands, so that an error can name its line, and what it is built
on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

EPOCH = "SOURCE_DATE_EPOCH"
"""What programs take for now where they write that into a file, if it is in their environment."""

_STEP = re.compile(r"^(?:\[\d+/\d+\] )?STEP \d+(?:/\d+)?: (.*)$")
_FROM = re.compile(r"^FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_FROM_LINE = re.compile(r"^(\s*FROM\s+(?:--\S+\s+)*)(\S+)", re.IGNORECASE)
_ARG = re.compile(r"^\s*ARG\s+(\w+)(?:=(\S*))?", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^}]*))?\})")
_TAKEN_FROM = re.compile(
    r"^(?:COPY\s+(?:--\S+\s+)*?--from=(\S+)|RUN\s+(?:--\S+\s+)*?--mount=\S*\bfrom=([^\s,]+))", re.IGNORECASE
)


def step_of(line: str) -> str | None:
    """The instruction that a line of a build's output says it has come to."""
    found = _STEP.match(line)
    return found[1] if found else None


def bases_of(steps: Iterable[str]) -> list[str]:
    """The images that steps, as a build tells them, are built on or copy from: stages are none."""
    names, stages = list[str](), {"scratch"}
    for step in steps:
        begun = _FROM.match(step)
        taken = begun or _TAKEN_FROM.match(step)
        name = (taken[1] or taken[2]) if taken else None
        if name and name.lower() not in stages and not name.isdecimal():
            names.append(name)
        if begun and begun[2]:
            stages.add(begun[2].lower())
    return list(dict.fromkeys(names))


def pinned_dockerfile(text: str, args: Mapping[str, str], pins: Mapping[str, str]) -> str:
    """The same Dockerfile on images by their digests: `pins` by the names that its FROM lines come to with
    these arguments. What is in no pins stays.
    """
    known, lines = dict(args), text.splitlines()
    for number, instruction in _instructions(text):
        declared, found = _ARG.match(instruction), _FROM_LINE.match(lines[number - 1])
        if declared and declared[2] is not None:
            known.setdefault(declared[1], _filled_in(declared[2].strip("\"'"), known))
        name = _filled_in(found[2], known) if found else ""
        if found and name in pins:
            line = lines[number - 1]
            lines[number - 1] = line[: found.start(2)] + pins[name] + line[found.end(2) :]
    return "\n".join(lines) + "\n"


def dated(text: str, seconds: int) -> str:
    """The same Dockerfile, whose RUN steps are told this moment for now, unless it says itself what they are.

    Each stage has a line more then: see `own_line`.
    """
    lines = text.splitlines()
    for number in reversed(_stages(text)):
        lines.insert(number, f"ARG {EPOCH}={seconds}")
    return "\n".join(lines) + "\n"


def own_line(text: str, line: int) -> int:
    """Which line of `text` is that of what `dated` made of it. From 1."""
    return line - sum(number + before < line for before, number in enumerate(_stages(text)))


def _stages(text: str) -> list[int]:
    """The lines, from 1, behind which a stage has begun; none when it tells its moment itself."""
    instructions = [*_instructions(text)]
    if any(declared[1] == EPOCH for _, each in instructions if (declared := _ARG.match(each))):
        return []
    lines = text.splitlines()
    begun = [number for number, each in instructions if _FROM_LINE.match(each)]
    return [number for number in begun if not lines[number - 1].rstrip().endswith("\\")]


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


def _filled_in(word: str, values: Mapping[str, str]) -> str:
    """With its variables filled in; one that is not known leaves nothing."""
    return _VARIABLE.sub(lambda found: values.get(found[1] or found[2]) or found[3] or "", word)
