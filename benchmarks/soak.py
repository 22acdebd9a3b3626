"""Whether a server that has made and ended many sandboxes is the one that it was before."""

from __future__ import annotations

import httpx2

from benchmarks.api import Refused
from benchmarks.leftovers import holdings, lasting
from benchmarks.memory import memory_of
from benchmarks.percentiles import slope, summarize
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, below, none_of

KIB = 1024
SLOPE_LIMIT_KIB = 1.0
WARM_UP_SHARE = 2
"""The slope is that of the cycles after the first half, which fill what the program's heap keeps."""

HOW = (
    "A sandbox is created, runs `true` and is deleted, again and again. What the server holds of the "
    "machine is listed before and after; its memory is read after every cycle, and the slope is that of"
    " the least-squares line through the second half. The first half fills what the heap keeps for later; its"
    " slope is told too."
)


def measure(stage: Stage, count: int) -> Answer:
    """Make and end `count` sandboxes."""
    _cycle(stage)  # the files of the database and the like exist from the first one on
    before = holdings(stage.server)
    failures: list[str] = []
    samples: dict[str, list[float]] = {"server_private_dirty_KiB": [], "server_rss_KiB": []}
    for number in stage.times(count, "create, exec, delete"):
        try:
            _cycle(stage)
        except (Refused, httpx2.HTTPError) as error:
            failures.append(f"cycle {number}: {error}")
        memory = memory_of(stage.server.pid)
        samples["server_private_dirty_KiB"].append(memory.private_dirty / KIB)
        samples["server_rss_KiB"].append(memory.rss / KIB)
    left = lasting(before, stage.server)
    return _answer(samples, failures, left, count)


def _cycle(stage: Stage) -> None:
    sandbox, _ = stage.api.create()
    try:
        stage.api.exec(sandbox["id"], "true")
    finally:
        stage.api.delete(sandbox["id"])


def _answer(samples: dict[str, list[float]], failures: list[str], left: list[str], count: int) -> Answer:
    steady = {name: values[count // WARM_UP_SHARE :] for name, values in samples.items()}
    return Answer(
        how=HOW,
        bars=[
            none_of(f"failures in {count} cycles", len(failures)),
            none_of("things left: processes, descriptors, files, sockets, interfaces, mounts", len(left)),
            below(
                "slope of the server's private dirty memory",
                slope(steady["server_private_dirty_KiB"]),
                SLOPE_LIMIT_KIB,
                "KiB a cycle",
            ),
            below(
                "slope of the server's resident memory",
                slope(steady["server_rss_KiB"]),
                SLOPE_LIMIT_KIB,
                "KiB a cycle",
            ),
        ],
        summaries={name: summarize(values) for name, values in steady.items()},
        facts={
            **{f"{name}, last less first": values[-1] - values[0] for name, values in samples.items()},
            "slope of the first half": round(slope(samples["server_private_dirty_KiB"][: count // 2]), 2),
        },
        findings=failures + left,
        samples=samples,
    )


QUESTION = Question("whether anything is left after many sandboxes", measure, count=600, quick=30)
