"""What is noted of a snapshot that a host keeps, and the links to what it lies over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct, structs

from pandastack.errors import SnapshotRefused
from pandastack.host import layers, marks, snapshots
from pandastack.host.driver import SnapshotFiles, Taken
from pandastack.host.image import DiskRecord
from pandastack.host.paths import IMAGE_RECORD
from pandastack.host.publish import new_directory
from pandastack.host.record import read_record
from pandastack.host.templates import Prepared
from pandastack.host.vm import Vm
from pandastack.model.host import SnapshotReport, SnapshotSpec

RECORD = "kept.json"
DAMAGE = "damaged.json"
"""Beside a snapshot or a base that was found damaged."""
EMPTY = "empty.qcow2"
"""The layer of a base that restores begin to write."""
HELD_ROOT = "root"
ITS_OWN_LINKS = 2


class Kept(Struct, frozen=True):
    """`kept.json`: what the host tells of a snapshot, and how to start from it."""

    report: SnapshotReport
    prepared: Prepared


class Damage(Struct, frozen=True):
    """`damaged.json`: what is wrong, in one sentence, and where, as far as it is known."""

    reason: str
    file: str | None = None
    chunk: int | None = None

    def refusal(self) -> SnapshotRefused:
        """Why nothing starts from it."""
        places = {"file": self.file, "chunk": self.chunk}
        return SnapshotRefused(self.reason, **{name: at for name, at in places.items() if at is not None})


def checked(folder: Path) -> Iterator[int]:
    """Read all of a snapshot, or of what some lie over: yields the bytes of data of each part.

    SnapshotRefused names the first file, and which chunk of it, that is damaged.
    """
    yield from snapshots.checked(folder, snapshots.read_manifest(snapshots.files_in(folder)))
    image = read_record(folder / IMAGE_RECORD, DiskRecord)
    if image is not None:
        with snapshots.named(folder):
            yield from marks.checked_content(folder / HELD_ROOT, image.content)


def folders_of(prepared: Prepared) -> set[Path]:
    """The directories that a start of this needs."""
    config, files = prepared.any_machine, prepared.snapshot
    found = {config.root_disk.parent, config.overlay.parent}
    if files is not None:
        found |= {files.directory} | ({files.base.directory} if files.base else set())
    return found


def hold(prepared: Prepared, whole: SnapshotFiles, held: Path) -> Prepared:
    """The same over files of our own in `held`, with links to all that a restore needs."""
    config = prepared.any_machine
    files = {
        "memory": whole.memory,
        "state": whole.state,
        "disk.qcow2": whole.overlay,
        "snapshot.json": whole.manifest,
        EMPTY: config.overlay,
        HELD_ROOT: config.root_disk,
    }
    if (config.root_disk.parent / IMAGE_RECORD).exists():  # it has the hash of the root disk
        files[IMAGE_RECORD] = config.root_disk.parent / IMAGE_RECORD
    if not held.exists():
        with new_directory(held) as draft:
            for name, file in files.items():
                layers.link(file, draft / name)
    config = structs.replace(config, root_disk=held / HELD_ROOT, overlay=held / EMPTY)
    return structs.replace(prepared, any_machine=config, snapshot=snapshots.files_in(held))


def kept_of(spec: SnapshotSpec, vm: Vm, prepared: Prepared, taken: Taken, target: Path) -> Kept:
    """What is noted of a snapshot that was taken and will lie in `target`."""
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
        size_bytes=own_size(files.directory),
        pause_ms=taken.pause_ms,
        phases_ms=taken.phases_ms,
        durable=spec.durable,
        layers=len(files.layers),
        held=spec.hold,
    )
    return Kept(report, structs.replace(prepared, snapshot=there))


def own_size(folder: Path) -> int:
    """What its files take on the disk, without the layers that earlier snapshots or lives have too: one that
    only it and its machine have is its own.
    """
    files = [path.stat() for path in folder.iterdir()]
    return sum(file.st_blocks * 512 for file in files if file.st_nlink <= ITS_OWN_LINKS)
