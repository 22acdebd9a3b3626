"""Many creates at once: whether all of them succeed, and whether they are faster than one after the other."""

from __future__ import annotations

import asyncio
import time

import httpx2
import msgspec
from msgspec import Struct

from benchmarks.api import CREATE, TIMEOUT, Refused, answer_of, headers
from benchmarks.percentiles import summarize
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, at_most, none_of
from pandastack.testing.server import Server

ROUNDS = 5
WARM_UP = 3

HOW = (
    f"First so many creates one after the other, each deleted before the next; then {ROUNDS} times that "
    "many at once, each on a connection of its own, and all deleted. A round lasts from its first request to"
    " its last answer; their median counts, as that of the single ones does. Both were done before without"
    " counting."
)


class Round(Struct, frozen=True):
    """One burst: milliseconds of all of it and of each create that succeeded, and why the others did not."""

    wall: float
    creates: list[float]
    failures: list[str]


def measure(stage: Stage, count: int) -> Answer:
    """Create `count` at once."""
    for _ in range(WARM_UP):
        _alone(stage)
    asyncio.run(_round(stage.server, count))
    alone = [_alone(stage) for _ in stage.times(count, "one after the other")]
    rounds = [asyncio.run(_round(stage.server, count)) for _ in stage.times(ROUNDS, f"{count} at once")]
    samples = {
        "alone_ms": alone,
        "in_burst_ms": [create for each in rounds for create in each.creates],
        "wall_ms": [each.wall for each in rounds],
    }
    failures = [failure for each in rounds for failure in each.failures]
    summaries = {name: summarize(values) for name, values in samples.items() if values}
    wall, allowed = summaries["wall_ms"], count * summaries["alone_ms"].p50
    return Answer(
        how=HOW,
        bars=[
            none_of(f"creates of {count} at once that failed", len(failures)),
            at_most(f"p50 of the wall of {count} at once, {count} × p50 alone", wall.p50, allowed, "ms"),
        ],
        summaries=summaries,
        facts={
            "p50 of the wall / (count × p50 alone)": round(wall.p50 / allowed, 2),
            "slowest wall / (count × p50 alone)": round(wall.max / allowed, 2),
        },
        findings=failures,
        samples=samples,
    )


def _alone(stage: Stage) -> float:
    sandbox, elapsed = stage.api.create()
    stage.api.delete(sandbox["id"])
    return elapsed


async def _round(server: Server, count: int) -> Round:
    """All at once; whatever came of it is deleted."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=count)
    async with httpx2.AsyncClient(
        base_url=server.url, headers=headers(server), timeout=TIMEOUT, limits=limits, trust_env=False
    ) as client:
        await asyncio.gather(*(client.get("/v1/version") for _ in range(count)))  # the connections exist
        began = time.perf_counter()
        outcomes = await asyncio.gather(*(_create(client) for _ in range(count)), return_exceptions=True)
        wall = (time.perf_counter() - began) * 1000
        created = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        await asyncio.gather(*(client.delete(f"/v1/sandboxes/{sandbox_id}") for sandbox_id, _ in created))
    failures = [str(outcome) for outcome in outcomes if isinstance(outcome, Refused | httpx2.HTTPError)]
    return Round(wall, [elapsed for _, elapsed in created], failures)


async def _create(client: httpx2.AsyncClient) -> tuple[str, float]:
    """A sandbox's id, and after how many milliseconds it was there."""
    began = time.perf_counter()
    response = await client.post("/v1/sandboxes", content=msgspec.json.encode(CREATE))
    return str(answer_of(response)["id"]), (time.perf_counter() - began) * 1000


QUESTION = Question("many creates at once", measure, count=20, quick=5)
