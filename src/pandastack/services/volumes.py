"""Disks that outlive sandboxes: made, grown, deleted; and who has them.

A row is written first and says CREATING; the host makes the file; the row says READY, and only then is
anybody told. It goes the other way round. What is interrupted between is finished or undone by `settle`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial

from msgspec import structs

from pandastack.errors import (
    InvalidRequest,
    PandastackError,
    VolumeBusy,
    VolumeExists,
    VolumeNotFound,
    VolumeQuotaExceeded,
)
from pandastack.model.account import Caller
from pandastack.model.host import HostReport, Piece
from pandastack.model.sandbox import Sandbox, SandboxState
from pandastack.model.volume import (
    SIZE_MB,
    Mount,
    Volume,
    VolumeCreate,
    VolumeQuota,
    VolumeSnapshot,
    VolumeState,
    VolumeWish,
    check_wishes,
)
from pandastack.services.ground import Ground
from pandastack.store import audit, volumes
from pandastack.store.db import Connection
from pandastack.telemetry import logger

log = logger("volumes")

LEAST_MB_PER_SECOND = 4
"""Slower than that nothing is brought from a blob store."""
HIDDEN = "."
"""How names of volumes begin that nobody has asked for, and so is told of."""
ASIDE = ".backup-"
"""How those begin that were set aside for a backup, whose id follows."""


class Volumes:
    """All volumes of all workspaces. A caller sees its workspace's alone: another's is VolumeNotFound."""

    def __init__(self, ground: Ground) -> None:
        self._database = ground.database
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._clock = ground.clock
        self._new_id = ground.new_id
        self._failpoint = ground.failpoint
        self._patience = ground.terms.create_timeout_seconds
        self._turns = ground.turns
        self._limits = ground.terms.volumes
        self._working: set[str] = set()
        self._growing: dict[str, tuple[str, int]] = {}
        """By volume: its workspace, and by how many MiB it is to be larger."""

    async def create(self, caller: Caller, request: VolumeCreate) -> Volume:
        """A volume, empty or a copy of another one. On any error nothing of it is left. Errors: VolumeExists,
        VolumeNotFound, VolumeBusy, VolumeQuotaExceeded, InvalidRequest, NoSpace, NotSupported,
        OutcomeUnknown.
        """
        if request.from_volume is None:
            return await self._made(caller, self._draft(caller, request.name, request.size_mb or SIZE_MB))
        source = await self._find(caller.workspace, request.from_volume)
        size_mb = source.size_mb if request.size_mb is None else request.size_mb
        if size_mb < source.size_mb:
            raise InvalidRequest(f"Volume {source.name!r} has {source.size_mb} MiB; a copy has no less.")
        return await self._made(caller, self._draft(caller, request.name, size_mb, source), source)

    async def snapshot(self, caller: Caller, name: str, request: VolumeSnapshot) -> Volume:
        """What it has now, as a volume that is never written. Errors: as `create`."""
        source = await self._find(caller.workspace, name)
        draft = self._draft(caller, request.name, source.size_mb, source)
        return await self._made(caller, structs.replace(draft, frozen=True), source)

    async def set_aside(self, caller: Caller, name: str, hidden: str) -> Volume:
        """What it has now, as a hidden volume that is never written. Errors: as `create`."""
        source = await self._find(caller.workspace, name)
        draft = structs.replace(self._draft(caller, hidden, source.size_mb, source), frozen=True)
        return await self._made(caller.quietly(), draft, source)

    async def fill(
        self, caller: Caller, name: str, size_mb: int, source: str, pieces: AsyncIterator[Piece]
    ) -> Volume:
        """A volume with these bytes, which were those of `source`. On any error, those of `pieces` too,
        nothing of it is left. Errors: as `create`.
        """
        draft = structs.replace(self._draft(caller, name, size_mb), source=source)
        return await self._made(caller, draft, pieces=pieces)

    async def quota(self, caller: Caller) -> VolumeQuota:
        """What the workspace may have, and has."""
        used = await self._database.read(partial(volumes.usage, workspace=caller.workspace))
        return VolumeQuota(self._limits, used)

    async def grow(self, caller: Caller, name: str, size_mb: int) -> Volume:
        """Have it hold more; a running sandbox that writes it sees that at once. Errors: VolumeNotFound,
        VolumeBusy, VolumeQuotaExceeded, InvalidRequest, NoSpace, OutcomeUnknown, MachineError.
        """
        found = await self._find(caller.workspace, name)
        async with self._turns.turn(found.id):
            return await self._grow(caller, name, size_mb)

    async def _grow(self, caller: Caller, name: str, size_mb: int) -> Volume:
        """Within the volume's turn."""
        found = await self._find(caller.workspace, name)
        if found.frozen:
            raise InvalidRequest(f"Volume {name!r} is a snapshot, which stays as it is: grow a copy of it.")
        if size_mb < found.size_mb:
            raise InvalidRequest(f"Volume {name!r} has {found.size_mb} MiB, and cannot shrink to {size_mb}.")
        await self._check_awake(caller, found)
        with self._room(found, size_mb - found.size_mb):
            await self._database.read(partial(self._check_quota, workspace=caller.workspace))
            host = self._placement.host_of(found.id)
            report = await self._placement.ordered(host.grow_volume(found.id, size_mb), "grow_volume")

            def transaction(connection: Connection) -> None:
                if not volumes.change(connection, found.id, size_mb=report.size_mb):
                    raise _unknown(name)
                _audit(connection, caller, self._clock.now(), 200, found)

            await self._database.write(transaction)
        return await self.get(caller, name)

    async def get(self, caller: Caller, name: str) -> Volume:
        """Errors: VolumeNotFound."""
        return (await self._measured([await self._find(caller.workspace, name)]))[0]

    async def id_of(self, workspace: str, name: str) -> str:
        """What hosts call it, hidden or not. Errors: VolumeNotFound."""
        return (await self._find(workspace, name)).id

    async def all(self, caller: Caller) -> list[Volume]:
        """All of the workspace, by name."""
        rows = await self._database.read(partial(volumes.listing, workspace=caller.workspace))
        shown = [row for row in rows if row.state is VolumeState.READY and not row.name.startswith(HIDDEN)]
        return await self._measured(shown)

    async def hidden(self, prefix: str) -> dict[str, str]:
        """The workspaces of those whose names begin so, by name: no two may be called the same."""
        rows = await self._database.read(volumes.listing)
        ready = [row for row in rows if row.state is VolumeState.READY]
        return {row.name: row.workspace for row in ready if row.name.startswith(prefix)}

    async def delete(self, caller: Caller, name: str) -> None:
        """Remove it and all that is in it. Errors: VolumeNotFound, VolumeBusy while a sandbox has it."""
        found = await self._find(caller.workspace, name)

        def transaction(connection: Connection) -> None:
            if not volumes.move(connection, found.id, VolumeState.DELETING, [VolumeState.READY]):
                now = volumes.find(connection, caller.workspace, name)
                raise busy(now) if now and now.state is VolumeState.READY else _unknown(name)
            _audit(connection, caller, self._clock.now(), 204, found)

        await self._database.write(transaction)
        await self._drop(found)

    async def delete_hidden(self, but: str) -> None:
        """Remove those of all workspaces that nobody has asked for and nobody has, but those of this name."""
        for row in await self._database.read(volumes.listing):
            is_aside = row.name.startswith(ASIDE)  # its backup goes on with it, or removes it
            if row.name.startswith(HIDDEN) and row.name != but and not is_aside:
                dooming = partial(
                    volumes.move, volume_id=row.id, to=VolumeState.DELETING, only_from=[VolumeState.READY]
                )
                if await self._database.write_soon(dooming):
                    await self._drop(row)

    # -- who has them

    async def wished(self, caller: Caller, wishes: Sequence[VolumeWish]) -> list[Mount]:
        """What a sandbox that is to be would have mounted. Errors: VolumeNotFound, InvalidRequest."""
        check_wishes(wishes)
        mounts = []
        for wish in wishes:
            found = await self._find(caller.workspace, wish.name)
            if found.frozen and not wish.read_only:
                raise InvalidRequest(f"Volume {found.name!r} is a snapshot: attach it read_only, or copy it.")
            generation = found.generation + (not wish.read_only)
            mounts.append(Mount(found.id, found.name, wish.place, wish.read_only, generation))
        return mounts

    def taken(self, sandbox: Sandbox, before: Callable[[Connection], None]) -> Callable[[Connection], None]:
        """What comes `before` in the transaction that makes a sandbox, and then has it have its volumes.
        Errors of the transaction: VolumeNotFound, VolumeBusy.
        """
        if not sandbox.volumes:
            return before
        now = self._clock.now()

        def transaction(connection: Connection) -> None:
            before(connection)
            for mount in sandbox.volumes:
                if not volumes.attach(connection, mount, sandbox.id, now):
                    held = volumes.find(connection, sandbox.workspace, mount.name)
                    raise busy(held) if held and held.id == mount.id else _unknown(mount.name)

        return transaction

    # -- rows and files

    async def settle(self, report: HostReport) -> None:
        """Undo what was never acknowledged, finish what is being deleted, drop what nobody knows.

        `report` is older than the rows that are read here, so whatever it tells of has a row by now.
        """
        rows = await self._database.read(volumes.listing)
        for row in rows:
            if row.id in self._working:
                continue
            if row.state is VolumeState.CREATING:
                await self._discard(row)
            elif row.state is VolumeState.DELETING:
                await self._drop(row)
        known = {row.id for row in rows} | self._working
        for stray in report.volumes:
            if stray.id not in known:
                log.warning("volume.unknown", volume_id=stray.id)
                await self._order_drop(stray.id)

    def _draft(self, caller: Caller, name: str, size_mb: int, source: Volume | None = None) -> Volume:
        """A volume to be; its row is not written yet."""
        return Volume(
            id=self._new_id(),
            name=name,
            workspace=caller.workspace,
            host=self._placement.report.id if source is None else source.host,
            state=VolumeState.CREATING,
            size_mb=size_mb,
            created_at=self._clock.now(),
            source=None if source is None else source.name,
        )

    async def _made(
        self,
        caller: Caller,
        draft: Volume,
        source: Volume | None = None,
        pieces: AsyncIterator[Piece] | None = None,
    ) -> Volume:
        self._working.add(draft.id)
        try:
            await self._database.write_soon(partial(self._insert, volume=draft))
            made = await self._filled(draft, source, pieces)
            if pieces is not None:
                await self._failpoint("restore.filled")
            await self._database.write(partial(self._publish, caller=caller, volume=made))
        except BaseException:
            await self._discard(draft)
            raise
        finally:
            self._working.discard(draft.id)
        return made

    async def _filled(
        self, draft: Volume, source: Volume | None, pieces: AsyncIterator[Piece] | None
    ) -> Volume:
        """As its host has made it."""
        host = self._placement.host_of(draft.id)
        if pieces is not None:
            filling = host.fill_volume(draft.id, draft.size_mb, pieces)
            seconds = self._patience + draft.size_mb / LEAST_MB_PER_SECOND
            order = self._placement.ordered(filling, "fill_volume", seconds=seconds)
        elif source is None:
            order = self._placement.ordered(host.make_volume(draft.id, draft.size_mb), "make_volume")
        else:
            copying = host.copy_volume(source.id, draft.id, draft.size_mb)
            order = self._placement.ordered(copying, "copy_volume", seconds=self._patience)
        report = await order
        return structs.replace(draft, size_bytes=report.size_bytes, state=VolumeState.READY)

    async def _check_awake(self, caller: Caller, volume: Volume) -> None:
        """Errors: VolumeBusy when who writes it does not run, and could not be told anything."""
        for each in volume.attachments:
            if each.read_only:
                continue
            holder = await self._ledger.find_any(caller, each.sandbox_id)
            if holder.status is not SandboxState.RUNNING:
                raise busy(volume)

    @contextmanager
    def _room(self, volume: Volume, more_mb: int) -> Iterator[None]:
        """Have so much more count as the workspace's, within the block."""
        self._growing[volume.id] = (volume.workspace, more_mb)
        try:
            yield
        finally:
            del self._growing[volume.id]

    def _insert(self, connection: Connection, volume: Volume) -> None:
        if not volumes.insert(connection, volume):
            raise VolumeExists(f"volume already exists: {volume.name!r}.")
        if not volume.name.startswith(HIDDEN):
            self._check_quota(connection, volume.workspace)

    def _check_quota(self, connection: Connection, workspace: str) -> None:
        """VolumeQuotaExceeded when what there is, with what is to be, is too much."""
        most = self._limits.size_mb
        used = volumes.usage(connection, workspace).size_mb
        used += sum(more for whose, more in [*self._growing.values()] if whose == workspace)
        if most is not None and used > most:
            raise VolumeQuotaExceeded(
                f"The workspace's volumes may hold {most} MiB in all, and would hold {used}: delete some.",
                limit_mb=most,
                wanted_mb=used,
            )

    def _publish(self, connection: Connection, caller: Caller, volume: Volume) -> None:
        done = volumes.move(
            connection, volume.id, VolumeState.READY, [VolumeState.CREATING], size_bytes=volume.size_bytes
        )
        if not done:
            raise _unknown(volume.name)
        _audit(connection, caller, self._clock.now(), 201, volume)

    async def _measured(self, rows: list[Volume]) -> list[Volume]:
        """With what each takes now, as far as its host tells."""
        report = await self._placement.refresh()
        sizes = {held.id: held.size_bytes for held in report.volumes}
        return [structs.replace(row, size_bytes=sizes.get(row.id, row.size_bytes)) for row in rows]

    async def _find(self, workspace: str, name: str) -> Volume:
        found = await self._database.glance(partial(volumes.find, workspace=workspace, name=name))
        if found is None or found.state is not VolumeState.READY:
            raise _unknown(name)
        return found

    async def _discard(self, draft: Volume) -> None:
        """Leave nothing of one that was never acknowledged."""
        dooming = partial(
            volumes.move, volume_id=draft.id, to=VolumeState.DELETING, only_from=[VolumeState.CREATING]
        )
        if await self._database.write_soon(dooming):
            await self._drop(draft)

    async def _drop(self, volume: Volume) -> None:
        """Have its host remove it, and forget its row; what cannot be now is done by `settle`."""
        if await self._order_drop(volume.id):
            forgetting = partial(volumes.forget, volume_id=volume.id, only_from=[VolumeState.DELETING])
            await self._database.write_soon(forgetting)

    async def _order_drop(self, volume_id: str) -> bool:
        host = self._placement.host_of(volume_id)
        try:
            await self._placement.ordered(host.drop_volume(volume_id), "drop_volume")
        except PandastackError as error:
            log.warning("volume.not_dropped", volume_id=volume_id, error=error.message)
            return False
        return True


def busy(volume: Volume) -> VolumeBusy:
    """The refusal for one that others have."""
    holders = ", ".join(
        f"{each.sandbox_id} ({'reads' if each.read_only else 'writes'})" for each in volume.attachments
    )
    return VolumeBusy(
        f"Volume {volume.name!r} is attached: {holders}. One sandbox can write it, or any number read it: "
        "delete those sandboxes first.",
        sandboxes=[each.sandbox_id for each in volume.attachments],
    )


def _audit(connection: Connection, caller: Caller, now: datetime, status: int, volume: Volume) -> None:
    if caller.method:
        audit.add(connection, audit.Deed(caller, now, status, {"volume": volume.name}))


def _unknown(name: str) -> VolumeNotFound:
    return VolumeNotFound(f"There is no volume {name!r}.")
