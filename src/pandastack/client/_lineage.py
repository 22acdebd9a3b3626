"""Snapshots and forks as values: what a sandbox was made from and what was made from it.

Answers that the official SDK gives as dictionaries are dictionaries here too, with their keys named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

from pandastack.client import _wire
from pandastack.client._wire import Call

S = TypeVar("S")


class Snapshot(TypedDict):
    """A sandbox's memory, devices and disk at one moment. `pause_ms` is how long its source stood still."""

    id: str
    sandbox_id: str
    workspace: str
    template: str
    kind: str
    """`user`: somebody asked for it. `checkpoint`: the server made it by itself."""
    state: str
    name: str
    comment: str
    cpu: int
    memory_mb: int
    size_bytes: int
    """What it takes by itself; what it shares with its template is not counted."""
    created_at: str
    host: str
    isolation: str
    parent_id: str | None
    """The snapshot that its sandbox was restored from, when that was no template."""
    pause_ms: float
    phases_ms: dict[str, float]
    step: int | None
    """Of a checkpoint: its place in the timeline of its sandbox."""
    command: str
    exit_code: int | None
    duration_ms: int | None
    damaged: NotRequired[str]
    """What was found wrong with its files, in one sentence; not there when nothing is."""


@dataclass(frozen=True)
class Step:
    """One point of a timeline: the state of a sandbox behind `command`; step 0 is before the first.

    `pause_ms` is how long the sandbox stood still for it; a `name` keeps it for good.
    """

    step: int
    snapshot_id: str
    at: str = ""
    command: str = ""
    exit_code: int | None = None
    duration_ms: int | None = None
    size_bytes: int = 0
    pause_ms: float = 0.0
    name: str = ""


@dataclass(frozen=True)
class MissedStep:
    """A command behind which no checkpoint could be taken, and why. It has no number."""

    at: str = ""
    command: str = ""
    error: str = ""


class ForkFailure(TypedDict):
    """A child that did not come up: which one, and the sentence and the code of its error."""

    index: int
    error: str
    code: str


class Promotion(TypedDict):
    """What a promotion did: who won, which siblings are gone, and which could not be removed and why."""

    winner: str
    tree_id: str | None
    deleted: list[str]
    failures: dict[str, str]


class LineageNode(TypedDict):
    """A sandbox among its relatives. `via_snapshot` is what it was restored from."""

    id: str
    parent_id: str | None
    status: str
    template: str
    created_at: str
    tree_id: str | None
    via_snapshot: str | None
    promoted: NotRequired[bool]
    """It won its fork tree."""


class Lineage(TypedDict):
    """Ancestors and descendants of a sandbox, those that are gone too as long as they are remembered."""

    root: str
    nodes: list[LineageNode]


class ForkTree(list[S], Generic[S]):
    """The children of one `fork_tree` in the order of their index, as a list.

    A child that did not come up is missing and told in `errors`; `fork_index` in the metadata of the others
    says which each one is.
    """

    def __init__(
        self,
        children: Iterable[S],
        *,
        tree_id: str = "",
        snapshot_id: str = "",
        errors: Sequence[ForkFailure] = (),
    ) -> None:
        super().__init__(children)
        self.tree_id = tree_id
        self.snapshot_id = snapshot_id
        self.errors = list(errors)


def snapshot_call(sandbox_id: str, name: str | None, comment: str | None) -> Call:
    """The request for a snapshot."""
    path = f"/sandboxes/{_wire.segment(sandbox_id)}/snapshots"
    body = _wire.clean(name=name, comment=comment) or None
    return Call(method="POST", path=path, json=body, read_timeout=_wire.SNAPSHOT_SECONDS)


def failures_of(answer: Mapping[str, Any]) -> list[ForkFailure]:
    """The children that an answer tells did not come up."""
    return [
        ForkFailure(
            index=int(each.get("index", 0)),
            error=str(each.get("error") or each.get("err") or ""),
            code=str(each.get("code") or ""),
        )
        for each in answer.get("errors") or []
    ]


def child_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The first child of a fork: the whole object where the server sends it, else what it tells."""
    children = answer.get("children") or [answer.get("id")]
    found = answer.get("sandbox") or children[0]
    return dict(found) if isinstance(found, Mapping) else {"id": found}


def children_of(answer: Any) -> list[dict[str, Any]]:  # noqa: ANN401  # any JSON value
    """The children of a fork-tree, in the order of the answer."""
    listed = answer.get("children") or [] if isinstance(answer, Mapping) else answer
    return [dict(each) if isinstance(each, Mapping) else {"id": each} for each in listed or []]
