"""How long a cell of code takes: the first of a fresh sandbox, a table with a plot, and one that is warm."""

from __future__ import annotations

import time

from benchmarks.notebook import Notebook
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, at_most

TEMPLATE = "code-interpreter"
WARM = 20
"""Cells of one context, one behind the other."""
SUM = "1+1"
TABLE = """\
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
table = pd.DataFrame({"day": range(50), "sold": np.random.default_rng(1).integers(0, 100, 50)})
table.plot(x="day", y="sold")
plt.show()
table"""
FIRST_MS, TABLE_MS, WARM_MS, OURS_MS = 1500, 6000, 100, 5

HOW = (
    f"A sandbox of `{TEMPLATE}` is created and given a context, whose first cell is `{SUM}`; wall time from the"
    " call of the create until the cell's answer is there. The same with a cell that makes a DataFrame of 50"
    " rows, draws it and shows both: a PNG, and the table as text, HTML and data. Then"
    f" `{SUM}` goes {WARM} times there and back over HTTP. What the kernel itself took is the time between its"
    " own words that it is busy and that it is idle, by its own clock; the rest is ours, the network of the"
    " machine and the kernel's reading of the order included."
)


def measure(stage: Stage, count: int) -> Answer:
    """Make `2 * count` sandboxes."""
    for _ in range(2):
        _sandbox(stage, Notebook(stage), TABLE)
    notes = Notebook(stage)
    for number in stage.times(count, "sandboxes whose cells are timed"):
        with notes.attempt(f"sandbox {number}"):
            _sandbox(stage, notes, SUM, "first_cell_ms")
            _sandbox(stage, notes, TABLE, "first_table_ms")
    bars = [
        at_most(f"p50 of create to the first `{SUM}`", notes.of("first_cell_ms").p50, FIRST_MS, "ms"),
        at_most("p50 of create to a DataFrame and its plot", notes.of("first_table_ms").p50, TABLE_MS, "ms"),
        at_most(f"p50 of a warm `{SUM}`", notes.of("warm_cell_ms").p50, WARM_MS, "ms"),
        at_most("p50 of its part that is not the kernel's", notes.of("warm_ours_ms").p50, OURS_MS, "ms"),
    ]
    return notes.answer(HOW, bars, {})


def _sandbox(stage: Stage, notes: Notebook, code: str, name: str | None = None) -> None:
    """The figures of one sandbox; of those without a `name`, none."""
    began = time.perf_counter()
    with stage.api.sandbox(template=TEMPLATE) as sandbox_id:
        context = stage.api.order(sandbox_id, "repl/sessions", language="python")[0]["id"]
        run = f"repl/sessions/{context}/run"
        stage.api.order(sandbox_id, run, code=code)
        first = (time.perf_counter() - began) * 1000
        if name is None:
            return
        notes.add(**{name: first})
        for _ in range(WARM if code == SUM else 0):
            answer, elapsed = stage.api.order(sandbox_id, run, code=code)
            kernel = answer["kernel_ms"]
            notes.add(warm_cell_ms=elapsed, warm_kernel_ms=kernel, warm_ours_ms=elapsed - kernel)


QUESTION = Question("what a cell of code takes", measure, count=20, quick=2)
