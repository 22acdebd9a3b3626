"""How long until children of a running sandbox go on, what they hold, and how long it stands still."""

from __future__ import annotations

import time

from benchmarks.api import Refused
from benchmarks.create import GUIDE_MS
from benchmarks.memory import memory_of
from benchmarks.notebook import Notebook
from benchmarks.own import MB, base_of, fill, own_of, pid_of
from benchmarks.pause import PAUSE_HOW, pause_bars
from benchmarks.phases import phases
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, Bar, at_most
from benchmarks.standstill import Watch

OWN_BYTES = 8 << 20
SHARE = 5
"""Rounds before another parent takes over: what many forks of one cost is the question `chain`."""
WARM_UP = 3
TREES, SIBLINGS = 5, 16
IDLE_SECONDS = 10
QUIET_SECONDS = 0.1
LARGER = "code-interpreter"

FORK_LIMIT, TREE_LIMIT, CHILD_LIMIT_MB = 1.6, 10.0, 45.0

HOW = (
    f"A parent has {OWN_BYTES >> 20} MiB of random bytes in its memory; its pages are those that its base"
    " does not hold. In turn a sandbox is created, runs `true` and is deleted, and the parent is forked: the"
    " child has answered when the call returns, runs `true` and is deleted. After"
    f" {SHARE} rounds another parent takes over. Then {SIBLINGS} children at once, between creates; those of"
    " the last time are left alone and measured by smaps_rollup when the snapshot that they came from is"
    f" gone. MB are 10⁶ bytes. {PAUSE_HOW} The snapshots are taken of a parent from the larger template"
    f" {LARGER} too."
)


