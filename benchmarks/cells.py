"""How long a cell of code takes: the first of a fresh sandbox, a table with a plot, and one that is warm."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.api import Api
from benchmarks.notebook import Notebook
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, at_most
from benchmarks.servers import rehearsed
from pandastack.jupyter.places import ROOT as KERNELS

TEMPLATE = "code-interpreter"
WARM = 20
"""Cells of one context, one behind the other."""
PAUSE_SECONDS = 0.05
"""Between two of them, as the client beside the kernel makes it."""
BESIDE = "/tmp/beside.py"  # noqa: S108  # of the sandbox
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
    f"A sandbox of `{TEMPLATE}` is created and given a context, whose first cell is `{SUM}`; wall time from"
    " the call of the create until the cell's answer is there. The same with a cell that makes a DataFrame of"
    " 50 rows, draws it and shows both: a PNG, and the table as text, HTML and data. Then"
    f" `{SUM}` goes {WARM} times there and back over HTTP, and as often between the kernel and a client"
    " beside it in the machine (`benchmarks/beside.py`), which reads no more than it must: that is what the"
    " kernel and its sockets take whoever asks, and what a cell takes longer over HTTP is ours."
    " `warm_kernel_ms` is the time between the kernel's own words that it is busy and that it is idle,"
    " without its sockets."
)


def measure(stage: Stage, count: int) -> Answer:
    """Make `2 * count` sandboxes."""
    for _ in range(2):
        _sandbox(stage, Notebook(stage), TABLE)
    rehearsed(stage.server)
    notes = Notebook(stage)
    for number in stage.times(count, "sandboxes whose cells are timed"):
        with notes.attempt(f"sandbox {number}"):
            _sandbox(stage, notes, SUM, "first_cell_ms")
            _sandbox(stage, notes, TABLE, "first_table_ms")
    bars = [
        at_most(f"p50 of create to the first `{SUM}`", notes.of("first_cell_ms").p50, FIRST_MS, "ms"),
        at_most("p50 of create to a DataFrame and its plot", notes.of("first_table_ms").p50, TABLE_MS, "ms"),
        at_most(f"p50 of a warm `{SUM}`", notes.of("warm_cell_ms").p50, WARM_MS, "ms"),
        at_most(
            "by which its p50 is above that of a client beside the kernel",
            notes.of("warm_cell_ms").p50 - notes.of("warm_beside_ms").p50,
            OURS_MS,
            "ms",
        ),
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
        if code == SUM:
            _warm(stage.api, notes, sandbox_id, context)


def _warm(api: Api, notes: Notebook, sandbox_id: str, context: str) -> None:
    """Half of the cells before those of the client beside the kernel, and half behind them."""
    _over_http(api, notes, sandbox_id, context, WARM // 2)
    api.write(sandbox_id, BESIDE, Path(__file__).with_name("beside.py").read_bytes())
    said = api.exec(sandbox_id, "python3", BESIDE, f"{KERNELS}/{context}", str(WARM))[0]["stdout"]
    for line in said.split():
        notes.add(warm_beside_ms=float(line))
    _over_http(api, notes, sandbox_id, context, WARM - WARM // 2)


def _over_http(api: Api, notes: Notebook, sandbox_id: str, context: str, count: int) -> None:
    for _ in range(count):
        time.sleep(PAUSE_SECONDS)
        answer, elapsed = api.order(sandbox_id, f"repl/sessions/{context}/run", code=SUM)
        notes.add(warm_cell_ms=elapsed, warm_kernel_ms=answer["kernel_ms"])


QUESTION = Question("what a cell of code takes", measure, count=20, quick=2)
