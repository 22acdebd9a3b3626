"""Snapshots as a host keeps them, without a machine that they were taken of: files of the usual shapes,
sealed and noted as the host does it.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import structs

from pandastack.host import snapshots
from pandastack.host.builder import content_digest
from pandastack.host.driver import SnapshotFiles
from pandastack.host.image import DiskRecord
from pandastack.host.kept import RECORD, Kept
from pandastack.host.record import write_record
from pandastack.host.templates import Prepared
from pandastack.model.host import SnapshotReport
from pandastack.model.image import Template
from pandastack.testing.machines import machine_config
from pandastack.testing.process_driver import MACHINERY

MIB = 1 << 20
TEMPLATE = Template(name="base", cpu=1, memory_mb=64, disk_mb=0, digest="none", baked=True)


def fill(path: Path, size: int, *pieces: int) -> None:
    """A file of `size` bytes that is a hole but for a MiB at each of `pieces`; without any all is data."""
    with path.open("wb") as file:
        file.truncate(size)
        for at in pieces or range(0, size, MIB):
            file.seek(at)
            file.write(os.urandom(min(MIB, size - at)))


async def make_base(state: Path, key: str) -> SnapshotFiles:
    """What snapshots lie over."""
    files = snapshots.files_in(state / "b" / key)
    files.directory.mkdir(parents=True)
    fill(files.memory, 40 * MIB, 0, 13 * MIB, 39 * MIB)
    fill(files.state, 20_000)
    fill(files.overlay, 200_000)
    fill(files.directory / "empty.qcow2", 200_000)
    root = files.directory / "root"
    fill(root, 2 * MIB)
    disk = DiskRecord(digest=key, recipe="r", content=content_digest(root), packages=1, size_bytes=2 * MIB)
    write_record(files.directory / "image.json", disk)
    await snapshots.seal(files, MACHINERY, "none", 1, 64)
    return files


async def make_kept(state: Path, name: str, base: SnapshotFiles, *, vm: str = "box") -> SnapshotFiles:
    """A snapshot of machine `vm`."""
    home = state / "s" / name
    home.mkdir(parents=True)
    files = snapshots.differing(home, base, base.directory / "empty.qcow2", 2)
    fill(files.memory, 9 * MIB + 12_345)
    fill(files.state, 20_000)
    for layer in files.layers:
        fill(layer, 5 * MIB + 65_536, 0, 5 * MIB)
    config = structs.replace(
        machine_config(), root_disk=base.directory / "root", overlay=base.directory / "empty.qcow2"
    )
    report = SnapshotReport(name, vm, "base", 1, 64, 10 * MIB, 5.0, {}, layers=2)
    write_record(home / RECORD, Kept(report, Prepared(TEMPLATE, config, files)))
    await snapshots.seal(files, MACHINERY, "none", 1, 64, also=(home / RECORD,))
    return files


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Turn one bit of a file around; a second time puts it back."""
    with path.open("r+b") as file:
        file.seek(at)
        value = file.read(1)[0]
        file.seek(at)
        file.write(bytes([value ^ 1 << bit]))
