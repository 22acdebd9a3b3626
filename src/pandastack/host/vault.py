"""The snapshots that this host keeps: one directory each, beside the machines.

`s/ID/` holds the pages, the device state and the disk layers of a snapshot, and `kept.json`, without which it
does not exist. What all snapshots of a template share, the memory and the disk that they differ from, is
linked into `b/KEY/` by the first of them, so that a cache that is emptied takes nothing away from them, and
goes when nothing needs it any more. Files are removed by the file system with their last link: a snapshot
needs no other snapshot, nor the machine that it was taken of.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog
from msgspec import structs

from pandastack.carrying import carried_through
from pandastack.errors import NotSupported, SnapshotNotFound, SnapshotRefused
from pandastack.host import snapshots
from pandastack.host.driver import Driver, Feature, SnapshotFiles, Taken
from pandastack.host.kept import DAMAGE, RECORD, Damage, Kept, folders_of, hold, kept_of
from pandastack.host.publish import full_disk_said, new_directory, sweep, taken_away
from pandastack.host.quiet import set_going
from pandastack.host.record import read_record, write_record
from pandastack.host.room import full_disk_found
from pandastack.host.shortage import told
from pandastack.host.templates import Prepared
from pandastack.host.vm import Vm
from pandastack.model.host import SnapshotReport, SnapshotSpec, VmState

DISK_LEFT = " Its disk alone can be booted: disk_only."
log = structlog.get_logger("host")


class Vault:
    """All snapshots below one directory. Made by `open_vault`."""

    def __init__(self, driver: Driver, root: Path) -> None:
        self._driver = driver
        self._snapshots = root / "s"
        self._bases = root / "b"
        self._kept: dict[str, Kept] = {}
        self._damaged: dict[Path, Damage] = {}
        self._all_readable = True
        self._arriving = 0

    def find(self, snapshot_id: str) -> SnapshotReport | None:
        """What is known of a snapshot."""
        kept = self._kept.get(snapshot_id)
        return self._report(kept) if kept else None

    def prepare(self, snapshot_id: str) -> Prepared:
        """What a machine starts from. SnapshotNotFound, SnapshotRefused when this host cannot restore it or a
        file of it is known to be damaged; the sentence names another snapshot of the machine that is not,
        and says whether the disk is left.
        """
        kept = self._found(snapshot_id)
        if kept.prepared.snapshot is not None and kept.report.durable:
            try:
                self._check_whole(kept)
            except SnapshotRefused as error:
                words = error.message + self._instead(kept) + _disk_left(kept, error)
                raise SnapshotRefused(words, **error.details) from error
            try:
                self._driver.check(kept.prepared.snapshot, kept.prepared.any_machine)
            except SnapshotRefused as error:
                raise SnapshotRefused(error.message + DISK_LEFT, **error.details) from error
        return kept.prepared

    async def prepare_cold(self, snapshot_id: str) -> Prepared:
        """What a machine boots from with the disk of a snapshot, which is read whole. SnapshotNotFound,
        SnapshotRefused when the disk is damaged too.
        """
        kept = self._found(snapshot_id)
        if kept.prepared.snapshot is not None and kept.report.durable:
            try:
                await snapshots.verify_disk(kept.prepared.snapshot)
            except SnapshotRefused as error:
                raise SnapshotRefused(error.message + self._instead(kept), **error.details) from error
        return kept.prepared

    def whole(self, snapshot_id: str) -> tuple[Kept, SnapshotFiles]:
        """One that is to last, and its files. SnapshotNotFound, SnapshotRefused as far as is known now."""
        kept = self._found(snapshot_id)
        files = kept.prepared.snapshot
        if files is None or not kept.report.durable:
            raise SnapshotNotFound(f"This host has no durable snapshot {snapshot_id}.")
        self._check_whole(kept)
        return kept, files

    def reports(self) -> list[SnapshotReport]:
        """All snapshots."""
        return [self._report(kept) for kept in self._kept.values()]

    def passing(self) -> list[Prepared]:
        """What is started from those that do not last: they have no files of their own."""
        return [kept.prepared for kept in self._kept.values() if not kept.report.durable]

    def folders(self) -> list[Path]:
        """The directories of all that is to last: snapshots, and what they lie over."""
        own = [self._snapshots / name for name, kept in self._kept.items() if kept.report.durable]
        return own + self._held()

    def note(self, folder: Path, damage: Damage | None) -> None:
        """Remember that the files of a folder are damaged, or that they are whole. Fine when it is gone."""
        if folder not in self.folders():
            return
        if damage is None:
            self._damaged.pop(folder, None)
            (folder / DAMAGE).unlink(missing_ok=True)
        else:
            log.warning("snapshot.damaged", folder=folder.name, reason=damage.reason)
            self._damaged[folder] = damage
            write_record(folder / DAMAGE, damage)

    def heed(self) -> None:
        """Know of what others have found damaged and noted, as `pandastack fsck`."""
        for folder in self.folders():
            if folder not in self._damaged and (damage := read_record(folder / DAMAGE, Damage)):
                log.warning("snapshot.damaged", folder=folder.name, reason=damage.reason)
                self._damaged[folder] = damage

    async def keep(
        self, spec: SnapshotSpec, vm: Vm, quiet: AbstractAsyncContextManager[Callable[[], None]]
    ) -> SnapshotReport:
        """Take a snapshot of a machine, which is `quiet` while its state is read, but not while it is hashed
        and flushed. On any error nothing of it is left and the machine goes on.
        """
        prepared = await self._origin(vm, durable=spec.durable)
        target = self._snapshots / spec.id
        with full_disk_said(), (new_directory if spec.durable else _passing_directory)(target) as folder:
            with full_disk_found(folder):  # a guest that it has stopped cannot be quiet
                async with quiet as go:
                    taken = await vm.machine.snapshot_since(prepared.snapshot, folder, spec, go)
            kept = kept_of(spec, vm, prepared, taken, target)
            if spec.durable:
                await self._publish(kept, taken, vm)
        self._kept[spec.id] = kept
        return kept.report

    async def _publish(self, kept: Kept, taken: Taken, vm: Vm) -> None:
        """Hash and flush what was taken, before it gets its name. On any error the machine goes on."""
        try:
            await asyncio.to_thread(write_record, taken.files.directory / RECORD, kept)
            await self._seal(taken, kept.prepared)
        except BaseException:
            await self._driver.release(kept.report.id)
            if vm.report.state is VmState.RUNNING:
                await vm.machine.resume()
                set_going(vm)
            raise

    async def drop(self, snapshot_id: str) -> None:
        """Remove a snapshot; fine when there is none, and when others do it at once. Errors: NoSpace,
        MachineError.
        """
        await carried_through(self._drop(snapshot_id))

    async def _drop(self, snapshot_id: str) -> None:
        self._kept.pop(snapshot_id, None)
        self._damaged.pop(self._snapshots / snapshot_id, None)
        await self._driver.release(snapshot_id)
        try:
            await asyncio.to_thread(self._remove, snapshot_id)
        except OSError as error:
            raise told(error, "The snapshot could not be removed") from error

    def home_of(self, snapshot_id: str) -> Path:
        """Where the files of a snapshot are, if there is one."""
        return self._snapshots / snapshot_id

    def base_of(self, name: str) -> Path:
        """Where the files of what snapshots lie over are, if there is such."""
        return self._bases / name

    def sound_bases(self) -> list[Path]:
        """What snapshots lie over, but what is known to be damaged."""
        return [folder for folder in self._held() if folder not in self._damaged]

    @contextmanager
    def arriving(self) -> Iterator[Callable[[Kept], None]]:
        """Within the block nothing is tidied away, and a snapshot whose files have come can be told of."""
        self._arriving += 1
        try:
            yield lambda kept: self._kept.update({kept.report.id: kept})
        finally:
            self._arriving -= 1

    def open(self) -> None:
        """Find what an earlier program has kept; what was not durable, or half made, goes."""
        for folder in (self._snapshots, self._bases):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sweep(folder)
        for home in self._snapshots.iterdir():
            kept = read_record(home / RECORD, Kept)
            if kept is not None:
                self._kept[home.name] = kept
            elif not (home / RECORD).exists():
                shutil.rmtree(home, ignore_errors=True)
            else:
                self._all_readable = False
                log.warning("snapshot.unreadable", snapshot=home.name)
        self.heed()

    async def tidy(self, machines: Iterable[Prepared]) -> None:
        """Remove what no snapshot lies over, and none of the `machines`. No machine may be starting, and no
        snapshot be under way.
        """
        folders = self._held()
        if self._arriving or not folders:
            return
        if not self._all_readable:  # what cannot be read may need any of them
            return
        used = [folders_of(prepared) for prepared in (*machines, *(k.prepared for k in self._kept.values()))]
        unused = set(folders).difference(*used)
        going = [taken_away(folder) for folder in unused]  # at once: what starts next must not find them
        for folder, gone in zip(unused, going, strict=True):
            self._damaged.pop(folder, None)
            log.info("snapshot.base_removed", base=folder.name)
            await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)

    async def _origin(self, vm: Vm, *, durable: bool) -> Prepared:
        """What the machine's snapshot will lie over, held for it if it is to last."""
        if vm.prepared is None:
            raise NotSupported("An older version of this program has started the machine: it cannot be kept.")
        prepared = structs.replace(vm.prepared, env={**vm.prepared.env, **vm.spec.env})
        whole = None
        if prepared.snapshot and Feature.DIFF_SNAPSHOT in self._driver.features:
            whole = prepared.snapshot.base or prepared.snapshot
        prepared = structs.replace(prepared, snapshot=whole)
        if whole is None or not durable:
            return prepared
        held = self._bases / whole.directory.name
        if held in self._damaged:
            reason = self._damaged[held].reason
            raise SnapshotRefused(f"What the machine's snapshot would lie over: {reason}")
        return await asyncio.to_thread(hold, prepared, whole, held)

    async def _seal(self, taken: Taken, prepared: Prepared) -> None:
        config = prepared.any_machine
        machinery, image = self._driver.machinery(config), prepared.template.digest
        record = taken.files.directory / RECORD
        await snapshots.seal(
            taken.files,
            machinery,
            image,
            config.cpus,
            config.memory_mb,
            also=(record,),
            known=taken.marks,
        )

    def _found(self, snapshot_id: str) -> Kept:
        kept = self._kept.get(snapshot_id)
        if kept is None:
            raise SnapshotNotFound(f"This host has no snapshot {snapshot_id}.")
        return kept

    def _remove(self, snapshot_id: str) -> None:
        home = self._snapshots / snapshot_id
        with suppress(FileNotFoundError):
            shutil.rmtree(taken_away(home), ignore_errors=True)

    def _held(self) -> list[Path]:
        """The folders of what snapshots lie over."""
        return [folder for folder in self._bases.glob("*") if not folder.name.startswith(".")]

    def _report(self, kept: Kept) -> SnapshotReport:
        damage = self._damage_of(kept)
        return structs.replace(kept.report, damaged=damage.reason if damage else None)

    def _damage_of(self, kept: Kept) -> Damage | None:
        found = (self._damaged.get(folder) for folder in self._folders_of(kept))
        return next(filter(None, found), None)

    def _folders_of(self, kept: Kept) -> list[Path]:
        """Its own, and that of what it lies over."""
        files = kept.prepared.snapshot
        base = [files.base.directory] if files and files.base else []
        return [self._snapshots / kept.report.id, *base]

    def _check_whole(self, kept: Kept) -> None:
        """SnapshotRefused for what was found damaged before, and what can be seen at a glance."""
        if damage := self._damage_of(kept):
            raise damage.refusal()
        if kept.prepared.snapshot is not None:
            snapshots.check_sizes(kept.prepared.snapshot, snapshots.read_manifest(kept.prepared.snapshot))

    def _instead(self, damaged: Kept) -> str:
        """Which other snapshot of the same machine can be had by its name, the newest there is."""
        named = [kept for kept in self._kept.values() if kept.report.durable and not kept.report.held]
        others = [
            (self._taken_at(kept), kept)
            for kept in named
            if kept is not damaged and kept.report.vm == damaged.report.vm
        ]
        for at, kept in sorted(others, key=lambda other: other[0], reverse=True):
            with suppress(SnapshotRefused):
                self._check_whole(kept)
                which = "before" if at < self._taken_at(damaged) else "after"
                when = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
                return f" The one {which}, {kept.report.id} of {when}, is good."
        return ""

    def _taken_at(self, kept: Kept) -> float:
        """Seconds of the wall clock; its record is never written again."""
        try:
            return (self._snapshots / kept.report.id / RECORD).stat().st_mtime
        except FileNotFoundError:
            return 0.0


def _disk_left(kept: Kept, error: SnapshotRefused) -> str:
    """Whether what is damaged is not the disk."""
    files = kept.prepared.snapshot
    parts = [each for each in (files, files.base if files else None) if each]
    spare = {path.name for each in parts for path in (each.memory, each.state)}
    return DISK_LEFT if error.details.get("file") in spare else ""


@contextmanager
def _passing_directory(target: Path) -> Iterator[Path]:
    """A folder for what does not outlive this program; gone when the block fails."""
    target.mkdir(mode=0o700)
    try:
        yield target
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
