"""What an idle sandbox holds of the machine's memory, in its own process and in the server's."""

from __future__ import annotations

import time

from benchmarks.leftovers import numbers_of
from benchmarks.memory import Memory, memory_of
from benchmarks.percentiles import slope, summarize
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, at_most

MB = 1_000_000
KIB = 1024
WARM_UP = 20
"""Sandboxes before, one at a time: what they leave in the server is not what a living one costs."""

SANDBOX_LIMIT_MB = 45.0
SERVER_LIMIT_KIB = 64.0
IDLE_SECONDS = 10
"""How long sandboxes are left alone before they count as idle."""

HOW = (
    f"So many sandboxes are created, nothing is run in them, and they are left alone for {IDLE_SECONDS} s;"
    " then every process of a machine is measured by smaps_rollup. The server itself is measured"
    " after each create: memory that it had free from its start hides what the first ones cost, so the"
    " slope over the last third counts beside the whole growth. MB are 10⁶ bytes."
)


def measure(stage: Stage, count: int) -> Answer:
    """Hold `count` sandboxes."""
    for _ in stage.times(WARM_UP, "the server warms up"):
        stage.api.delete(stage.api.create()[0]["id"])
    _rest(stage)
    others, server = numbers_of(stage.server.state), [memory_of(stage.server.pid)]
    sandbox_ids = []
    for _ in stage.times(count, "idle sandboxes"):
        sandbox_ids.append(stage.api.create()[0]["id"])
        server.append(memory_of(stage.server.pid))
    processes = numbers_of(stage.server.state) - others
    fresh = [memory_of(pid) for pid in processes]
    _rest(stage)
    server.append(memory_of(stage.server.pid))
    idle = [memory_of(pid) for pid in processes]
    for sandbox_id in sandbox_ids:
        stage.api.delete(sandbox_id)
    return _answer(fresh, idle, server, count)


def _answer(fresh: list[Memory], idle: list[Memory], server: list[Memory], count: int) -> Answer:
    samples = _in("MB", MB, "fresh", fresh) | _in("MB", MB, "idle", idle) | _in("KiB", KIB, "server", server)
    summaries = {name: summarize(values) for name, values in samples.items()}
    dirty = samples["server_private_dirty_KiB"]
    return Answer(
        how=HOW,
        bars=[
            at_most(
                "private dirty memory of an idle sandbox",
                sum(samples["idle_private_dirty_MB"]) / count,
                SANDBOX_LIMIT_MB,
                "MB",
            ),
            at_most(
                "server's memory a sandbox, whole growth", _growth(dirty, count), SERVER_LIMIT_KIB, "KiB"
            ),
            at_most(
                "server's memory a sandbox, last third", slope(dirty[-count // 3 :]), SERVER_LIMIT_KIB, "KiB"
            ),
        ],
        summaries=summaries,
        facts={"sandboxes": count, "their processes": len(idle)},
        samples=samples,
    )


def _growth(values: list[float], count: int) -> float:
    return (values[-1] - values[0]) / count


def _in(unit: str, size: int, of: str, processes: list[Memory]) -> dict[str, list[float]]:
    """One sample for each kind of memory."""
    return {
        f"{of}_{kind}_{unit}": [round(getattr(memory, kind) / size, 3) for memory in processes]
        for kind in Memory.__struct_fields__
    }


def _rest(stage: Stage) -> None:
    for _ in stage.times(IDLE_SECONDS, "idle"):
        time.sleep(1)


QUESTION = Question("what an idle sandbox holds of the machine's memory", measure, count=150, quick=5)
