"""Backups of volumes: taken of one moment, brought to the blob store behind that, and restored into new
volumes.

A row is written first and says SAVING; then what the volume has is set aside, as a hidden volume of its host,
and whoever asked is answered: others may write the volume again. Chunks follow, the manifest last, and READY
is said when it has been read back. A server that ends leaves what is set aside, and the next one goes on with
it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from functools import partial

from msgspec import Struct, structs

from pandastack.carrying import carried_through, undone
from pandastack.errors import (
    BackupDamaged,
    BackupNotFound,
    Conflict,
    InvalidRequest,
    PandastackError,
    VolumeNotFound,
)
from pandastack.model.account import Caller, Scope
from pandastack.model.backup import Backup, BackupStatus, Manifest
from pandastack.model.host import Piece
from pandastack.model.volume import Volume, VolumeCreate
from pandastack.services.chunks import Chunks
from pandastack.services.ground import Ground
from pandastack.services.volumes import ASIDE, Volumes
from pandastack.store import audit, backups
from pandastack.store.db import Connection
from pandastack.telemetry import logger

log = logger("backups")

AT_ONCE = 2
"""Backups that are brought to the store at a time; those of one workspace never are."""
MOST_GOING = 8
"""Backups of a workspace that are on their way: each has a copy of its volume on the host."""

CANCELLED = "It was cancelled."
CUT_OFF = "The server ended before what the volume had was set aside: ask again."
SAVING, READY, FAILED, DELETING = (
    BackupStatus.SAVING, BackupStatus.READY, BackupStatus.FAILED, BackupStatus.DELETING
)  # fmt: skip


class Progress(Struct, frozen=True):
    """Bytes of a disk that were read, and those that went to the store for them."""

    done_bytes: int = 0
    stored_bytes: int = 0


class Backups:
    """All backups of all workspaces. A caller sees its workspace's alone: another's is BackupNotFound."""

    def __init__(self, ground: Ground, volumes: Volumes, chunks: Chunks) -> None:
        self._database = ground.database
        self._placement = ground.placement
        self._clock = ground.clock
        self._new_id = ground.new_id
        self._turns = ground.turns
        self._failpoint = ground.failpoint
        self._volumes = volumes
        self._chunks = chunks
        self._queue: asyncio.Queue[Backup] = asyncio.Queue()
        self._going: dict[str, asyncio.Task[None]] = {}
        self._given_up: set[str] = set()
        self._progress: dict[str, Progress] = {}
        self._read: dict[str, int] = {}
        """How many read a backup now."""
        self._untidy: set[str] = set()
        """Workspaces that may have chunks nobody names."""
        self._room = asyncio.Semaphore(AT_ONCE)

    async def request(self, caller: Caller, name: str) -> Backup:
        """A backup of what the volume has now, which is brought to the store from now on. Errors:
        VolumeNotFound, VolumeBusy while a sandbox writes it, NoSpace, BlobsDown, Conflict for too many.
        """
        await self._chunks.claim()
        volume = await self._volumes.get(caller, name)
        draft = Backup(
            self._new_id(), volume.name, caller.workspace, SAVING, volume.size_mb, self._clock.now()
        )
        await self._database.write(partial(_insert, backup=draft))
        try:
            aside = await self._volumes.set_aside(caller, name, ASIDE + draft.id)
            begun = structs.replace(draft, created_at=self._clock.now(), total_bytes=aside.size_bytes)
            await self._failpoint("backup.aside")
            await self._database.write(partial(_begin, backup=begun, caller=caller))
        except BaseException:
            forgetting = partial(backups.forget, backup_id=draft.id, only_from=[SAVING])
            await carried_through(self._database.write_soon(forgetting))
            await carried_through(self._put_away(draft))
            raise
        self._queue.put_nowait(begun)
        return begun

    async def get(self, caller: Caller, backup_id: str) -> Backup:
        """Errors: BackupNotFound."""
        return self._measured(await self._find(caller.workspace, backup_id))

    async def all(self, caller: Caller, volume: str | None = None) -> list[Backup]:
        """Those of the workspace, or of its volumes that had this name; the newest first."""
        shown = (SAVING, READY, FAILED)
        query = partial(backups.listing, workspace=caller.workspace, volume=volume, states=shown)
        return [self._measured(each) for each in await self._database.read(query)]

    async def cancel(self, caller: Caller, backup_id: str) -> Backup:
        """Give it up; fine when it has ended. Errors: BackupNotFound."""
        found = await self._find(caller.workspace, backup_id)
        if found.status is SAVING:
            self._given_up.add(backup_id)
            if (task := self._going.get(backup_id)) is not None:
                await undone(task)
            else:
                await self._end(found, FAILED, error=CANCELLED, code="backup.cancelled")
        return await self.get(caller, backup_id)

    async def delete(self, caller: Caller, backup_id: str) -> None:
        """Remove it, and what no other backup needs of it, which takes a while. Errors: BackupNotFound,
        Conflict for one that is being saved or read.
        """
        found = await self._find(caller.workspace, backup_id)
        if found.status is SAVING:
            raise Conflict(f"Backup {backup_id} is being saved: cancel it first.")
        if self._read.get(backup_id):
            raise Conflict(f"Backup {backup_id} is being read: wait until that has ended.")

        def transaction(connection: Connection) -> None:
            if not backups.move(connection, backup_id, DELETING, [READY, FAILED], {}):
                raise _unknown(backup_id)
            _audit(connection, caller, found, 204)

        await self._database.write(transaction)

    async def verify(self, caller: Caller, backup_id: str) -> Backup:
        """Read all of it; what is wrong is named in `damaged`. Errors: BackupNotFound, Conflict for one that
        is not READY, BlobsDown.
        """
        found = await self._ready(caller, backup_id)
        with self._reading(found):
            try:
                manifest = await self._chunks.manifest(found.workspace, found.id, found.digest)
                damaged = await self._chunks.damaged(found.workspace, manifest.chunks)
            except BackupDamaged as error:
                damaged = error.details["chunks"]
            await self._note(found, damaged)
        return await self.get(caller, backup_id)

    async def restore(self, caller: Caller, request: VolumeCreate) -> Volume:
        """A volume with what the one had that `request.from_backup` is of. On any error nothing of it is
        left. Errors: BackupNotFound, BackupDamaged, BlobsDown, Conflict, InvalidRequest, and those of a
        volume.
        """
        if request.from_volume is not None:
            raise InvalidRequest("A volume is a copy of another one, or restored from a backup: not both.")
        found = await self._ready(caller, request.from_backup or "")
        size_mb = found.size_mb if request.size_mb is None else request.size_mb
        if size_mb < found.size_mb:
            raise InvalidRequest(
                f"The volume of the backup had {found.size_mb} MiB; what is restored has no less."
            )
        with self._reading(found):
            try:
                manifest = await self._chunks.manifest(found.workspace, found.id, found.digest)
                async with aclosing(self._loaded(found, manifest)) as pieces:
                    made = await self._volumes.fill(caller, request.name, size_mb, found.volume, pieces)
            except BackupDamaged as error:
                await self._note(found, error.details["chunks"])
                raise
            await self._failpoint("restore.published")
            return made

    async def _loaded(self, backup: Backup, manifest: Manifest) -> AsyncGenerator[Piece, None]:
        """What its volume had. Errors: BackupDamaged, BlobsDown."""
        async with aclosing(self._chunks.load(backup.workspace, manifest.chunks)) as pieces:
            async for piece in pieces:
                yield piece
                await self._failpoint("restore.begun")  # the first one is written

    # -- by itself

    async def missed(self) -> None:
        """Before anything is served: go on with what an earlier server set aside, and give up the rest."""
        going = await self._database.read(partial(backups.listing, states=[SAVING]))
        aside = await self._volumes.hidden(ASIDE)
        for backup in reversed(going):
            if aside.pop(ASIDE + backup.id, None) is not None:
                self._queue.put_nowait(backup)
            else:
                await self._end(backup, FAILED, error=CUT_OFF, code="backup.interrupted")
        for name, workspace in aside.items():
            await self._drop(workspace, name)
        failed = await self._database.read(partial(backups.listing, states=[FAILED]))
        self._untidy.update(backup.workspace for backup in failed)

    async def work(self) -> None:
        """Bring to the store what is asked for, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                backup = await self._queue.get()
                if backup.id in self._given_up:  # while it was in line
                    self._given_up.discard(backup.id)
                    continue
                task = group.create_task(self._tried(backup), name=f"backup-{backup.id}")
                self._going[backup.id] = task

    async def tidy(self) -> None:
        """Finish deletes, and remove chunks that nobody names. What cannot be now is done another time."""
        doomed = await self._database.read(partial(backups.listing, states=[DELETING]))
        for workspace in self._untidy | {backup.workspace for backup in doomed}:
            theirs = [backup for backup in doomed if backup.workspace == workspace]
            try:
                await self._tidy(workspace, theirs)
            except PandastackError as error:
                log.warning("backup.not_tidied", workspace=workspace, error=error.message)

    async def _tidy(self, workspace: str, doomed: list[Backup]) -> None:
        async with self._turns.turn(_line(workspace)):
            await self._chunks.claim()
            for backup in doomed:
                await self._chunks.drop(workspace, backup.id)
            await self._failpoint("backup.dropped")
            if count := await self._chunks.prune(workspace):
                log.info("backup.pruned", workspace=workspace, chunks=count)
            for backup in doomed:
                forgetting = partial(backups.forget, backup_id=backup.id, only_from=[DELETING])
                await self._database.write_soon(forgetting)
            self._untidy.discard(workspace)

    async def _tried(self, backup: Backup) -> None:
        """From its turn to its end, however it ends. Who stops the server leaves it to the next one."""
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._turns.turn(_line(backup.workspace)))
                await stack.enter_async_context(self._room)
                await self._save(backup)
        except PandastackError as error:
            await self._end(backup, FAILED, error=error.message, code=error.code)
        except asyncio.CancelledError:
            if backup.id not in self._given_up:
                raise
            await carried_through(self._end(backup, FAILED, error=CANCELLED, code="backup.cancelled"))
        except Exception:  # a bug that one backup meets must not end the others
            log.exception("backup.crashed", backup_id=backup.id)
            await self._end(backup, FAILED, error="An internal error of the server.", code="internal.error")
        finally:
            self._going.pop(backup.id, None)
            self._given_up.discard(backup.id)
            self._progress.pop(backup.id, None)

    async def _save(self, backup: Backup) -> None:
        workspace = backup.workspace
        volume_id = await self._volumes.id_of(workspace, ASIDE + backup.id)
        known = await self._chunks.known(workspace) - await self._distrusted(workspace)
        host = self._placement.host_of(volume_id)
        async with host.read_volume(volume_id) as pieces:
            saved = await self._chunks.save(workspace, pieces, known, partial(self._hear, backup.id))
        await self._failpoint("backup.saved")
        manifest = Manifest(backup.id, backup.volume, backup.size_mb, backup.created_at, saved.chunks)
        digest = await self._chunks.seal(workspace, manifest)
        await self._failpoint("backup.sealed")
        count = sum(chunk.length for chunk in saved.chunks)
        sizes = {"total_bytes": count, "done_bytes": count, "stored_bytes": saved.stored_bytes}
        await self._end(backup, READY, digest=digest, **sizes)

    async def _distrusted(self, workspace: str) -> set[str]:
        """Chunks that were found wrong: they are written anew."""
        rows = await self._database.read(partial(backups.listing, workspace=workspace))
        return {name.rsplit("/", 1)[-1] for row in rows for name in row.damaged}

    def _hear(self, backup_id: str, done: int, stored: int) -> None:
        so_far = self._progress.get(backup_id, Progress())
        self._progress[backup_id] = Progress(so_far.done_bytes + done, so_far.stored_bytes + stored)

    async def _end(self, backup: Backup, to: BackupStatus, **values: object) -> None:
        """Say how it ended, and have no more of it on the host."""
        if to is FAILED:
            self._untidy.add(backup.workspace)
        ended = {"ended_at": self._clock.now(), **values}
        moving = partial(backups.move, backup_id=backup.id, to=to, only_from=[SAVING], values=ended)
        await self._database.write(moving)
        await self._put_away(backup)

    async def _put_away(self, backup: Backup) -> None:
        await self._drop(backup.workspace, ASIDE + backup.id)

    async def _drop(self, workspace: str, name: str) -> None:
        """Remove a volume that was set aside; what cannot be now is done by the next start."""
        us = Caller(workspace, "", Scope.USE)
        try:
            await self._volumes.delete(us, name)
        except VolumeNotFound:
            return
        except PandastackError as error:
            log.warning("backup.left_aside", volume=name, error=error.message)

    # -- rows

    async def _note(self, backup: Backup, damaged: list[str]) -> None:
        seen = {"verified_at": self._clock.now(), "damaged": damaged}
        await self._database.write(
            partial(backups.move, backup_id=backup.id, to=READY, only_from=[READY], values=seen)
        )

    async def _find(self, workspace: str, backup_id: str) -> Backup:
        found = await self._database.read(partial(backups.find, workspace=workspace, backup_id=backup_id))
        if found is None or found.status is DELETING:
            raise _unknown(backup_id)
        return found

    async def _ready(self, caller: Caller, backup_id: str) -> Backup:
        found = await self._find(caller.workspace, backup_id)
        if found.status is not READY:
            raise Conflict(
                f"Backup {backup_id} is {found.status}: only from a ready one anything is restored."
            )
        return found

    @contextmanager
    def _reading(self, backup: Backup) -> Iterator[None]:
        """It is not deleted within the block."""
        self._read[backup.id] = self._read.get(backup.id, 0) + 1
        try:
            yield
        finally:
            self._read[backup.id] -= 1
            if not self._read[backup.id]:
                del self._read[backup.id]

    def _measured(self, backup: Backup) -> Backup:
        """With how far it is."""
        so_far = self._progress.get(backup.id)
        if backup.status is not SAVING or so_far is None:
            return backup
        total = max(backup.total_bytes, so_far.done_bytes)
        return structs.replace(
            backup, total_bytes=total, done_bytes=so_far.done_bytes, stored_bytes=so_far.stored_bytes
        )


def _line(workspace: str) -> str:
    """The name of the turns of a workspace: what saves and what removes never meet."""
    return f"backups of {workspace}"


def _insert(connection: Connection, backup: Backup) -> None:
    going = backups.listing(connection, backup.workspace, states=[SAVING])
    if len(going) >= MOST_GOING:
        raise Conflict(f"{len(going)} backups are on their way; a workspace may have {MOST_GOING}.")
    backups.insert(connection, backup)
    backups.trim(connection, backup.workspace)


def _begin(connection: Connection, backup: Backup, caller: Caller) -> None:
    begun = {"created_at": backup.created_at, "total_bytes": backup.total_bytes}
    backups.move(connection, backup.id, SAVING, [SAVING], begun)
    _audit(connection, caller, backup, 202)


def _audit(connection: Connection, caller: Caller, backup: Backup, status: int) -> None:
    if caller.method:
        meta: dict[str, object] = {"backup": backup.id, "volume": backup.volume}
        audit.add(connection, audit.Deed(caller, backup.created_at, status, meta))


def _unknown(backup_id: str) -> BackupNotFound:
    return BackupNotFound(f"There is no backup {backup_id}.")
