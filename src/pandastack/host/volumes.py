"""The volumes of this host: one directory each, with a raw disk that no program of the host ever looks into.

`w/ID/` holds `disk`, a sparse file with an ext4 file system that was empty when it was made, and
`volume.json`, without which there is no volume. A machine gets the disk by a descriptor. Who may have it is
the control plane's to decide; that no two write to it is kept here too, by the generation of its writer and
by QEMU's own lock on the file.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from itertools import count
from pathlib import Path
from uuid import UUID

import structlog
from msgspec import Struct, structs

from pandastack.errors import Conflict, InvalidRequest, NoSpace, NotSupported, VolumeBusy, VolumeNotFound
from pandastack.host import sparse
from pandastack.host.driver import Drive
from pandastack.host.ext4 import FEATURES
from pandastack.host.publish import flush_tree, full_disk_said, new_directory, sweep, taken_away
from pandastack.host.record import note, read_record, write_record
from pandastack.host.tool import run_tool
from pandastack.model.host import PIECE, Piece, VolumeReport
from pandastack.model.volume import Mount

DISK = "disk"
RECORD = "volume.json"
MAKE_SECONDS = 60.0
BYTES_PER_INODE = 16384
SPARE_BYTES = 1 << 30
"""So much of the host's disk is left to the machines: what would leave less is refused."""
OVERCOMMIT = 3
"""All volumes together may be so many times what their disk holds."""

log = structlog.get_logger("host")


class Kept(Struct, frozen=True):
    """`volume.json`."""

    id: str
    size_mb: int
    generation: int = 0
    """That of the last one who was given it to write."""


