"""Snapshots that leave this server as files, and that come to it as files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from msgspec import structs

from pandastack.errors import SnapshotNotFound
from pandastack.model.account import Caller
from pandastack.model.host import ImportSpec
from pandastack.model.snapshot import Snapshot, SnapshotKind, SnapshotRequest, SnapshotState
from pandastack.services.archive import Archive, as_reported
from pandastack.services.ground import Ground
from pandastack.services.keys import Made, identify
from pandastack.services.ledger import Story
from pandastack.store import sandboxes
from pandastack.store.idempotency import Identity


class Transfers:
    """Exports and imports of snapshots. A caller sees its workspace's alone."""

    def __init__(self, ground: Ground, archive: Archive) -> None:
        self._database = ground.database
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._clock = ground.clock
        self._new_id = ground.new_id
        self._failpoint = ground.failpoint
        self._keys = ground.keys
        self._patience = ground.terms.create_timeout_seconds
        self._archive = archive

    @asynccontextmanager
    async def exported(self, caller: Caller, snapshot_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The file of a snapshot, piece by piece, within the block, in which its host keeps it. That it was
        asked for is on record.

        Errors, before the block: SnapshotNotFound, SnapshotRefused for one that is damaged.
        """
        found = await self._archive.find_shown(caller.workspace, snapshot_id)
        if found.state is not SnapshotState.READY:
            raise SnapshotNotFound(f"Snapshot {snapshot_id} is still being made.")
        async with AsyncExitStack() as stack:
            stack.enter_context(self._archive.pinned(snapshot_id))
            exporting = self._placement.host_of(snapshot_id).export_snapshot(snapshot_id)
            opening = stack.enter_async_context(exporting)
            content = await self._placement.ordered(opening, "export_snapshot", seconds=self._patience)
            story = Story(caller=caller)
            await self._database.write(partial(self._ledger.tell, sandbox_id=found.sandbox_id, story=story))
            yield content

    async def take_in(
        self, caller: Caller, label: SnapshotRequest, content: AsyncIterator[bytes], key: str | None = None
    ) -> Made[Snapshot]:
        """Keep the snapshot whose file is `content`, in the caller's workspace, under an id of its own.

        With the same `key` again: the same snapshot, and the file is not looked at. On any error and on
        cancellation nothing of it is left. Errors: ArchiveRefused, SnapshotRefused when the host cannot
        restore it, SnapshotQuotaExceeded, NoSpace, IdempotencyMismatch, InFlight.
        """
        identity = identify(key, label, "import")
        taking = partial(self._take_in, caller, label, content, identity)
        made_before = partial(self._archive.made_before, caller.workspace)
        return await self._keys.once(caller, identity, taking, made_before)

    async def _take_in(
        self, caller: Caller, label: SnapshotRequest, content: AsyncIterator[bytes], identity: Identity | None
    ) -> Snapshot:
        room = await self._archive.room(caller.workspace)
        draft = await self._archive.begun(self._draft(caller, label), identity)
        try:
            await self._failpoint("import.drafted")
            host = self._placement.host_of(draft.id)
            report = await host.import_snapshot(ImportSpec(draft.id, room), content)
            await self._failpoint("import.arrived")
            arrived = structs.replace(
                as_reported(draft, report),
                template=report.template,
                sandbox_id=await self._origin(caller, report.vm),
            )
            return await self._archive.publish(arrived, caller, event="")
        finally:
            await self._archive.give_up(draft)

    async def _origin(self, caller: Caller, sandbox_id: str) -> str:
        """The sandbox that it was taken of, unless that is another workspace's here."""
        found = await self._database.glance(partial(sandboxes.find, sandbox_id=sandbox_id))
        return sandbox_id if found is None or found.workspace == caller.workspace else ""

    def _draft(self, caller: Caller, label: SnapshotRequest) -> Snapshot:
        """Of what it is, nobody knows yet."""
        host = self._placement.report
        return Snapshot(
            id=self._new_id(),
            sandbox_id="",
            workspace=caller.workspace,
            template="",
            kind=SnapshotKind.USER,
            state=SnapshotState.CREATING,
            cpu=0,
            memory_mb=0,
            created_at=self._clock.now(),
            host=host.id,
            isolation=host.isolation,
            name=label.name,
            comment=label.comment,
        )
