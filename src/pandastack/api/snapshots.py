"""Snapshots, forks, sleep and rollback over HTTP."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from pandastack.api.calls import Api
from pandastack.api.keys import created, key_of
from pandastack.api.sandboxes import SandboxView, view
from pandastack.endpoint import Nothing, Reply
from pandastack.model.snapshot import (
    ChildError,
    ForkRequest,
    ForkTreeRequest,
    PromoteRequest,
    Promotion,
    Snapshot,
    SnapshotChange,
    SnapshotRequest,
    WakeRequest,
)


class SnapshotList(Struct, frozen=True):
    """Snapshots, newest first."""

    snapshots: list[Snapshot]


class WhichSnapshots(Struct, frozen=True):
    """Only those of this sandbox."""

    sandbox_id: str | None = None


class Forked(Struct, frozen=True, omit_defaults=True):
    """What a fork gave. `sandbox` is the first of `sandboxes`; `errors` tells of those that there are not."""

    parent_id: str
    snapshot_id: str
    children: list[str]
    sandbox: SandboxView
    sandboxes: list[SandboxView]
    at: datetime
    errors: list[ChildError] = []


class ForkedTree(Struct, frozen=True, omit_defaults=True):
    """What a fork tree gave, in the order of the index."""

    tree_id: str
    parent_id: str
    snapshot_id: str
    children: list[SandboxView]
    at: datetime
    errors: list[ChildError] = []


class Told(Struct, frozen=True):
    """The state that a sandbox is in now."""

    status: str


async def take(call: Api[SnapshotRequest, Nothing]) -> Reply:
    made = await call.app.snapshots.take(call.caller, call.path["sandbox_id"], call.body, key_of(call))
    return created(made, made.value)


async def list_of(call: Api[None, Nothing]) -> SnapshotList:
    return SnapshotList(await call.app.snapshots.list_of(call.caller, call.path["sandbox_id"]))


async def list_all(call: Api[None, WhichSnapshots]) -> SnapshotList:
    return SnapshotList(await call.app.snapshots.list(call.caller, call.query.sandbox_id))


async def get(call: Api[None, Nothing]) -> Snapshot:
    return await call.app.snapshots.get(call.caller, call.path["snapshot_id"])


async def change(call: Api[SnapshotChange, Nothing]) -> Snapshot:
    return await call.app.snapshots.change(call.caller, call.path["snapshot_id"], call.body)


async def delete(call: Api[None, Nothing]) -> None:
    await call.app.snapshots.delete(call.caller, call.path["snapshot_id"])


async def fork(call: Api[ForkRequest, Nothing]) -> Reply:
    made = await call.app.forks.fork(call.caller, call.path["sandbox_id"], call.body, key_of(call))
    litter = made.value
    views = [view(child) for child in litter.children]
    forked = Forked(
        parent_id=litter.parent_id,
        snapshot_id=litter.snapshot_id,
        children=[child.id for child in litter.children],
        sandbox=views[0],
        sandboxes=views,
        at=litter.at,
        errors=litter.errors,
    )
    return created(made, forked)


async def fork_tree(call: Api[ForkTreeRequest, Nothing]) -> Reply:
    made = await call.app.forks.fork_tree(call.caller, call.path["sandbox_id"], call.body, key_of(call))
    litter = made.value
    forked = ForkedTree(
        tree_id=litter.tree_id or "",
        parent_id=litter.parent_id,
        snapshot_id=litter.snapshot_id,
        children=[view(child) for child in litter.children],
        at=litter.at,
        errors=litter.errors,
    )
    return created(made, forked)


async def promote(call: Api[PromoteRequest, Nothing]) -> Promotion:
    return await call.app.forks.promote(call.caller, call.path["sandbox_id"], call.body)


async def hibernate(call: Api[None, Nothing]) -> Told:
    await call.app.sleep.hibernate(call.caller, call.path["sandbox_id"])
    return Told("hibernated")


async def wake(call: Api[WakeRequest, Nothing]) -> Told:
    await call.app.sleep.wake(call.caller, call.path["sandbox_id"], disk_only=call.body.disk_only)
    return Told("running")
