"""The benchmarks: what they write has its shape, and they leave nothing, also when they are interrupted.

No figure is judged here: a figure means something on a quiet machine only, and `scripts/bench` tells it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from pandastack.testing.fixtures import LeakCheck, processes_with

ROOT = Path(__file__).parents[2]
DEADLINE = 300.0
"""Seconds for a whole run; the first one on a machine bakes the templates."""

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]


def start_bench(scratch: Path, *words: str) -> subprocess.Popen[str]:
    """A run whose server, state and machines all live below `scratch`."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def scratch(tmp_path: Path, leak_check: LeakCheck) -> Path:
    """An empty directory that must be empty again."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    leak_check.expect_empty(directory)
    return directory


def test_create_measures_and_leaves_nothing(scratch: Path, tmp_path: Path) -> None:
    with start_bench(scratch, "create", "--count", "3", "--out", str(tmp_path / "results")) as bench:
        said, _ = bench.communicate(timeout=DEADLINE)
    assert bench.returncode == 0, said
    result = json.loads((tmp_path / "results" / "create.json").read_text())
    assert result["question"] == "create"
    assert result["quick"] is True
    assert {"cpu", "cores", "kernel", "vmm", "accel", "isolation", "load_before"} <= result["host"].keys()
    check_answer(result["answer"])


def check_answer(answer: dict[str, Any]) -> None:
    """Three samples of everything, summarized rightly, each bar judged, nothing left behind."""
    assert {"create_ms", "bare_start_ms", "first_exec_ms", "delete_ms"} <= answer["samples"].keys()
    for name, values in answer["samples"].items():
        summary = answer["summaries"][name]
        assert len(values) == summary["count"] == 3
        assert summary["p50"] == pytest.approx(median(values), abs=0.001)
        assert summary["min"] <= summary["p50"] <= summary["p99"] <= summary["max"]
    for create, answered in zip(
        answer["samples"]["create_ms"], answer["samples"]["phase_answer_ms"], strict=True
    ):
        assert create > answered > 0
    assert min(answer["samples"]["bare_start_ms"]) > 0
    for bar in answer["bars"]:
        assert bar["met"] == (bar["measured"] <= bar["limit"])
    assert answer["findings"] == []


def test_an_interrupted_run_leaves_nothing(scratch: Path) -> None:
    with start_bench(scratch, "soak") as bench:
        await_machine(scratch, bench)
        bench.send_signal(signal.SIGINT)
        said, _ = bench.communicate(timeout=DEADLINE)
    assert bench.returncode == 130, said
    assert processes_with(str(scratch)) == set()


def await_machine(scratch: Path, bench: subprocess.Popen[str]) -> None:
    """Return once a machine below `scratch` runs (its record lives as long as it does)."""
    deadline = time.monotonic() + DEADLINE
    while not any(scratch.rglob("vm.json")):
        assert bench.poll() is None, bench.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
