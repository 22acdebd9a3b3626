"""Snapshots on disk: one directory with four files, the manifest last, published by a rename.

A damaged memory image restores silently and an empty state file hangs a VMM for ever, so the manifest carries
the size of each file and hashes of its parts. Sizes are checked before each restore; hashes before a host
first uses a snapshot, and now and then: hashing at each restore would cost a second a GiB.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec import Struct, structs

from pandastack.errors import SnapshotRefused
from pandastack.host import layers, marks
from pandastack.host.driver import Machinery, SnapshotFiles
from pandastack.host.marks import FileMark
from pandastack.host.publish import flush

FORMAT = 2


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """`snapshot.json`. Sizes in MiB and bytes."""

    machinery: Machinery
    image: str
    cpus: int
    memory_mb: int
    files: dict[str, FileMark]
    base: str | None = None
    """The name of the whole snapshot that this one's pages and layers lie over."""
    format: int = FORMAT
    """1 had one hash a file, and no seal."""
    seal: str = ""
    """The hash of the manifest itself, with this left empty."""


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


async def seal(
    files: SnapshotFiles,
    machinery: Machinery,
    image: str,
    cpus: int,
    memory_mb: int,
    *,
    also: tuple[Path, ...] = (),
    known: Mapping[str, FileMark] = MappingProxyType({}),
) -> Manifest:
    """Hash the files but those that are `known`, and `also` what lies beside them, then write the manifest; a
    snapshot without one does not exist. All of it is flushed.
    """
    content = [*_content(files), *also]
    async with asyncio.TaskGroup() as group:  # the disk writes while the processor hashes
        marking = group.create_task(asyncio.to_thread(_marks, content, known))
        group.create_task(asyncio.to_thread(_flush_all, content))
    base = files.base.directory.name if files.base else None
    manifest = Manifest(machinery, image, cpus, memory_mb, marking.result(), base)
    manifest = sealed(manifest)
    await asyncio.to_thread(_write_flushed, files.manifest, msgspec.json.encode(manifest))
    return manifest


def sealed(manifest: Manifest) -> Manifest:
    """The same with the seal that belongs to it."""
    open_one = structs.replace(manifest, seal="")
    return structs.replace(open_one, seal=hashlib.sha256(msgspec.json.encode(open_one)).hexdigest())


def read_manifest(files: SnapshotFiles) -> Manifest:
    """SnapshotRefused when it is missing, damaged or not one of ours."""
    name = f"{files.directory.name}: {files.manifest.name}"
    details = {"file": files.manifest.name}
    try:
        manifest = msgspec.json.decode(files.manifest.read_bytes(), type=Manifest)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise SnapshotRefused(f"{name} is no valid manifest: {error}", **details) from error
    if manifest.format not in (1, FORMAT):
        raise SnapshotRefused(f"{name} is of a format that this program does not know.", **details)
    if manifest.format == FORMAT and manifest != sealed(manifest):
        raise SnapshotRefused(f"{name} is damaged.", **details)
    return manifest


def check_fits(manifest: Manifest, machinery: Machinery) -> None:
    """SnapshotRefused with what differs, before anything is started."""
    for name in Machinery.__struct_fields__:
        made, here = getattr(manifest.machinery, name), getattr(machinery, name)
        if made != here:
            raise SnapshotRefused(
                f"The snapshot was made with {name} {made!r}, this host has {here!r}: bake it again."
            )


def check_sizes(files: SnapshotFiles, manifest: Manifest) -> None:
    """SnapshotRefused when a file was cut, is gone, or is small and damaged: of the snapshot or of its
    base.
    """
    for name, mark in manifest.files.items():
        with named(files.directory):
            marks.check_quickly(files.directory / name, mark)
    if files.base is not None:
        check_sizes(files.base, read_manifest(files.base))


async def verify_disk(files: SnapshotFiles) -> None:
    """Hash what a machine that boots with the snapshot's disk has of it; SnapshotRefused as `verify`."""
    await asyncio.to_thread(_verify_disk, files)


def _verify_disk(files: SnapshotFiles) -> None:
    whole = files.base or files
    for each, paths in ((files, files.layers), (whole, (whole.overlay,))):
        manifest = read_manifest(each)
        for path in paths:
            with named(each.directory):
                for _ in marks.checked(path, manifest.files[path.name]):
                    pass


async def verify(files: SnapshotFiles, manifest: Manifest) -> None:
    """Hash everything against the manifest; SnapshotRefused names the damaged file and part."""
    await asyncio.to_thread(lambda: sum(checked(files.directory, manifest)))


def checked(directory: Path, manifest: Manifest) -> Iterator[int]:
    """Compare the files of a snapshot with its manifest: yields the bytes of data of each part.

    SnapshotRefused names the first file and chunk that are damaged.
    """
    for name, mark in manifest.files.items():
        with named(directory):
            yield from marks.checked(directory / name, mark)


@contextmanager
def named(directory: Path) -> Iterator[None]:
    """A refusal of a file within the block tells whose file it is."""
    try:
        yield
    except SnapshotRefused as error:
        raise SnapshotRefused(f"{directory.name}: {error.message}", **error.details) from error


def _marks(paths: list[Path], known: Mapping[str, FileMark]) -> dict[str, FileMark]:
    return {path.name: known.get(path.name) or marks.mark(path) for path in paths}


def _flush_all(paths: list[Path]) -> None:
    for path in paths:
        flush(path)


def _content(files: SnapshotFiles) -> list[Path]:
    return [files.memory, files.state, *(files.layers if files.base else (files.overlay,))]


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
