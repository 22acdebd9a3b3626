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
        env={**os.environ, "TMPDIR": str(scratch), "PANDASTACK_REHEARSE": "false"},
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


def asked(scratch: Path, results: Path, question: str, *words: str) -> dict[str, Any]:
    """The answer to a question, which is whole: summarized rightly, each bar judged, nothing left behind."""
    with start_bench(scratch, question, *words, "--out", str(results)) as bench:
        said, _ = bench.communicate(timeout=DEADLINE)
    assert bench.returncode == 0, said
    result = json.loads((results / f"{question}.json").read_text())
    assert result["question"] == question
    assert result["quick"] is True
    assert {"cpu", "cores", "kernel", "vmm", "accel", "isolation", "load_before"} <= result["host"].keys()
    answer: dict[str, Any] = result["answer"]
    assert answer["findings"] == []
    assert answer["samples"].keys() == answer["summaries"].keys()
    for name, values in answer["samples"].items():
        summary = answer["summaries"][name]
        assert len(values) == summary["count"]
        assert summary["p50"] == pytest.approx(median(values), abs=0.001)
        assert summary["min"] <= summary["p50"] <= summary["p99"] <= summary["max"]
    for bar in answer["bars"]:
        assert bar["met"] == (bar["measured"] <= bar["limit"])
    return answer


def test_create_measures_and_leaves_nothing(scratch: Path, tmp_path: Path) -> None:
    answer = asked(scratch, tmp_path / "results", "create", "--count", "3")
    assert {"create_ms", "bare_start_ms", "first_exec_ms", "delete_ms"} <= answer["samples"].keys()
    assert {summary["count"] for summary in answer["summaries"].values()} == {3}
    for create, answered in zip(
        answer["samples"]["create_ms"], answer["samples"]["phase_answer_ms"], strict=True
    ):
        assert create > answered > 0
    assert min(answer["samples"]["bare_start_ms"]) > 0


MEASURED: dict[str, dict[str, int]] = {
    "fork": {
        **{"fork_ms": 2, "fork_and_exec_ms": 2, "tree_ms": 2, "child_private_dirty_MB": 16},
        **{"pause_ms": 2, "pause_of_larger_base_ms": 2},
        **{"guest_gap_quiet_ms": 2, "guest_gap_snapshot_ms": 2, "guest_gap_fork_ms": 2},
    },
    "snapshot": {"snapshot_ms": 10, "pause_ms": 10, "create_from_copy_ms": 5, "create_from_files_ms": 5},
    "hibernate": {"hibernate_ms": 4, "wake_ms": 2, "wake_and_exec_ms": 2, "at_once_ms": 100},
    "chain": {
        **{"fork_ms": 3, "link_create_ms": 3},
        **{"from_files_of_first_ms": 15, "from_files_of_last_ms": 15},
    },
}
"""How often a quick run measures what."""


@pytest.mark.parametrize("question", MEASURED)
def test_questions_of_state_measure_and_leave_nothing(scratch: Path, tmp_path: Path, question: str) -> None:
    answer = asked(scratch, tmp_path / "results", question, "--quick")
    counts = {name: summary["count"] for name, summary in answer["summaries"].items()}
    assert MEASURED[question].items() <= counts.items()
    phases = {name for name in counts if name.startswith("phase_")}
    assert all(min(answer["samples"][name]) > 0 for name in counts.keys() - phases)
    none = [bar for bar in answer["bars"] if bar["relation"] == "="]
    assert len(none) == 3  # failures, things left, processes left
    assert all(bar["met"] for bar in none)


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
