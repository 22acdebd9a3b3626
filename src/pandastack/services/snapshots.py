"""Snapshots that people take and keep."""

from __future__ import annotations

from functools import partial

from msgspec.structs import asdict

from pandastack.errors import NotSupported
from pandastack.model.account import Caller, SnapshotQuota
from pandastack.model.sandbox import AWAKE, SandboxState
from pandastack.model.snapshot import Snapshot, SnapshotChange, SnapshotKind, SnapshotRequest
from pandastack.services.archive import Archive
from pandastack.services.causes import wrong_state
from pandastack.services.ground import Ground
from pandastack.services.keys import Made, identify
from pandastack.store.idempotency import Identity


class Snapshots:
    """The verbs on snapshots. A caller sees its workspace's alone: another's is SnapshotNotFound."""

    def __init__(self, ground: Ground, archive: Archive) -> None:
        self._ledger = ground.ledger
        self._archive = archive
        self._activity = ground.activity
        self._causes = ground.causes
        self._turns = ground.turns
        self._keys = ground.keys

    async def take(
        self, caller: Caller, sandbox_id: str, request: SnapshotRequest, key: str | None = None
    ) -> Made[Snapshot]:
        """Keep it as it is at this moment, durably; it goes on, and a paused one stays paused.

        With the same `key` again: the same snapshot. On any error nothing of it is left. Errors:
        SandboxNotFound, Conflict, NotSupported, QuotaExceeded, NoSpace, OutcomeUnknown, MachineError,
        IdempotencyMismatch, InFlight.
        """
        identity = identify(key, request, "snapshot", sandbox_id)
        taking = partial(self._take, caller, sandbox_id, request, identity)
        made_before = partial(self._archive.made_before, caller.workspace)
        return await self._keys.once(caller, identity, taking, made_before)

    async def _take(
        self, caller: Caller, sandbox_id: str, request: SnapshotRequest, identity: Identity | None
    ) -> Snapshot:
        async with self._turns.turn(sandbox_id):
            found = await self._ledger.find(caller, sandbox_id)
            if found.status is SandboxState.HIBERNATED:
                raise NotSupported(
                    f"Sandbox {sandbox_id} is hibernated, which keeps its state; wake it to snapshot it."
                )
            if found.status not in AWAKE:
                raise wrong_state(found, SandboxState.RUNNING)
            async with (
                self._causes.explaining(caller, sandbox_id),
                self._archive.taken(found, SnapshotKind.USER, request, identity=identity) as snapshot,
            ):
                published = await self._archive.publish(snapshot, caller)
        self._activity.touch(sandbox_id)
        return published

    async def get(self, caller: Caller, snapshot_id: str) -> Snapshot:
        """With what is wrong with it, when that is known. Errors: SnapshotNotFound."""
        found = await self._archive.find_shown(caller.workspace, snapshot_id)
        return (await self._archive.examined([found]))[0]

    async def quota(self, caller: Caller) -> SnapshotQuota:
        """What its workspace may keep, and keeps."""
        return await self._archive.quota(caller.workspace)

    async def change(self, caller: Caller, snapshot_id: str, change: SnapshotChange) -> Snapshot:
        """Give it another name or comment; a checkpoint with a name is kept until somebody deletes it.

        Errors: SnapshotNotFound.
        """
        await self._archive.find_shown(caller.workspace, snapshot_id)
        given = {name: value for name, value in asdict(change).items() if value is not None}
        changed = await self._archive.change(caller, snapshot_id, given)
        return (await self._archive.examined([changed]))[0]

    async def list_of(self, caller: Caller, sandbox_id: str) -> list[Snapshot]:
        """Those of a sandbox that is remembered. Errors: SandboxNotFound."""
        await self._ledger.find_any(caller, sandbox_id)
        return await self.list(caller, sandbox_id)

    async def delete(self, caller: Caller, snapshot_id: str) -> None:
        """Remove it; sandboxes and snapshots that descend from it stay whole. Errors: SnapshotNotFound."""
        snapshot = await self._archive.find_shown(caller.workspace, snapshot_id)
        await self._archive.delete(caller, snapshot)

    async def list(self, caller: Caller, sandbox_id: str | None = None) -> list[Snapshot]:
        """All of the workspace, or those of one sandbox (which may be gone), newest first."""
        return await self._archive.examined(await self._archive.shown(caller.workspace, sandbox_id))
