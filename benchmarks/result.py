"""The answer to one question: figures, bars, and the machine they were measured on."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.disturbance import Disturbance
from benchmarks.host_facts import HostFacts
from benchmarks.percentiles import Summary


class Bar(Struct, frozen=True, kw_only=True):
    """What a figure has to reach. A guide is where it should lie: it is not missed when it lies elsewhere."""

    what: str
    measured: float
    limit: float
    unit: str = ""
    relation: str = "≤"
    guide: bool = False
    met: bool


class Answer(Struct, frozen=True, kw_only=True):
    """What a question found out. Names of summaries and samples end with their unit."""

    how: str
    """What was done, in a sentence or two."""
    bars: list[Bar]
    summaries: dict[str, Summary] = {}
    facts: dict[str, float | str] = {}
    findings: list[str] = []
    """What went wrong or was left behind, one line each."""
    samples: dict[str, list[float]] = {}


class Result(Struct, frozen=True, kw_only=True):
    """An answer with its conditions."""

    question: str
    quick: bool
    """Fewer samples than the question wants: to try it out, not to be quoted."""
    seconds: float
    host: HostFacts
    disturbance: Disturbance
    answer: Answer


def at_most(what: str, measured: float, limit: float, unit: str = "", *, guide: bool = False) -> Bar:
    """A bar that is met by its limit and by anything smaller."""
    return Bar(
        what=what,
        measured=round(measured, 3),
        limit=round(limit, 3),
        unit=unit,
        guide=guide,
        met=measured <= limit,
    )


def below(what: str, measured: float, limit: float, unit: str = "") -> Bar:
    """A bar that is met by anything smaller than its limit."""
    return Bar(
        what=what,
        measured=round(measured, 3),
        limit=round(limit, 3),
        unit=unit,
        relation="<",
        met=measured < limit,
    )


def none_of(what: str, count: int) -> Bar:
    """A bar that is met when there is not a single one."""
    return Bar(what=what, measured=count, limit=0, relation="=", met=count == 0)


def write_result(result: Result, folder: Path) -> Path:
    """Keep a result, in place of the last one to the same question."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.question}.json"
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    fresh.replace(path)
    return path


def read_result(path: Path) -> Result | None:
    """The result in this file; None when there is none, or one of an older form."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except (FileNotFoundError, msgspec.ValidationError):
        return None
