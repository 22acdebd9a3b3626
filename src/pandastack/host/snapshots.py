"""Snapshots on disk: one directory with four files, the manifest last, published by a rename.

A damaged memory image restores silently and an empty state file hangs a VMM for ever, so the manifest carries
a hash of each file. They are checked once, before a host first uses a snapshot; hashing at each restore would
cost a second a GiB.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from pandastack.errors import SnapshotRefused
from pandastack.host import layers, sparse
from pandastack.host.driver import Machinery, SnapshotFiles
from pandastack.host.publish import flush


class FileMark(Struct, frozen=True):
    """What a file of a snapshot must be. `sha256` is over the file with its holes as zeros skipped: see
    `sparse`.
    """

    size: int
    sha256: str


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """`snapshot.json`. Sizes in MiB and bytes."""

    machinery: Machinery
    image: str
    cpus: int
    memory_mb: int
    files: dict[str, FileMark]
    base: str | None = None
    """The name of the whole snapshot that this one's pages and layers lie over."""
    format: int = 1


def files_in(directory: Path) -> SnapshotFiles:
    """The names of a snapshot's files, whether they exist or not."""
    return SnapshotFiles(
        directory=directory,
        memory=directory / "memory",
        state=directory / "state",
        overlay=directory / "disk.qcow2",
        manifest=directory / "snapshot.json",
    )


def differing(directory: Path, base: SnapshotFiles, empty: Path, count: int) -> SnapshotFiles:
    """The names of what a snapshot has beside its base, and of its disk's `count` layers; `empty` is the one
    that restores begin to write.
    """
    return SnapshotFiles(
        directory=directory,
        memory=directory / "pages",
        state=directory / "state",
        overlay=empty,
        manifest=directory / "snapshot.json",
        base=base,
        layers=tuple(directory / layers.below(number) for number in range(count)),
    )


async def seal(files: SnapshotFiles, machinery: Machinery, image: str, cpus: int, memory_mb: int) -> Manifest:
    """Flush and hash the files, then write the manifest; a snapshot without one does not exist."""
    async with asyncio.TaskGroup() as group:  # the disk writes while the processor hashes
        marking = group.create_task(asyncio.to_thread(_marks, files))
        for path in _content(files):
            group.create_task(asyncio.to_thread(flush, path))
    marks = marking.result()
    base = files.base.directory.name if files.base else None
    manifest = Manifest(machinery, image, cpus, memory_mb, marks, base)
    await asyncio.to_thread(_write_flushed, files.manifest, msgspec.json.encode(manifest))
    return manifest


def read_manifest(files: SnapshotFiles) -> Manifest:
    """SnapshotRefused when it is missing or not one of ours."""
    try:
        return msgspec.json.decode(files.manifest.read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise SnapshotRefused(
            f"The snapshot {files.directory.name} has no valid manifest: {error}"
        ) from error


def check_fits(manifest: Manifest, machinery: Machinery) -> None:
    """SnapshotRefused with what differs, before anything is started."""
    for name in Machinery.__struct_fields__:
        made, here = getattr(manifest.machinery, name), getattr(machinery, name)
        if made != here:
            raise SnapshotRefused(
                f"The snapshot was made with {name} {made!r}, this host has {here!r}: bake it again."
            )


async def verify(files: SnapshotFiles, manifest: Manifest) -> None:
    """Hash everything against the manifest; SnapshotRefused names the damaged file."""
    marks = await asyncio.to_thread(_marks, files)
    for name, mark in manifest.files.items():
        if marks.get(name) != mark:
            raise SnapshotRefused(
                f"The snapshot's file {name} is damaged; delete {files.directory} and bake again."
            )


def _marks(files: SnapshotFiles) -> dict[str, FileMark]:
    return {path.name: _mark(path) for path in _content(files)}


def _content(files: SnapshotFiles) -> list[Path]:
    return [files.memory, files.state, *(files.layers if files.base else (files.overlay,))]


def _mark(path: Path) -> FileMark:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(size.to_bytes(8, "little"))
            for offset, chunk in sparse.chunks(file.fileno()):
                digest.update(offset.to_bytes(8, "little"))
                digest.update(chunk)
    except OSError as error:
        raise SnapshotRefused(f"The snapshot's file {path.name} cannot be read: {error.strerror}") from error
    return FileMark(size, digest.hexdigest())


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
