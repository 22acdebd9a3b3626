"""The file that a snapshot is exported to: what it needs to be restored on a host that has none of it.

    magic, 8 bytes | length of the header, 4 | seal, 32 | header, JSON | frames … | last frame | SHA-256, 32

The seal is over magic, length and header, and the header has the hash of each chunk of each file: whoever has
checked the seal knows every byte that may follow. A frame is at most a MiB of one file, compressed where that
makes it smaller: number of the file, place in it, size, stored size. Files come one after another, holes and
zeros do not come. The last 32 bytes are over all before them. Numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, TypeVar

import msgspec
from msgspec import Meta, Struct

from pandastack.errors import ArchiveRefused, SnapshotRefused
from pandastack.host import marks, sparse
from pandastack.host.marks import CHUNK, FileMark
from pandastack.host.seals import SEAL_BYTES, Seals
from pandastack.host.snapshots import Manifest
from pandastack.model.host import SnapshotReport
from pandastack.model.image import Template

MAGIC = b"PNDASNP1"
_HEAD = struct.Struct("<8sI32s")
_FRAME = struct.Struct("<HQII")
LAST = 0xFFFF
"""The number of the file in the last frame, which has no data."""
MOST_HEADER = 8 << 20
"""Bytes: the hashes of half a TiB."""
LEVEL = 1
"""Of zlib: a third is left, at 90 MB/s; higher ones are much slower for little."""

Size = Annotated[int, Meta(ge=0, le=1 << 46)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}\Z")]

T = TypeVar("T")
Intake = Generator[int, bytes, T]
"""Reads a file that comes in pieces: yields how many bytes it needs, and is sent them. Fewer are sent once,
at the end, and then it returns or raises.
"""


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """One file. `content` is the hash of what is on a disk whose mark has none."""

    name: Name
    mark: FileMark
    content: str = ""


class Side(Struct, frozen=True, forbid_unknown_fields=True):
    """The files of one folder, with the manifest that lies beside them."""

    manifest: Manifest
    parts: tuple[Part, ...]


class Header(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the file is of; no path of the host that wrote it. `data_bytes` of a side are what its files take
    at most.
    """

    report: SnapshotReport
    template: Template
    disk_limit_bytes: Size
    env: dict[str, str]
    workdir: str | None
    guest_ip: str
    own: Side
    own_data_bytes: Size
    base: Side | None = None
    """What the snapshot lies over."""
    base_data_bytes: Size = 0
    user: str | None = None


class Frame(Struct, frozen=True):
    """Where some data belong, their size, and how many bytes they are stored in."""

    part: int
    offset: int
    size: int
    stored: int

    @property
    def is_last(self) -> bool:
        return self.part == LAST


def head(header: Header, seals: Seals) -> bytes:
    """All before the first frame."""
    data = msgspec.json.encode(header)
    begin = _HEAD.pack(MAGIC, len(data), bytes(SEAL_BYTES))[:-SEAL_BYTES]
    return begin + seals.seal(begin + data) + data


def frames(number: int, file: BinaryIO) -> Iterator[bytes]:
    """The data of one file."""
    for start, length in sparse.extents(file.fileno()):
        end = start + length
        while start < end:
            size = min(end, start - start % sparse.CHUNK + sparse.CHUNK) - start
            file.seek(start)
            data = file.read(size)
            if not sparse.is_nothing(data):
                yield _frame(number, start, data)
            start += size


def _frame(number: int, offset: int, data: bytes) -> bytes:
    packed = zlib.compress(data, LEVEL)
    stored = packed if len(packed) < len(data) else data
    return _FRAME.pack(number, offset, len(data), len(stored)) + stored


def last_frame() -> bytes:
    """What follows the data of all files."""
    return _FRAME.pack(LAST, 0, 0, 0)


class Reader:
    """Takes such a file apart as it comes."""

    def __init__(self) -> None:
        self._total = hashlib.sha256()

    def header(self, seals: Seals) -> Intake[Header]:
        """The header, which is looked at once its seal was checked. ArchiveRefused."""
        begin = yield from self._exactly(_HEAD.size)
        magic, size, seal = _HEAD.unpack(begin)
        if magic != MAGIC:
            raise ArchiveRefused(
                "The file is no exported snapshot, or is of a format that this server does not know."
            )
        if size > MOST_HEADER:
            raise ArchiveRefused(f"The file is damaged: its header would have {size} bytes.")
        data = yield from self._exactly(size)
        seals.check(seal, begin[:-SEAL_BYTES] + data)
        try:
            return msgspec.json.decode(data, type=Header)
        except msgspec.MsgspecError as error:
            raise ArchiveRefused(
                f"The header of the file is not one that this server knows: {error}"
            ) from error

    def frame(self) -> Intake[Frame]:
        """What comes next. ArchiveRefused when it is larger than any frame is."""
        frame = Frame(*_FRAME.unpack((yield from self._exactly(_FRAME.size))))
        if frame.stored > frame.size or frame.size > sparse.CHUNK or (frame.size == 0) != frame.is_last:
            raise ArchiveRefused("The file is damaged: one of its frames has a size that none has.")
        return frame

    def stored(self, frame: Frame) -> Intake[bytes]:
        """What a frame has, as it is stored."""
        return (yield from self._exactly(frame.stored))

    def end(self) -> Intake[None]:
        """ArchiveRefused when what came is not what was written, or when more follows."""
        wanted = self._total.digest()
        if (yield from self._exactly(len(wanted))) != wanted:
            raise ArchiveRefused("The file is damaged: its last bytes are not the hash of those before.")
        if (yield 1):
            raise ArchiveRefused("The file is damaged: something follows its end.")

    def _exactly(self, size: int) -> Intake[bytes]:
        data = yield size
        if len(data) < size:
            raise ArchiveRefused("The file was cut short: it ends before its last frame.")
        self._total.update(data)
        return data


def data_of(frame: Frame, stored: bytes, part: Part) -> bytes:
    """The data of a frame of `part`. ArchiveRefused when they are not of its size."""
    if frame.stored == frame.size:
        return stored
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(stored, frame.size + 1)
    except zlib.error as error:
        raise damaged_at(part, frame.offset) from error
    if len(data) != frame.size or not unpacking.eof or unpacking.unused_data:
        raise damaged_at(part, frame.offset)
    return data


def verify(path: Path, part: Part) -> None:
    """Compare a file that has come with its hashes. ArchiveRefused names the file, and if they tell the
    chunk.
    """
    try:
        if part.content:
            marks.check_size(path, part.mark)
        for _ in (
            marks.checked_content(path, part.content) if part.content else marks.checked(path, part.mark)
        ):
            pass
    except SnapshotRefused as error:
        raise ArchiveRefused(f"The file is damaged: {error.message}", **error.details) from error


def damaged_at(part: Part, offset: int) -> ArchiveRefused:
    """The refusal for one chunk."""
    error = marks.damaged(part.name, offset // CHUNK, part.mark.size)
    return ArchiveRefused(f"The file is damaged: {error.message}", **error.details)
