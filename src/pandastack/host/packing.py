"""What goes into an exported snapshot: the files of its own, and those of what it lies over."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from hashlib import sha256
from pathlib import Path

from pandastack.host import archives, marks, snapshots, sparse
from pandastack.host.archives import Header, Part, Side
from pandastack.host.driver import SnapshotFiles
from pandastack.host.image import DiskRecord
from pandastack.host.kept import EMPTY, HELD_ROOT, RECORD, Kept, checked
from pandastack.host.marks import FileMark
from pandastack.host.paths import IMAGE_RECORD
from pandastack.host.record import read_record
from pandastack.host.seals import Seals

BESIDE = (EMPTY, HELD_ROOT, IMAGE_RECORD)
"""The files of a base that its manifest does not tell of."""


def packed(kept: Kept, files: SnapshotFiles, seals: Seals) -> Generator[bytes, None, None]:
    """The whole file, piece by piece, at most about a MiB each. SnapshotRefused before the first for a file
    that is damaged.
    """
    folders = [files.directory, *([files.base.directory] if files.base else [])]
    for folder in folders:
        for _ in checked(folder):
            pass
    header = _header(kept, folders)
    total = sha256()
    for piece in _pieces(header, folders, seals):
        total.update(piece)
        yield piece
    yield total.digest()


def side_of(folder: Path) -> Side:
    """The files of a snapshot or of a base, but what is noted of it on this host. SnapshotRefused when one
    cannot be read.
    """
    manifest = snapshots.read_manifest(snapshots.files_in(folder))
    beside = [name for name in BESIDE if (folder / name).exists()]
    names = sorted({*manifest.files, *beside} - {RECORD})
    return Side(manifest, tuple(_part(folder / name, manifest.files.get(name)) for name in names))


def _part(path: Path, known: FileMark | None) -> Part:
    if known is not None:
        return Part(path.name, known)
    image = read_record(path.parent / IMAGE_RECORD, DiskRecord)
    if path.name == HELD_ROOT and image is not None:
        return Part(path.name, FileMark(path.stat().st_size), image.content)
    return Part(path.name, marks.mark(path))


def _header(kept: Kept, folders: list[Path]) -> Header:
    sides = [side_of(folder) for folder in folders]
    sizes = [_data_bytes(folder, side) for folder, side in zip(folders, sides, strict=True)]
    prepared = kept.prepared
    return Header(
        report=kept.report,
        template=prepared.template,
        disk_limit_bytes=prepared.any_machine.disk_limit_bytes,
        env=prepared.env,
        workdir=prepared.workdir,
        user=prepared.user,
        guest_ip=prepared.guest_ip,
        own=sides[0],
        own_data_bytes=sizes[0],
        base=sides[1] if sides[1:] else None,
        base_data_bytes=sum(sizes[1:]),
    )


def _data_bytes(folder: Path, side: Side) -> int:
    size = 0
    for part in side.parts:
        with (folder / part.name).open("rb") as file:
            size += sum(length for _, length in sparse.extents(file.fileno()))
    return size


def _pieces(header: Header, folders: list[Path], seals: Seals) -> Iterator[bytes]:
    yield archives.head(header, seals)
    sides = [header.own, *([header.base] if header.base else [])]
    pairs = zip(folders, sides, strict=True)
    paths = [folder / part.name for folder, side in pairs for part in side.parts]
    for number, path in enumerate(paths):
        with path.open("rb", buffering=0) as file:
            yield from archives.frames(number, file)
    yield archives.last_frame()
