"""Timelines: the checkpoints of a sandbox in their order, and how to go on from one."""

from __future__ import annotations

from functools import partial

from pandastack.errors import InvalidRequest, SnapshotNotFound
from pandastack.model.account import Caller
from pandastack.model.sandbox import Event, Sandbox, SandboxCreate
from pandastack.model.snapshot import (
    AtRequest,
    MissedStep,
    RollbackRequest,
    Snapshot,
    SnapshotState,
    Step,
    Timeline,
)
from pandastack.services.archive import Archive
from pandastack.services.births import Births
from pandastack.services.ground import Ground
from pandastack.services.keys import Made, identify
from pandastack.services.recorder import FAILED
from pandastack.store import events
from pandastack.store.idempotency import Identity

MISSING_MOST = 200
"""So many of those that are missing are told: as many as steps may be kept."""


class Timelines:
    """The verbs on timelines. All wait for the checkpoint that is being taken, and none wakes a sandbox."""

    def __init__(self, ground: Ground, archive: Archive, births: Births) -> None:
        self._database = ground.database
        self._ledger = ground.ledger
        self._turns = ground.turns
        self._keys = ground.keys
        self._archive = archive
        self._births = births

    async def get(self, caller: Caller, sandbox_id: str) -> Timeline:
        """Its steps, oldest first, of one that is gone too as long as any are kept, and those that could not
        be taken. Errors: SandboxNotFound.
        """
        steps = [_step(each) for each in await self._steps(caller, sandbox_id)]
        query = partial(events.newest, sandbox_id=sandbox_id, kind=FAILED, limit=MISSING_MOST)
        return Timeline(steps, [_missed(event) for event in await self._database.read(query)])

    async def at(
        self, caller: Caller, sandbox_id: str, request: AtRequest, key: str | None = None
    ) -> Made[Sandbox]:
        """A new sandbox that goes on from there; with the same `key` again the same one. Errors:
        SandboxNotFound, SnapshotNotFound, and those of a create.
        """
        identity = identify(key, request, "at", sandbox_id)
        making = partial(self._make, caller, sandbox_id, request, identity)
        return await self._keys.once(caller, identity, making, partial(self._births.made, caller))

    async def _make(
        self, caller: Caller, sandbox_id: str, request: AtRequest, identity: Identity | None
    ) -> Sandbox:
        create = SandboxCreate(
            from_snapshot=await self.named(caller, sandbox_id, request),
            metadata=request.metadata,
            ttl_seconds=request.ttl_seconds,
            persistent=request.persistent,
        )
        return await self._births.make(caller, create, identity)

    async def named(self, caller: Caller, sandbox_id: str, request: AtRequest | RollbackRequest) -> str:
        """The id of the snapshot that a request names by itself or by its step.

        Errors: InvalidRequest unless it does just one of both; SandboxNotFound; SnapshotNotFound for a step
        that there is not.
        """
        await self._ledger.find_any(caller, sandbox_id)
        if (request.step is None) == (request.snapshot_id is None):
            raise InvalidRequest("step or snapshot_id required: say where to go on from, in one way.")
        if request.step is not None:
            return (await self.point(caller, sandbox_id, request.step)).id
        return request.snapshot_id or ""

    async def point(self, caller: Caller, sandbox_id: str, step: int) -> Snapshot:
        """The checkpoint of a step; negative ones count from the end, -1 is the newest.

        Errors: SandboxNotFound, SnapshotNotFound.
        """
        steps = await self._steps(caller, sandbox_id)
        if step < 0 and len(steps) >= -step:
            return steps[step]
        if (found := next((each for each in steps if each.step == step), None)) is not None:
            return found
        if not steps:
            raise SnapshotNotFound(
                f"Sandbox {sandbox_id} has no steps: checkpoints are kept of one with checkpoints "
                '"exec", from then on.'
            )
        there = ", ".join(str(each.step) for each in steps)
        raise SnapshotNotFound(f"Sandbox {sandbox_id} has no step {step}; it has {there}.")

    async def _steps(self, caller: Caller, sandbox_id: str) -> list[Snapshot]:
        await self._ledger.find_any(caller, sandbox_id)
        await self._turns.settled(sandbox_id)
        found = await self._archive.shown(caller.workspace, sandbox_id)
        ready = [each for each in found if each.step is not None and each.state is SnapshotState.READY]
        return sorted(ready, key=lambda each: each.step or 0)


def _missed(event: Event) -> MissedStep:
    return MissedStep(event.time, str(event.payload["command"]), str(event.payload["error"]))


def _step(snapshot: Snapshot) -> Step:
    return Step(
        step=snapshot.step or 0,
        snapshot_id=snapshot.id,
        at=snapshot.created_at,
        command=snapshot.command,
        exit_code=snapshot.exit_code,
        duration_ms=snapshot.duration_ms,
        size_bytes=snapshot.size_bytes,
        pause_ms=snapshot.pause_ms,
        name=snapshot.name,
    )
