"""What a command costs beyond the time that it takes in the guest."""

from __future__ import annotations

from benchmarks.percentiles import summarize
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, at_most

WARM_UP = 20
LIMIT_MS = 5.0

HOW = (
    "One warm sandbox runs `true` again and again. Wall time of the client through HTTP, less the time "
    "that the guest itself measured from the order to the end of the command."
)


def measure(stage: Stage, count: int) -> Answer:
    """Run `true` so many times."""
    with stage.api.sandbox() as sandbox_id:
        for _ in range(WARM_UP):
            stage.api.exec(sandbox_id, "true")
        pairs = [_run(stage, sandbox_id) for _ in stage.times(count, "exec true")]
    samples = {
        "api_ms": [api for api, _ in pairs],
        "guest_ms": [guest for _, guest in pairs],
        "beyond_guest_ms": [api - guest for api, guest in pairs],
    }
    summaries = {name: summarize(values) for name, values in samples.items()}
    beyond = summaries["beyond_guest_ms"].p50
    return Answer(
        how=HOW,
        bars=[at_most("p50 of API time less the guest's own", beyond, LIMIT_MS, "ms")],
        summaries=summaries,
        samples=samples,
    )


def _run(stage: Stage, sandbox_id: str) -> tuple[float, float]:
    """The client's milliseconds and the guest's."""
    answer, elapsed = stage.api.exec(sandbox_id, "true")
    return elapsed, float(answer["guest_ms"])


QUESTION = Question("what a command costs beyond its time in the guest", measure, count=200, quick=20)