def measure(stage: Stage, count: int) -> Answer:
    """Fork about `count` times, rounded up to whole parents."""
    _warm_up(stage)
    notes = Notebook(stage)
    facts: dict[str, float | str] = {}
    parents, share = -(-count // SHARE), min(count, SHARE)
    for _ in stage.times(parents, f"parents that are forked {share} times"):
        _forks(stage, notes, share)
    _trees(stage, notes, min(TREES, count), min(IDLE_SECONDS, count))
    for _ in stage.times(parents, f"parents that are watched {share} times"):
        facts |= _pauses(stage, notes, share)
    return notes.answer(HOW, _bars(notes), facts | _ratios(notes))


def _warm_up(stage: Stage) -> None:
    """What the first of each costs does not count: code is loaded, templates are restored, folders made."""
    notes = Notebook(stage)
    for _ in range(WARM_UP):
        notes.create()
    with stage.api.sandbox() as parent, stage.api.sandbox(template=LARGER) as larger:
        _fork(stage, notes, parent)
        for each in (parent, larger):
            stage.api.drop(stage.api.order(each, "snapshots")[0]["id"])


def _forks(stage: Stage, notes: Notebook, share: int) -> None:
    with stage.api.sandbox() as parent:
        fill(stage.api, parent, OWN_BYTES)
        notes.add(parent_pages_MB=own_of(stage, parent, pid_of(stage.api, parent)).pages / MB)
        for number in range(share):
            with notes.attempt(f"fork {number}"):
                notes.create()
                _fork(stage, notes, parent)


def _fork(stage: Stage, notes: Notebook, parent: str) -> None:
    litter, fork = stage.api.order(parent, "fork")
    child = litter["sandbox"]
    try:
        _, first_exec = stage.api.exec(child["id"], "true")
    finally:
        stage.api.delete(child["id"])
    notes.add(fork_ms=fork, child_first_exec_ms=first_exec, fork_and_exec_ms=fork + first_exec)
    notes.add(**phases(child["phases_ms"], fork))


def _trees(stage: Stage, notes: Notebook, count: int, rest: int) -> None:
    with stage.api.sandbox() as parent:
        fill(stage.api, parent, OWN_BYTES)
        for number in stage.times(count, f"{SIBLINGS} children at once"):
            with notes.attempt(f"tree {number}"):
                notes.create()
                _tree(stage, notes, parent, rest if number == count - 1 else 0)


def _tree(stage: Stage, notes: Notebook, parent: str, rest: int) -> None:
    litter, wall = stage.api.order(parent, "fork-tree", count=SIBLINGS)
    children = [child["id"] for child in litter["children"]]
    for error in litter.get("errors", []):
        with notes.attempt(f"child {error['index']}"):
            raise Refused(error["error"])
    try:
        notes.add(tree_ms=wall)
        if rest:
            _weigh(stage, notes, children, rest)
    finally:
        for child in children:
            stage.api.delete(child)


def _weigh(stage: Stage, notes: Notebook, children: list[str], rest: int) -> None:
    pids = [pid_of(stage.api, child) for child in children]
    time.sleep(rest)
    for memory in map(memory_of, pids):
        notes.add(child_private_dirty_MB=memory.private_dirty / MB, child_pss_MB=memory.pss / MB)


def _pauses(stage: Stage, notes: Notebook, share: int) -> dict[str, float | str]:
    """Both parents' sizes, as facts."""
    with stage.api.sandbox() as parent, stage.api.sandbox(template=LARGER) as larger:
        for each in (parent, larger):
            fill(stage.api, each, OWN_BYTES)
        watch = Watch(stage.api, parent)
        watch.begin()
        facts = _sizes(stage, "", parent) | _sizes(stage, f" of {LARGER}", larger)
        for number in range(share):
            with notes.attempt(f"pause {number}"):
                notes.create()
                _pause(stage, notes, watch, parent)
                notes.add(pause_of_larger_base_ms=_snapshot(stage, larger))
        for name in ("quiet", "snapshot", "fork"):
            for longest in watch.longest(name):
                notes.add(**{f"guest_gap_{name}_ms": longest})
    return facts


def _pause(stage: Stage, notes: Notebook, watch: Watch, parent: str) -> None:
    with watch.moment("quiet"):
        time.sleep(QUIET_SECONDS)
    with watch.moment("snapshot"):
        notes.add(pause_ms=_snapshot(stage, parent))
    with watch.moment("fork"):
        litter, _ = stage.api.order(parent, "fork")
    stage.api.delete(litter["sandbox"]["id"])


def _snapshot(stage: Stage, sandbox_id: str) -> float:
    """How long the sandbox stood still, as the host tells."""
    snapshot, _ = stage.api.order(sandbox_id, "snapshots")
    stage.api.drop(snapshot["id"])
    return float(snapshot["pause_ms"])


def _sizes(stage: Stage, of: str, sandbox_id: str) -> dict[str, float | str]:
    pid = pid_of(stage.api, sandbox_id)
    pages, base = own_of(stage, sandbox_id, pid).pages, base_of(pid).stat()
    return {
        f"pages of a watched parent{of} that its base does not hold, MB": round(pages / MB, 2),
        f"memory of the base{of}, MB": round(base.st_size / MB),
        f"memory of the base{of} that is not empty, MB": round(base.st_blocks * 512 / MB),
    }


def _bars(notes: Notebook) -> list[Bar]:
    dirty = notes.of("child_private_dirty_MB")
    return [
        notes.within_creates("fork, the child answering", "fork_ms", FORK_LIMIT),
        at_most("p50 of fork", notes.of("fork_ms").p50, FORK_LIMIT * GUIDE_MS, "ms", guide=True),
        notes.within_creates(f"fork-tree of {SIBLINGS}, all answering", "tree_ms", TREE_LIMIT),
        at_most("p50 of fork-tree", notes.of("tree_ms").p50, TREE_LIMIT * GUIDE_MS, "ms", guide=True),
        at_most(
            f"private dirty memory of each of {SIBLINGS} idle children", dirty.mean, CHILD_LIMIT_MB, "MB"
        ),
        *pause_bars(notes),
    ]


def _ratios(notes: Notebook) -> dict[str, float | str]:
    larger, gap = notes.of("pause_of_larger_base_ms"), notes.of("guest_gap_fork_ms")
    quiet = notes.of("guest_gap_quiet_ms")
    return {
        "p50 of fork and first exec / p50 of create and first exec": round(
            notes.of("fork_and_exec_ms").p50 / notes.of("create_and_exec_ms").p50, 2
        ),
        "p50 of the pause with the larger base / with the plain one": round(
            larger.p50 / notes.of("pause_ms").p50, 2
        ),
        "p50 of the guest's gap during a fork less that of quiet moments, ms": round(gap.p50 - quiet.p50, 2),
    }


QUESTION = Question("how long until children of a running sandbox go on", measure, count=50, quick=2)
