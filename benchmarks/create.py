"""How long until a sandbox can be used, against the bare start of the same VMM in the same run."""

from __future__ import annotations

from msgspec import Struct

from benchmarks.api import Refused
from benchmarks.percentiles import summarize
from benchmarks.phases import phases
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, at_most, none_of
from benchmarks.vmm_start import greeting_ms

WARM_UP = 3
"""Cycles before the first that counts: the files of the snapshot come into the page cache."""

P50_LIMIT, P99_LIMIT, GUIDE_MS = 3.0, 7.0, 70.0

HOW = (
    "A sandbox is created, runs `true` and is deleted before the next one; in between, the same VMM "
    "binary is started to its monitor's greeting with no guest. Wall time of the client, through HTTP."
)


class Cycle(Struct, frozen=True):
    """One sandbox's life and one bare start; milliseconds."""

    create: float
    first_exec: float
    delete: float
    bare: float
    phases: dict[str, float]


def measure(stage: Stage, count: int) -> Answer:
    """Create and delete `count` sandboxes."""
    for _ in range(WARM_UP):
        _cycle(stage)
    cycles: list[Cycle] = []
    failures: list[str] = []
    for number in stage.times(count, "create, exec, delete, bare start"):
        try:
            cycles.append(_cycle(stage))
        except Refused as error:
            failures.append(f"cycle {number}: {error}")
    if not cycles:
        raise Refused(f"None of {count} cycles succeeded; the last one: {failures[-1]}")
    return _answer(cycles, failures)


def _cycle(stage: Stage) -> Cycle:
    sandbox, create = stage.api.create()
    try:
        _, first_exec = stage.api.exec(sandbox["id"], "true")
    finally:
        delete = stage.api.delete(sandbox["id"])
    return Cycle(create, first_exec, delete, greeting_ms(stage.vmm), phases(sandbox["phases_ms"], create))


def _answer(cycles: list[Cycle], failures: list[str]) -> Answer:
    samples = {
        "create_ms": [cycle.create for cycle in cycles],
        "bare_start_ms": [cycle.bare for cycle in cycles],
        "first_exec_ms": [cycle.first_exec for cycle in cycles],
        "create_and_exec_ms": [cycle.create + cycle.first_exec for cycle in cycles],
        "delete_ms": [cycle.delete for cycle in cycles],
    }
    samples |= {name: [cycle.phases[name] for cycle in cycles] for name in cycles[0].phases}
    summaries = {name: summarize(values) for name, values in samples.items()}
    create, bare = summaries["create_ms"], summaries["bare_start_ms"]
    return Answer(
        how=HOW,
        bars=[
            at_most("p50 of create / p50 of the bare start", create.p50 / bare.p50, P50_LIMIT, "×"),
            at_most("p99 of create / p50 of the bare start", create.p99 / bare.p50, P99_LIMIT, "×"),
            at_most("p50 of create", create.p50, GUIDE_MS, "ms", guide=True),
            none_of("cycles that failed", len(failures)),
        ],
        summaries=summaries,
        facts={"p99 of create / p99 of the bare start": round(create.p99 / bare.p99, 2)},
        findings=failures,
        samples=samples,
    )


QUESTION = Question("how long until a new sandbox can be used", measure, count=100, quick=10)
