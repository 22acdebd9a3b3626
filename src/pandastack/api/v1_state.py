"""The rows of the table of endpoints that keep, branch and restore the state of sandboxes."""

from __future__ import annotations

from pandastack.api import snapshots, timelines, transfers
from pandastack.api.sandboxes import SandboxView
from pandastack.endpoint import Endpoint
from pandastack.model.account import Scope
from pandastack.model.diff import Diff, DiffRequest
from pandastack.model.snapshot import (
    AtRequest,
    ForkRequest,
    ForkTreeRequest,
    PromoteRequest,
    Promotion,
    RollbackRequest,
    Snapshot,
    SnapshotChange,
    SnapshotRequest,
    Timeline,
    WakeRequest,
)

ONE = "/v1/sandboxes/{sandbox_id}"
ALL_SNAPSHOTS = "/v1/snapshots"
ONE_SNAPSHOT = "/v1/snapshots/{snapshot_id}"

READ, ADMIN = Scope.READ, Scope.ADMIN


STATE: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        f"{ONE}/snapshots",
        snapshots.take,
        "Take a snapshot",
        body=SnapshotRequest,
        answer=Snapshot,
        status=201,
        audited=True,
        patient=True,
    ),
    Endpoint(
        "GET",
        f"{ONE}/snapshots",
        snapshots.list_of,
        "List the snapshots of a sandbox",
        scope=READ,
        answer=snapshots.SnapshotList,
    ),
    Endpoint(
        "GET",
        ALL_SNAPSHOTS,
        snapshots.list_all,
        "List snapshots",
        scope=READ,
        query=snapshots.WhichSnapshots,
        answer=snapshots.SnapshotList,
    ),
    Endpoint(
        "POST",
        f"{ALL_SNAPSHOTS}/archive",
        transfers.take_in,
        "Import a snapshot from a file",
        scope=ADMIN,
        query=transfers.Labels,
        raw_body=True,
        answer=Snapshot,
        status=201,
        audited=True,
    ),
    Endpoint(
        "GET",
        f"{ONE_SNAPSHOT}/archive",
        transfers.export,
        "Export a snapshot as a file",
        scope=ADMIN,
        media=transfers.OCTETS,
    ),
    Endpoint("GET", ONE_SNAPSHOT, snapshots.get, "Get a snapshot", scope=READ, answer=Snapshot),
    Endpoint(
        "PATCH",
        ONE_SNAPSHOT,
        snapshots.change,
        "Name a snapshot",
        body=SnapshotChange,
        answer=Snapshot,
        audited=True,
    ),
    Endpoint("DELETE", ONE_SNAPSHOT, snapshots.delete, "Delete a snapshot", status=204, audited=True),
    Endpoint(
        "POST",
        f"{ONE}/fork",
        snapshots.fork,
        "Fork a sandbox",
        body=ForkRequest,
        answer=snapshots.Forked,
        status=201,
        audited=True,
        patient=True,
    ),
    Endpoint(
        "POST",
        f"{ONE}/fork-tree",
        snapshots.fork_tree,
        "Fork a sandbox into siblings of one tree",
        body=ForkTreeRequest,
        answer=snapshots.ForkedTree,
        status=201,
        audited=True,
        patient=True,
    ),
    Endpoint(
        "POST",
        f"{ONE}/promote",
        snapshots.promote,
        "Keep the best of a fork tree",
        body=PromoteRequest,
        answer=Promotion,
        audited=True,
        patient=True,
    ),
    *(
        Endpoint(
            "POST",
            f"{ONE}/{name}",
            snapshots.hibernate,
            summary,
            answer=snapshots.Told,
            audited=True,
            patient=True,
        )
        for name, summary in (("hibernate", "Put it to sleep on the disk"), ("stop", "The same as hibernate"))
    ),
    *(
        Endpoint(
            "POST",
            f"{ONE}/{name}",
            snapshots.wake,
            summary,
            body=WakeRequest,
            answer=snapshots.Told,
            audited=True,
            patient=True,
        )
        for name, summary in (("wake", "Let it go on where it stopped"), ("start", "The same as wake"))
    ),
    Endpoint(
        "POST",
        f"{ONE}/rollback",
        timelines.rollback,
        "Go back to a snapshot in place",
        body=RollbackRequest,
        answer=SandboxView,
        audited=True,
        patient=True,
    ),
    Endpoint(
        "GET",
        f"{ONE}/timeline",
        timelines.timeline,
        "The checkpoints that were taken of it",
        scope=READ,
        answer=Timeline,
    ),
    Endpoint(
        "POST",
        f"{ONE}/at",
        timelines.at,
        "A new sandbox that goes on from a step",
        body=AtRequest,
        answer=SandboxView,
        status=201,
        audited=True,
        patient=True,
    ),
    Endpoint(
        "POST",
        "/v1/diff",
        timelines.diff,
        "What differs between two sandboxes, steps or snapshots",
        body=DiffRequest,
        answer=Diff,
        patient=True,
    ),
)
