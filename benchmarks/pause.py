"""The bars of how long a sandbox stands still while it is copied."""

from __future__ import annotations

from benchmarks.notebook import Notebook
from benchmarks.result import Bar, at_most

P50_LIMIT, P99_LIMIT = 0.25, 0.7
P50_GUIDE_MS, P99_GUIDE_MS = 15.0, 50.0

PAUSE_HOW = (
    "The pause is what the host tells of a snapshot; a fork copies the machine in the same way and tells"
    " none. A process in the guest that reads its clock every millisecond tells the longest time between"
    " two readings during a snapshot, during a fork and while nothing is asked: that holds the flush of the"
    " guest's disk and whatever else its only processor did meanwhile."
)


def pause_bars(notes: Notebook) -> list[Bar]:
    """Of the samples `pause_ms`."""
    pause, create = notes.of("pause_ms"), notes.of("create_ms").p50
    return [
        at_most("p50 of the source's pause / p50 of create", pause.p50 / create, P50_LIMIT, "×"),
        at_most("p99 of the source's pause / p50 of create", pause.p99 / create, P99_LIMIT, "×"),
        at_most("p50 of the source's pause", pause.p50, P50_GUIDE_MS, "ms", guide=True),
        at_most("p99 of the source's pause", pause.p99, P99_GUIDE_MS, "ms", guide=True),
    ]