class Volumes:
    """All volumes below one directory. None can be made for machines that are not `able` to have any."""

    def __init__(self, root: Path, *, able: bool) -> None:
        self._root = root
        self._able = able
        self._kept: dict[str, Kept] = {}
        self._holders: dict[str, dict[str, bool]] = {}
        """By volume: the machines that have it, and whether they only read."""
        self._readings = count()
        self._coming: dict[str, int] = {}
        """Sizes of those that are being filled."""
        self._making = asyncio.Lock()

    def open(self) -> None:
        """Find what an earlier program has made; what was half made goes."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep(self._root)
        for home in self._root.iterdir():
            kept = read_record(home / RECORD, Kept)
            if kept is None:
                log.warning("volume.unreadable", volume=home.name)
            else:
                self._kept[home.name] = kept

    def reports(self) -> list[VolumeReport]:
        """All volumes."""
        return [self._report(kept) for kept in self._kept.values()]

    def path_of(self, volume_id: str) -> Path:
        """The disk of a volume, if there is such."""
        return self._root / volume_id / DISK

    async def make(self, volume_id: str, size_mb: int) -> VolumeReport:
        """See `model.host.Host.make_volume`."""
        self._check_able()
        UUID(volume_id)
        async with self._making:
            if (kept := self._kept.get(volume_id)) is None:
                self._check_room(size_mb)
                kept = Kept(volume_id, size_mb)
                with full_disk_said(), new_directory(self._root / volume_id) as draft:
                    await make_disk(draft / DISK, size_mb, volume_id)
                    write_record(draft / RECORD, kept)
                    await asyncio.to_thread(flush_tree, draft)
                self._kept[volume_id] = kept
        return self._report(kept)

    async def copy(self, source_id: str, volume_id: str, size_mb: int) -> VolumeReport:
        """See `model.host.Host.copy_volume`."""
        UUID(volume_id)
        async with self._making:
            if (kept := self._kept.get(volume_id)) is None:
                source = self._found(source_id)
                if not all(self._holders.get(source_id, {}).values()):
                    raise VolumeBusy(f"A machine writes volume {source_id}.")
                size_mb = max(size_mb, source.size_mb)
                self._check_room(size_mb)
                kept = Kept(volume_id, size_mb)
                with full_disk_said(), new_directory(self._root / volume_id) as draft:
                    await asyncio.to_thread(_copy, self.path_of(source_id), draft / DISK, size_mb)
                    write_record(draft / RECORD, kept)
                    await asyncio.to_thread(flush_tree, draft)
                self._kept[volume_id] = kept
        return self._report(kept)

    @asynccontextmanager
    async def read(self, volume_id: str) -> AsyncIterator[AsyncIterator[Piece]]:
        """See `model.host.Host.read_volume`."""
        self._found(volume_id)
        if self.writer(volume_id) is not None:
            raise VolumeBusy(f"A machine writes volume {volume_id}.")
        readers = self._holders.setdefault(volume_id, {})
        me = f"reader-{next(self._readings)}"
        readers[me] = True
        try:
            async with aclosing(_pieces(self.path_of(volume_id))) as pieces:
                yield pieces
        finally:
            del readers[me]

    async def fill(self, volume_id: str, size_mb: int, pieces: AsyncIterator[Piece]) -> VolumeReport:
        """See `model.host.Host.fill_volume`."""
        self._check_able()
        UUID(volume_id)
        if volume_id in self._kept or volume_id in self._coming:
            raise InvalidRequest(f"There is a volume {volume_id}.")
        self._check_room(size_mb)
        self._coming[volume_id] = size_mb
        kept = Kept(volume_id, size_mb)
        try:
            with full_disk_said(), new_directory(self._root / volume_id) as draft:
                await _write(draft / DISK, size_mb << 20, pieces)
                write_record(draft / RECORD, kept)
                await asyncio.to_thread(flush_tree, draft)
            self._kept[volume_id] = kept
        finally:
            del self._coming[volume_id]
        return self._report(kept)

    async def grow(self, volume_id: str, size_mb: int) -> VolumeReport:
        """Have its file be so large; the file system in it is grown by who writes it next. VolumeNotFound,
        InvalidRequest, NoSpace.
        """
        kept = self._found(volume_id)
        if size_mb < kept.size_mb:
            raise InvalidRequest(f"The volume has {kept.size_mb} MiB, and cannot shrink to {size_mb}.")
        if size_mb > kept.size_mb:
            self._check_room(size_mb - kept.size_mb)
            with full_disk_said():
                os.truncate(self.path_of(volume_id), size_mb << 20)
                kept = structs.replace(kept, size_mb=size_mb)
                write_record(self._root / volume_id / RECORD, kept)
            self._kept[volume_id] = kept
        return self._report(kept)

    def writer(self, volume_id: str) -> str | None:
        """The machine that writes it."""
        holders = self._holders.get(volume_id, {})
        return next((vm for vm, reads in holders.items() if not reads), None)

    async def drop(self, volume_id: str) -> None:
        """See `model.host.Host.drop_volume`."""
        if holders := self._holders.get(volume_id):
            raise VolumeBusy(f"Machine {next(iter(holders))} has volume {volume_id}.")
        if self._kept.pop(volume_id, None) is not None:
            gone = taken_away(self._root / volume_id)
            await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)

    def lend(self, vm_id: str, mounts: Iterable[Mount]) -> tuple[Drive, ...]:
        """The drives of a machine that is to be, which it has until `give_back`. VolumeNotFound, VolumeBusy,
        Conflict for one who was given it before another was; then it has none.
        """
        try:
            return tuple(self._lend(vm_id, mount) for mount in mounts)
        except BaseException:
            self.give_back(vm_id)
            raise

    def adopt(self, vm_id: str, mounts: Iterable[Mount]) -> None:
        """A machine that runs has these since an earlier life of this program."""
        for mount in mounts:
            self._holders.setdefault(mount.id, {})[vm_id] = mount.read_only

    def give_back(self, vm_id: str) -> None:
        """The machine has ended. Fine when it has none."""
        for holders in self._holders.values():
            holders.pop(vm_id, None)

    async def flush(self, mounts: Iterable[Mount]) -> None:
        """Have what machines have written to them be on the disk."""
        for mount in mounts:
            if not mount.read_only:
                await asyncio.to_thread(_flush, self.path_of(mount.id))

    def _lend(self, vm_id: str, mount: Mount) -> Drive:
        kept = self._found(mount.id)
        others = {vm: reads for vm, reads in self._holders.get(mount.id, {}).items() if vm != vm_id}
        if others and not (mount.read_only and all(others.values())):
            raise VolumeBusy(f"Volume {mount.name!r} is in machine {next(iter(others))}.")
        if mount.generation < kept.generation:
            raise Conflict(f"Volume {mount.name!r} has been another's to write since.")
        if mount.generation > kept.generation:
            kept = structs.replace(kept, generation=mount.generation)
            note(self._root / mount.id / RECORD, kept)
            self._kept[mount.id] = kept
        self._holders.setdefault(mount.id, {})[vm_id] = mount.read_only
        return Drive(self.path_of(mount.id), kept.size_mb << 20, read_only=mount.read_only)

    def _found(self, volume_id: str) -> Kept:
        kept = self._kept.get(volume_id)
        if kept is None:
            raise VolumeNotFound(f"This host has no volume {volume_id}.")
        return kept

    def _report(self, kept: Kept) -> VolumeReport:
        used = self.path_of(kept.id).stat().st_blocks * 512
        return VolumeReport(kept.id, kept.size_mb, used)

    def _check_able(self) -> None:
        if not self._able:
            raise NotSupported("Machines of this host's driver cannot have volumes yet.")

    def _check_room(self, more_mb: int) -> None:
        """NoSpace when the host has promised too much already."""
        disk = shutil.disk_usage(self._root)
        sizes = [*(kept.size_mb for kept in self._kept.values()), *self._coming.values()]
        promised = sum(sizes) << 20
        if promised + (more_mb << 20) > disk.total * OVERCOMMIT or disk.free < SPARE_BYTES:
            raise NoSpace(
                f"A volume of {more_mb} MiB does not fit: this host's disk holds {disk.total >> 20} MiB, "
                f"{disk.free >> 20} of them free, and volumes have been promised {promised >> 20}.",
                reason="headroom",
                provisioned_bytes=promised,
                fs_size_bytes=disk.total,
                fs_free_bytes=disk.free,
                oversub_factor=OVERCOMMIT,
                free_reserve_bytes=SPARE_BYTES,
            )


async def make_disk(disk: Path, size_mb: int, volume_id: str) -> None:
    """An empty ext4 file system in a sparse file. NoSpace, BuildFailed."""
    with full_disk_said(), disk.open("xb") as file:
        file.truncate(size_mb << 20)
    await run_tool(
        [
            *("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0"),
            *("-O", f"none,{FEATURES}"),  # without its configuration it would make no journal
            *("-L", f"vol-{volume_id[:8]}", "-U", volume_id),
            *("-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
            *("-i", str(BYTES_PER_INODE), str(disk)),
        ],
        timeout=MAKE_SECONDS,
        settings={"MKE2FS_CONFIG": "/dev/null"},
    )


def _copy(source: Path, target: Path, size_mb: int) -> None:
    sparse.copy(source, target)
    os.truncate(target, size_mb << 20)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


async def _pieces(disk: Path) -> AsyncGenerator[Piece, None]:
    with disk.open("rb") as file:
        chunks = sparse.chunks(file.fileno())
        while (found := await asyncio.to_thread(next, chunks, None)) is not None:
            yield Piece(*found)


async def _write(disk: Path, size: int, pieces: AsyncIterator[Piece]) -> None:
    """A sparse file of these bytes. InvalidRequest for a piece that is not one of its."""
    with disk.open("xb") as file:
        file.truncate(size)
        async for piece in pieces:
            if piece.offset < 0 or len(piece.data) > PIECE or piece.offset + len(piece.data) > size:
                raise InvalidRequest(f"A piece at {piece.offset} is no piece of a disk of {size} bytes.")
            await asyncio.to_thread(os.pwrite, file.fileno(), piece.data, piece.offset)
