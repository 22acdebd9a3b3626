"""A snapshot: a sandbox's memory, devices and disk at one moment."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from pandastack.model.egress import Egress
from pandastack.model.sandbox import Isolation, Sandbox


class SnapshotKind(StrEnum):
    """What a snapshot is for. People see USER and CHECKPOINT; the others are ours."""

    USER = "user"
    CHECKPOINT = "checkpoint"
    HIBERNATION = "hibernation"
    FORK = "fork"


class SnapshotState(StrEnum):
    """Where a snapshot stands. Only a READY one was ever acknowledged."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"


MOVES: dict[SnapshotState, frozenset[SnapshotState]] = {
    SnapshotState.CREATING: frozenset({SnapshotState.READY, SnapshotState.DELETING}),
    SnapshotState.READY: frozenset({SnapshotState.DELETING}),
    SnapshotState.DELETING: frozenset(),
}
"""Legal moves; the row of one that is gone is removed."""

SHOWN = frozenset({SnapshotKind.USER, SnapshotKind.CHECKPOINT})
"""Kinds that can be listed, restored and deleted by name."""

Label = Annotated[str, Meta(max_length=128)]
Comment = Annotated[str, Meta(max_length=4096)]


class SnapshotRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST …/snapshots`; nothing of it is needed, and names need not be unique."""

    name: Label = ""
    comment: Comment = ""


class Snapshot(Struct, frozen=True):
    """A snapshot as its owner sees it. Sizes are bytes and MiB; `pause_ms` is how long the sandbox stood
    still.
    """

    id: str
    sandbox_id: str
    workspace: str
    template: str
    kind: SnapshotKind
    state: SnapshotState
    cpu: int
    memory_mb: int
    created_at: datetime
    host: str
    isolation: Isolation
    name: str = ""
    comment: str = ""
    size_bytes: int = 0
    parent_id: str | None = None
    """The snapshot that its sandbox was made from."""
    pause_ms: float = 0.0
    phases_ms: dict[str, float] = {}
    step: int | None = None
    """Of a checkpoint: its place in the timeline of its sandbox."""
    command: str = ""
    """Of a checkpoint: the beginning of the command behind which it was taken; none for the first."""
    exit_code: int | None = None
    duration_ms: int | None = None
    egress: Egress | None = None
    """What its sandbox might reach, and so what one that is made from it may unless it is told otherwise."""
    damaged: str | UnsetType = UNSET
    """What its host found wrong with its files, in one sentence; not there when nothing is."""


class SnapshotChange(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PATCH …/snapshots/{id}`; what is left out stays."""

    name: Label | None = None
    comment: Comment | None = None


class Deed(Struct, frozen=True):
    """The command behind which a checkpoint is taken: the beginning of its line, and how it ended."""

    command: str = ""
    exit_code: int | None = None
    duration_ms: int | None = None


class Step(Struct, frozen=True):
    """One point of a timeline: the state of the sandbox behind `command`; step 0 is before the first."""

    step: int
    snapshot_id: str
    at: datetime
    command: str
    exit_code: int | None
    duration_ms: int | None
    size_bytes: int
    pause_ms: float
    name: str


class MissedStep(Struct, frozen=True):
    """A command behind which no checkpoint could be taken, and why; it has no number."""

    at: datetime
    command: str
    error: str


class Timeline(Struct, frozen=True):
    """The checkpoints of one sandbox, oldest first, and the newest of those that are missing."""

    steps: list[Step]
    missing: list[MissedStep] = []


class AtRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST …/at`: a step (negative ones count from the end) or a snapshot, not both."""

    step: int | None = None
    snapshot_id: str | None = None
    metadata: dict[str, str] = {}
    ttl_seconds: int | None = None
    persistent: bool = False


Count = Annotated[int, Meta(ge=1, le=16)]


class ForkRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST …/fork`. All children are forks of one moment; `mode` is taken and has no meaning."""

    count: Count = 1
    metadata: dict[str, str] = {}
    ttl_seconds: int | None = None
    persistent: bool = False
    mode: object = None


class ForkTreeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST …/fork-tree`: a fork whose children know each other as siblings of one tree."""

    count: Count = 2
    metadata: dict[str, str] = {}
    ttl_seconds: int | None = None
    persistent: bool = False


class ChildError(Struct, frozen=True):
    """Why one child of a fork does not exist. `err` and `error` are the same sentence."""

    index: int
    err: str
    error: str
    code: str


class Litter(Struct, frozen=True):
    """What a fork gave: the children that run, in their order, and why the others do not."""

    parent_id: str
    snapshot_id: str
    children: list[Sandbox]
    errors: list[ChildError]
    at: datetime
    tree_id: str | None = None


class Fork(Struct, frozen=True):
    """A fork as it is remembered. Until it is complete, `at` is None and `children` are those to come."""

    id: str
    workspace: str
    parent_id: str
    snapshot_id: str
    tree_id: str | None
    children: list[str]
    begun_at: datetime
    errors: list[ChildError] = []
    at: datetime | None = None


class PromoteRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST …/promote`. Without a `tree_id` the sandbox's own is meant."""

    cleanup_siblings: bool = False
    tree_id: str | None = None


class Promotion(Struct, frozen=True):
    """The winner of a fork tree, the siblings that were removed, and why others were not."""

    winner: str
    tree_id: str | None
    deleted: list[str]
    failures: dict[str, str]


class RollbackRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST …/rollback`: a snapshot, or a step of the sandbox's own timeline. With `disk_only` it
    boots from the disk of that, without what was in memory.
    """

    snapshot_id: str | None = None
    step: int | None = None
    disk_only: bool = False


class WakeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST …/wake`. With `disk_only` it boots from the disk of its image, without what was in
    memory.
    """

    disk_only: bool = False
