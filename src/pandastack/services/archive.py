"""Rows of snapshots and what their host holds: taken, published, dropped, and brought together again.

A snapshot is drafted (its row, not yet flushed), taken by the host, and published by the transaction of
whatever it is for; unless that happens nothing of it is left. It is dropped the other way round: its row says
so first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import msgspec
from msgspec import UNSET

from pandastack.errors import (
    Conflict,
    InFlight,
    NotSupported,
    PandastackError,
    SnapshotNotFound,
    SnapshotQuotaExceeded,
)
from pandastack.model.account import Caller, SnapshotQuota, SnapshotUsage
from pandastack.model.host import HostReport, SnapshotReport, SnapshotSpec
from pandastack.model.sandbox import Sandbox, SandboxState
from pandastack.model.snapshot import SHOWN, Deed, Snapshot, SnapshotKind, SnapshotRequest, SnapshotState
from pandastack.services.ground import Ground
from pandastack.services.ledger import Story
from pandastack.store import idempotency, sandboxes, snapshots
from pandastack.store.db import Connection
from pandastack.store.idempotency import Identity
from pandastack.telemetry import logger

log = logger("archive")

GRACE_SECONDS = 60.0
"""So long rows and host may disagree about a snapshot before the one is made to follow the other."""

UNNAMED = SnapshotRequest()
NO_DEED = Deed()


class Archive:
    """All snapshots of all workspaces."""

    def __init__(self, ground: Ground) -> None:
        self._database = ground.database
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._clock = ground.clock
        self._new_id = ground.new_id
        self._limits = ground.terms.snapshots
        self._patience = ground.terms.create_timeout_seconds
        self._failpoint = ground.failpoint
        self._working: set[str] = set()
        self._leftover: asyncio.Queue[str] = asyncio.Queue()
        self._pins: dict[str, int] = {}
        self._doubts: dict[str, float] = {}

    async def find(self, workspace: str, snapshot_id: str) -> Snapshot:
        """A snapshot of any kind that is not being dropped. Errors: SnapshotNotFound."""
        query = partial(snapshots.find, snapshot_id=snapshot_id, workspace=workspace)
        found = await self._database.glance(query)
        if found is None or found.state is SnapshotState.DELETING:
            raise SnapshotNotFound(f"There is no snapshot {snapshot_id}.")
        return found

    async def find_shown(self, workspace: str, snapshot_id: str) -> Snapshot:
        """A snapshot that people may ask for by name. Errors: SnapshotNotFound."""
        found = await self.find(workspace, snapshot_id)
        if found.kind not in SHOWN:
            raise SnapshotNotFound(f"There is no snapshot {snapshot_id}.")
        return found

    async def made_before(self, workspace: str, snapshot_id: str) -> Snapshot:
        """What an earlier request with the same key has made. Errors: SnapshotNotFound, InFlight."""
        found = await self.find_shown(workspace, snapshot_id)
        if found.state is not SnapshotState.READY:
            raise InFlight(f"Snapshot {snapshot_id} of this Idempotency-Key was cut off and is being undone.")
        return (await self.examined([found]))[0]

    async def examined(self, rows: Sequence[Snapshot]) -> list[Snapshot]:
        """The same with what their host has found wrong with them."""
        report = await self._placement.refresh()
        damaged = {held.id: held.damaged for held in report.snapshots if held.damaged is not None}
        return [msgspec.structs.replace(row, damaged=damaged.get(row.id, UNSET)) for row in rows]

    async def shown(self, workspace: str, sandbox_id: str | None = None) -> list[Snapshot]:
        """Those that people may ask for by name, newest first."""
        query = partial(snapshots.listing, workspace=workspace, sandbox_id=sandbox_id)
        return [
            found
            for found in await self._database.read(query)
            if found.kind in SHOWN and found.state is not SnapshotState.DELETING
        ]

    async def drafted(
        self,
        sandbox: Sandbox,
        kind: SnapshotKind,
        label: SnapshotRequest = UNNAMED,
        *,
        deed: Deed = NO_DEED,
        identity: Identity | None = None,
    ) -> Snapshot:
        """The row of a snapshot that is to be `taken`: one that never is can be told. Errors:
        SnapshotQuotaExceeded.
        """
        draft = self._draft(sandbox, kind, label)
        draft = msgspec.structs.replace(draft, **msgspec.structs.asdict(deed))
        return await self.begun(draft, identity)

    async def begun(self, draft: Snapshot, identity: Identity | None = None) -> Snapshot:
        """The same, with its row. Errors: SnapshotQuotaExceeded."""
        self._working.add(draft.id)
        try:
            await self._database.write_soon(partial(self._insert, draft=draft, identity=identity))
        except BaseException:
            await self.give_up(draft)
            raise
        return draft

    async def give_up(self, draft: Snapshot) -> None:
        """Leave nothing of one that was drafted, unless it was published."""
        try:
            await self._discard_quietly(draft.id)
        finally:
            self._working.discard(draft.id)

    @asynccontextmanager
    async def taken(
        self,
        sandbox: Sandbox,
        kind: SnapshotKind,
        label: SnapshotRequest = UNNAMED,
        *,
        draft: Snapshot | None = None,
        hold: bool = False,
        identity: Identity | None = None,
    ) -> AsyncIterator[Snapshot]:
        """A snapshot of a machine that stands, for the block to publish.

        What was not published when the block ends is dropped again, and its key is free. Errors:
        SnapshotQuotaExceeded before anything is paused, and those of `Host.snapshot`.
        """
        draft = draft or await self.drafted(sandbox, kind, label, identity=identity)
        try:
            await self._failpoint("snapshot.drafted")
            yield await self._take(draft, SnapshotSpec(draft.id, sandbox.id, hold=hold))
        finally:
            await self.give_up(draft)

    @asynccontextmanager
    async def passing(self, sandbox: Sandbox) -> AsyncIterator[Snapshot]:
        """One that is to be taken by `take_passing` within the block, for machines that go on from it. It has
        no row: they have theirs, and neither it nor what is made of it survives a crash.

        It is dropped a little later, as nobody waits for that.
        """
        draft = self._draft(sandbox, SnapshotKind.FORK, UNNAMED)
        self._working.add(draft.id)
        try:
            yield draft
        finally:
            self._leftover.put_nowait(draft.id)

    async def take_passing(self, draft: Snapshot, *, once: bool) -> Snapshot:
        """Now, for one machine or for more. Errors: those of `Host.snapshot`."""
        return await self._take(draft, SnapshotSpec(draft.id, draft.sandbox_id, durable=False, once=once))

    async def drop_leftovers(self) -> None:
        """Drop what nobody waits for, for ever: snapshots that have passed, and those for `drop_later`."""
        while True:
            snapshot_id = await self._leftover.get()
            if snapshot_id in self._working:
                await self._drop_passed(snapshot_id)
            else:
                await self.drop([snapshot_id])
            self._leftover.task_done()

    async def _drop_passed(self, snapshot_id: str) -> None:
        try:
            await self._order_drop(snapshot_id)
        except PandastackError as error:  # later it is a stray
            log.warning("snapshot.not_dropped", snapshot_id=snapshot_id, error=error.message)
        finally:
            self._working.discard(snapshot_id)

    async def caught_up(self) -> None:
        """Return when nothing is left that nobody waits for."""
        await self._leftover.join()

    def drop_later(self, doomed: Iterable[str]) -> None:
        """As `drop`, without waiting for it."""
        for snapshot_id in doomed:
            self._leftover.put_nowait(snapshot_id)

    async def room(self, workspace: str) -> int | None:
        """How many more bytes the workspace's snapshots may take; None is any number."""
        most = self._limits.size_bytes
        return None if most is None else most - (await self.quota(workspace)).used.size_bytes

    async def quota(self, workspace: str) -> SnapshotQuota:
        """What the workspace may keep, and keeps."""
        count, size = await self._database.glance(partial(snapshots.held, workspace=workspace))
        return SnapshotQuota(self._limits, SnapshotUsage(count, size))

    async def publish(
        self, snapshot: Snapshot, caller: Caller, event: str = "sandbox.snapshotted"
    ) -> Snapshot:
        """Make it READY, with its event (none when that is empty) and audit row.

        Errors: Conflict when somebody deleted it, and then nothing is written.
        """
        payload: dict[str, object] = {"snapshot_id": snapshot.id, "size_bytes": snapshot.size_bytes}
        story = Story(event, payload | {"pause_ms": snapshot.pause_ms}, caller, 201)

        def transaction(connection: Connection) -> None:
            published(connection, snapshot)
            self._ledger.tell(connection, snapshot.sandbox_id, story)

        await self._ledger.write(snapshot.sandbox_id, transaction)
        await self._failpoint("snapshot.published")
        return msgspec.structs.replace(snapshot, state=SnapshotState.READY)

    async def change(self, caller: Caller, snapshot_id: str, values: dict[str, str]) -> Snapshot:
        """Set fields of one that is READY. Errors: SnapshotNotFound."""

        def transaction(connection: Connection) -> Snapshot:
            kept = snapshots.change(connection, snapshot_id, **values) if values else True
            found = snapshots.find(connection, snapshot_id, caller.workspace)
            if not kept or found is None:
                raise SnapshotNotFound(f"There is no snapshot {snapshot_id}.")
            self._ledger.tell(connection, found.sandbox_id, Story(caller=caller))
            return found

        return await self._database.write(transaction)

    @contextmanager
    def pinned(self, snapshot_id: str) -> Iterator[None]:
        """Within the block the host keeps it, whatever its row says."""
        self._pins[snapshot_id] = self._pins.get(snapshot_id, 0) + 1
        try:
            yield
        finally:
            self._pins[snapshot_id] -= 1
            if not self._pins[snapshot_id]:
                del self._pins[snapshot_id]

    async def delete(self, caller: Caller, snapshot: Snapshot) -> None:
        """Give it up for good; what its host does not drop at once is dropped later. Errors:
        SnapshotNotFound when somebody else has.
        """
        payload: dict[str, object] = {"snapshot_id": snapshot.id}

        def transaction(connection: Connection) -> None:
            if not snapshots.move(connection, snapshot.id, SnapshotState.DELETING):
                raise SnapshotNotFound(f"There is no snapshot {snapshot.id}.")
            known = sandboxes.find(connection, snapshot.sandbox_id) is not None
            self._ledger.tell(
                connection,
                snapshot.sandbox_id,
                Story("snapshot.deleted" if known else "", payload, caller, 204),
            )

        await self._ledger.write(snapshot.sandbox_id, transaction)
        await self._failpoint("drop.marked")
        await self.drop([snapshot.id])

    async def drop(self, doomed: Iterable[str]) -> None:
        """Remove snapshots whose rows say DELETING; those in use or not let go by the host are for later."""
        for snapshot_id in doomed:
            if snapshot_id in self._pins:
                continue
            try:
                await self._drop(snapshot_id, SnapshotState.DELETING)
            except PandastackError as error:
                log.warning("snapshot.not_dropped", snapshot_id=snapshot_id, error=error.message)

    async def last_image(self, sandbox_id: str) -> Snapshot | None:
        """The image that a sandbox of any workspace last slept in; None when it never did."""
        found = await self._database.glance(partial(sandboxes.find, sandbox_id=sandbox_id))
        if found is None or found.snapshot_id is None:
            return None
        return await self._database.glance(partial(snapshots.find, snapshot_id=found.snapshot_id))

    async def interrupted(self) -> list[Snapshot]:
        """Those that were neither published nor dropped, and that nobody here works on: a crash left them."""
        rows = await self._database.read(snapshots.listing)
        left = [row for row in rows if row.id not in self._working]
        return [row for row in left if row.state is SnapshotState.CREATING]

    async def settle(self, report: HostReport) -> None:
        """Drop what was never published, finish what is being dropped, and make rows and host agree.

        `report` is older than the rows that are read here, so whatever it tells of has a row by now.
        """
        rows = {row.id: row for row in await self._database.read(snapshots.listing)}
        idle = [row for row in rows.values() if row.id not in self._working]
        for row in idle:
            if row.state is SnapshotState.CREATING:
                await self._discard_quietly(row.id)
        await self.drop(row.id for row in idle if row.state is SnapshotState.DELETING)
        held = {snapshot.id for snapshot in report.snapshots}
        strays = {stray for stray in held - rows.keys() if stray not in self._working}
        lost = {row.id for row in idle if row.state is SnapshotState.READY and row.id not in held}
        for doubt in self._grown(strays | lost):
            await (self._lose(rows[doubt]) if doubt in rows else self._drop_stray(doubt))

    async def lose_missing(self, report: HostReport) -> None:
        """Before anything is served: give up what its host does not have any more."""
        held = {snapshot.id for snapshot in report.snapshots}
        for row in await self._database.read(snapshots.listing):
            if row.state is SnapshotState.READY and row.id not in held:
                await self._lose(row)

    def _grown(self, doubted: set[str]) -> list[str]:
        """Of those that are in doubt now, the ones that have been for long enough."""
        now = self._clock.steady()
        self._doubts = {each: self._doubts.get(each, now) for each in doubted}
        return [each for each, since in self._doubts.items() if now - since >= GRACE_SECONDS]

    async def _lose(self, snapshot: Snapshot) -> None:
        """Its host has it no more: the row goes, and a sandbox that slept in it has failed."""
        log.error("snapshot.lost", snapshot_id=snapshot.id, sandbox_id=snapshot.sandbox_id)
        now = self._clock.now()
        story = Story("snapshot.lost", {"snapshot_id": snapshot.id, "kind": snapshot.kind})
        cause = f"its hibernation image {snapshot.id} is gone from its host"

        def transaction(connection: Connection) -> None:
            snapshots.forget(connection, snapshot.id, [SnapshotState.READY])
            found = sandboxes.find(connection, snapshot.sandbox_id)
            if found is None:
                return
            self._ledger.tell(connection, found.id, story)
            if found.snapshot_id != snapshot.id:
                return
            sandboxes.change(connection, found.id, snapshot_id=None)
            if found.status is SandboxState.FAILED:  # its cause may name the image as a way back
                sandboxes.change(connection, found.id, cause=_and_now(found.cause, cause))
            asleep = [SandboxState.HIBERNATED]
            sandboxes.move(
                connection, found.id, SandboxState.FAILED, only_from=asleep, cause=cause, ended_at=now
            )

        await self._ledger.write(snapshot.sandbox_id, transaction)

    async def _drop_stray(self, snapshot_id: str) -> None:
        log.warning("snapshot.unknown", snapshot_id=snapshot_id)
        await self._order_drop(snapshot_id)

    async def _discard_quietly(self, snapshot_id: str) -> None:
        try:
            await self._discard(snapshot_id)
        except PandastackError as error:
            log.warning("snapshot.not_dropped", snapshot_id=snapshot_id, error=error.message)

    async def _discard(self, snapshot_id: str) -> None:
        """Drop it unless it was published, on which its row has the last word."""
        row = await self._database.glance(partial(snapshots.find, snapshot_id=snapshot_id))
        if row is None or row.state is SnapshotState.CREATING:
            await self._drop(snapshot_id, SnapshotState.CREATING)

    async def _drop(self, snapshot_id: str, state: SnapshotState) -> None:
        await self._order_drop(snapshot_id)
        await self._failpoint("drop.dropped")
        await self._database.write_soon(partial(_forget, snapshot_id=snapshot_id, state=state))

    async def _take(self, draft: Snapshot, order: SnapshotSpec) -> Snapshot:
        host = self._placement.host_of(order.vm)
        report = await self._placement.ordered(host.snapshot(order), "snapshot", seconds=self._patience)
        await self._failpoint("snapshot.taken")
        return as_reported(draft, report)

    async def _order_drop(self, snapshot_id: str) -> None:
        host = self._placement.host_of(snapshot_id)
        await self._placement.ordered(host.drop_snapshot(snapshot_id), "drop_snapshot")

    def _draft(self, sandbox: Sandbox, kind: SnapshotKind, label: SnapshotRequest) -> Snapshot:
        if sandbox.volumes and kind is not SnapshotKind.HIBERNATION:
            raise NotSupported(
                f"Sandbox {sandbox.id} has volumes, which would not be in its snapshot, or be in two "
                "machines at once. Keep what is to be forked on its own disk."
            )
        return Snapshot(
            id=self._new_id(),
            sandbox_id=sandbox.id,
            workspace=sandbox.workspace,
            template=sandbox.template,
            kind=kind,
            state=SnapshotState.CREATING,
            cpu=sandbox.cpu,
            memory_mb=sandbox.memory_mb,
            created_at=self._clock.now(),
            host=sandbox.host,
            isolation=sandbox.isolation,
            name=label.name,
            comment=label.comment,
            parent_id=sandbox.from_snapshot,
            egress=sandbox.egress,
        )

    def _insert(self, connection: Connection, draft: Snapshot, identity: Identity | None) -> None:
        count, size = snapshots.held(connection, draft.workspace)
        most, room = self._limits.snapshots, self._limits.size_bytes
        if most is not None and draft.kind in SHOWN and count >= most:
            raise SnapshotQuotaExceeded(
                f"The workspace keeps {count} of {most} snapshots. Delete some first."
            )
        if room is not None and draft.kind is not SnapshotKind.FORK and size >= room:
            raise SnapshotQuotaExceeded(
                f"The workspace's snapshots take {size} of {room} bytes. Delete some first."
            )
        snapshots.insert(connection, draft)
        idempotency.insert(connection, draft.workspace, identity, draft.id, draft.created_at)


def _and_now(before: str | None, since: str) -> str:
    return f"{(before or '').removesuffix('.')}. Since then {since}."


def _forget(connection: Connection, snapshot_id: str, state: SnapshotState) -> None:
    snapshots.forget(connection, snapshot_id, [state])
    if state is SnapshotState.CREATING:
        idempotency.forget(connection, snapshot_id)


def published(connection: Connection, snapshot: Snapshot) -> None:
    """Make its row READY. Errors: Conflict when it was deleted since it was drafted."""
    if not snapshots.publish(connection, snapshot):
        raise Conflict(f"Snapshot {snapshot.id} was deleted while it was being made.")


def as_reported(draft: Snapshot, report: SnapshotReport) -> Snapshot:
    """The same with what its host has told of it."""
    return msgspec.structs.replace(
        draft,
        cpu=report.cpu,
        memory_mb=report.memory_mb,
        size_bytes=report.size_bytes,
        pause_ms=report.pause_ms,
        phases_ms=report.phases_ms,
    )
