"""The snapshots that this host keeps: one directory each, beside the machines.

`s/ID/` holds the pages, the device state and the disk layers of a snapshot, and `kept.json`, without which it
does not exist. What all snapshots of a template share, the memory and the disk that they differ from, is
linked into `b/KEY/` by the first of them, so that a cache that is emptied takes nothing away from them. Files
are removed by the file system with their last link: a snapshot needs no other snapshot, nor the machine that
it was taken of.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from msgspec import Struct, structs

from pandastack.errors import NotSupported, SnapshotNotFound
from pandastack.host import layers, snapshots
from pandastack.host.driver import Driver, Feature, SnapshotFiles, Taken
from pandastack.host.publish import flush_tree, full_disk_said, new_directory, sweep
from pandastack.host.record import read_record, write_record
from pandastack.host.templates import Prepared
from pandastack.host.vm import Vm
from pandastack.model.host import SnapshotReport, SnapshotSpec, VmState

RECORD = "kept.json"
ITS_OWN_LINKS = 2
log = structlog.get_logger("host")


class Kept(Struct, frozen=True):
    """`kept.json`: what the host tells of a snapshot, and how to start from it."""

    report: SnapshotReport
    prepared: Prepared


class Vault:
    """All snapshots below one directory. Made by `open_vault`."""

    def __init__(self, driver: Driver, root: Path) -> None:
        self._driver = driver
        self._snapshots = root / "s"
        self._bases = root / "b"
        self._kept: dict[str, Kept] = {}

    def find(self, snapshot_id: str) -> SnapshotReport | None:
        """What is known of a snapshot."""
        kept = self._kept.get(snapshot_id)
        return kept.report if kept else None

    def prepare(self, snapshot_id: str) -> Prepared:
        """What a machine starts from. SnapshotNotFound, SnapshotRefused when this host cannot restore it."""
        kept = self._kept.get(snapshot_id)
        if kept is None:
            raise SnapshotNotFound(f"This host has no snapshot {snapshot_id}.")
        if kept.prepared.snapshot is not None and kept.report.durable:
            self._driver.check(kept.prepared.snapshot, kept.prepared.any_machine)
        return kept.prepared

    def reports(self) -> list[SnapshotReport]:
        """All snapshots."""
        return [kept.report for kept in self._kept.values()]

    async def keep(self, spec: SnapshotSpec, vm: Vm) -> SnapshotReport:
        """Take a snapshot of a machine. On any error nothing of it is left and the machine goes on."""
        prepared = await self._origin(vm, durable=spec.durable)
        target = self._snapshots / spec.id
        with full_disk_said(), (new_directory if spec.durable else _passing_directory)(target) as folder:
            taken = await vm.machine.snapshot_since(
                prepared.snapshot, folder, name=spec.id, hold=spec.hold, durable=spec.durable
            )
            kept = _kept(spec, vm, prepared, taken, target)
            if spec.durable:
                await self._publish(kept, taken, vm)
        self._kept[spec.id] = kept
        return kept.report

    async def _publish(self, kept: Kept, taken: Taken, vm: Vm) -> None:
        """Hash and flush what was taken, before it gets its name. On any error the machine goes on."""
        try:
            await self._seal(taken, kept.prepared)
            await asyncio.to_thread(write_record, taken.files.directory / RECORD, kept)
            await asyncio.to_thread(flush_tree, taken.files.directory)
        except BaseException:
            await self._driver.release(kept.report.id)
            if vm.report.state is VmState.RUNNING:
                await vm.machine.resume()
            raise

    async def drop(self, snapshot_id: str) -> None:
        """Remove a snapshot; fine when there is none."""
        self._kept.pop(snapshot_id, None)
        await self._driver.release(snapshot_id)
        await asyncio.to_thread(self._remove, snapshot_id)

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
                log.warning("snapshot.unreadable", snapshot=home.name)

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
        return await asyncio.to_thread(_hold, prepared, whole, held)

    async def _seal(self, taken: Taken, prepared: Prepared) -> None:
        config = prepared.any_machine
        machinery, image = self._driver.machinery(config), prepared.template.digest
        await snapshots.seal(taken.files, machinery, image, config.cpus, config.memory_mb)

    def _remove(self, snapshot_id: str) -> None:
        """In two steps, so that a crash leaves a draft, which is swept, and no half snapshot."""
        home = self._snapshots / snapshot_id
        if home.exists():
            going = home.with_name(f".{snapshot_id}.gone")
            shutil.rmtree(going, ignore_errors=True)
            home.rename(going)
            shutil.rmtree(going, ignore_errors=True)


@contextmanager
def _passing_directory(target: Path) -> Iterator[Path]:
    """A folder for what does not outlive this program; gone when the block fails."""
    target.mkdir(mode=0o700)
    try:
        yield target
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _hold(prepared: Prepared, whole: SnapshotFiles, held: Path) -> Prepared:
    """The same over files of our own, with links to all that a restore needs."""
    config = prepared.any_machine
    files = {
        "memory": whole.memory,
        "state": whole.state,
        "disk.qcow2": whole.overlay,
        "snapshot.json": whole.manifest,
        "empty.qcow2": config.overlay,
        "root": config.root_disk,
    }
    if not held.exists():
        with new_directory(held) as draft:
            for name, file in files.items():
                layers.link(file, draft / name)
    config = structs.replace(config, root_disk=held / "root", overlay=held / "empty.qcow2")
    return structs.replace(prepared, any_machine=config, snapshot=snapshots.files_in(held))


def _kept(spec: SnapshotSpec, vm: Vm, prepared: Prepared, taken: Taken, target: Path) -> Kept:
    files = taken.files
    there = structs.replace(
        files,
        directory=target,
        memory=target / files.memory.name,
        state=target / files.state.name,
        overlay=files.overlay if files.base else target / files.overlay.name,
        manifest=target / files.manifest.name,
        layers=tuple(target / layer.name for layer in files.layers),
    )
    report = SnapshotReport(
        id=spec.id,
        vm=spec.vm,
        template=prepared.template.name,
        cpu=prepared.template.cpu,
        memory_mb=prepared.template.memory_mb,
        size_bytes=_size(files.directory),
        pause_ms=taken.pause_ms,
        phases_ms=taken.phases_ms,
        durable=spec.durable,
        layers=len(files.layers),
    )
    return Kept(report, structs.replace(prepared, snapshot=there))


def _size(folder: Path) -> int:
    """What its files take on the disk, without the layers that earlier snapshots or lives have too: one that
    only it and its machine have is its own.
    """
    files = [path.stat() for path in folder.iterdir()]
    return sum(file.st_blocks * 512 for file in files if file.st_nlink <= ITS_OWN_LINKS)
