"""What a snapshot of a running sandbox costs: time, standing still, storage, and a create from it."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.api import JSON, Refused
from benchmarks.notebook import Notebook
from benchmarks.own import MB, fill, own_of, pid_of
from benchmarks.pause import pause_bars
from benchmarks.phases import phases
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, at_most
from pandastack.host.zygotes import MOST_COPIES

OWN_BYTES = 8 << 20
SNAPSHOTS = MOST_COPIES + 2
"""Of one sandbox: enough that no copy of a process serves the first of them any more."""
CREATES = 5
WARM_UP = 3
STORAGE_LIMIT = 1.05
VERB_LIMIT_MS = 5.0

FROM_FILES = frozenset({"load", "spawn"})
"""Phases of a start from files: they are read into a fork of the base, or by a process that is started."""

HOW = (
    f"A sandbox has {OWN_BYTES >> 20} MiB of random bytes in its memory. In turn another is created, runs"
    " `true` and is deleted, and a snapshot is taken of the first; what it has of its own, pages that its"
    " base does not hold and what disk layers take that no earlier snapshot has, is counted just before. The"
    f" snapshot is on the disk, with its hashes, when the call returns. {CREATES} sandboxes are created from"
    f" the first snapshot while the copy of a process serves it, and {CREATES} more after {SNAPSHOTS}"
    " snapshots, when it is restored from its files. The pause is what the host tells. Behind each its"
    " sandbox is paused and resumed by two calls of their own."
)


def measure(stage: Stage, count: int) -> Answer:
    """Take about `count` snapshots, rounded up to whole sandboxes."""
    _warm_up(stage)
    notes = Notebook(stage)
    for _ in stage.times(-(-count // SNAPSHOTS), f"sandboxes, {SNAPSHOTS} snapshots of each"):
        _snapshots(stage, notes)
    size = notes.of("size_to_own_ratio").max
    return notes.answer(
        HOW,
        [
            *pause_bars(notes),
            at_most("p50 of pausing a sandbox", notes.of("verb_pause_ms").p50, VERB_LIMIT_MS, "ms"),
            at_most("p50 of resuming it", notes.of("verb_resume_ms").p50, VERB_LIMIT_MS, "ms"),
            at_most("largest size of a snapshot / what its sandbox had of its own", size, STORAGE_LIMIT, "×"),
        ],
        {
            f"p50 of {what} / p50 of create": round(notes.creates(name), 2)
            for what, name in (
                ("snapshot", "snapshot_ms"),
                ("create from the copy of a process", "create_from_copy_ms"),
                ("create from files", "create_from_files_ms"),
            )
        },
    )


def _warm_up(stage: Stage) -> None:
    notes = Notebook(stage)
    for _ in range(WARM_UP):
        notes.create()
    with stage.api.sandbox() as source:
        snapshot, _ = stage.api.order(source, "snapshots")
        _create_from(stage, notes, snapshot, "copy")
        stage.api.drop(snapshot["id"])


def _snapshots(stage: Stage, notes: Notebook) -> None:
    with stage.api.sandbox() as source, ExitStack() as taken:
        fill(stage.api, source, OWN_BYTES)
        pid = pid_of(stage.api, source)
        snapshots: list[JSON] = []
        for number in range(SNAPSHOTS):
            with notes.attempt(f"snapshot {number}"):
                notes.create()
                snapshots.append(_snapshot(stage, notes, source, pid))
                taken.callback(stage.api.drop, snapshots[-1]["id"])
            if number == 0:
                _creates_from(stage, notes, snapshots[:1], "copy")
        _creates_from(stage, notes, snapshots[:1], "files")


def _snapshot(stage: Stage, notes: Notebook, source: str, pid: int) -> JSON:
    own = own_of(stage, source, pid)
    snapshot, wall = stage.api.order(source, "snapshots")
    size, fresh = snapshot["size_bytes"], own.pages + own.fresh
    notes.add(snapshot_ms=wall, pause_ms=snapshot["pause_ms"], **phases(snapshot["phases_ms"], wall))
    notes.add(own_pages_MB=own.pages / MB, own_disk_MB=own.fresh / MB)
    notes.add(size_MB=size / MB, size_to_own_ratio=size / fresh)
    for verb in ("pause", "resume"):
        notes.add(**{f"verb_{verb}_ms": stage.api.order(source, verb)[1]})
    return snapshot


def _creates_from(stage: Stage, notes: Notebook, snapshots: list[JSON], served_by: str) -> None:
    for snapshot in snapshots * CREATES:
        with notes.attempt(f"create from {served_by}"):
            notes.create()
            _create_from(stage, notes, snapshot, served_by)


def _create_from(stage: Stage, notes: Notebook, snapshot: JSON, served_by: str) -> None:
    """Refused when it was served otherwise: the figure would be another one's."""
    sandbox, create = stage.api.create(from_snapshot=snapshot["id"])
    try:
        _, first_exec = stage.api.exec(sandbox["id"], "true")
    finally:
        stage.api.delete(sandbox["id"])
    served = "copy" if FROM_FILES.isdisjoint(sandbox["phases_ms"]) else "files"
    if served != served_by:
        raise Refused(f"It was created from {served}: {sandbox['phases_ms']}")
    notes.add(
        **{f"create_from_{served}_ms": create, f"create_from_{served}_and_exec_ms": create + first_exec}
    )


QUESTION = Question("what a snapshot of a running sandbox costs", measure, count=50, quick=1)
