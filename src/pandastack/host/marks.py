"""What a file of a snapshot must be: its size, and a hash of each 4 MiB of it, so that a damage has a place.

A chunk that is a hole or all zeros has no hash, and within a chunk only what is not zero is hashed, with its
place: an image of 512 MiB costs what its data do.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from itertools import groupby, repeat
from pathlib import Path

from msgspec import Struct

from pandastack.errors import SnapshotRefused
from pandastack.host import sparse

CHUNK = 4 << 20
SMALL = 64 << 10
"""Files up to so many bytes are read whole before each restore: the state of the devices is one."""


class FileMark(Struct, frozen=True, omit_defaults=True):
    """The mark of one file. It has `chunks`, or in a manifest of format 1 one `sha256` over all data."""

    size: int
    sha256: str = ""
    chunks: tuple[str, ...] | None = None


class Hashing:
    """The mark of a file that is told once, from its beginning to its end, in parts that begin at a MiB."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._has_data = False
        self._chunks: list[str] = []

    def add(self, offset: int, data: memoryview) -> None:
        """The part that begins at `offset`, where the last one ended."""
        for start in range(0, len(data), sparse.CHUNK):
            at, piece = offset + start, data[start : start + sparse.CHUNK]
            if at // CHUNK > len(self._chunks):
                self._finish()
            if not sparse.is_nothing(piece):
                self._digest.update(at.to_bytes(8, "little"))
                self._digest.update(piece)
                self._has_data = True

    def mark(self, size: int) -> FileMark:
        """Once all of it has been told."""
        if size > len(self._chunks) * CHUNK:
            self._finish()
        return FileMark(size, chunks=tuple(self._chunks))

    def _finish(self) -> None:
        self._chunks.append(self._digest.hexdigest() if self._has_data else "")
        self._digest, self._has_data = hashlib.sha256(), False


def mark(path: Path) -> FileMark:
    """Read a file once. SnapshotRefused when that cannot be done."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return FileMark(size, chunks=tuple(digest for digest, _ in _digests(file.fileno(), size)))
    except OSError as error:
        raise SnapshotRefused(f"{path.name}: cannot be read: {error.strerror}.", file=path.name) from error


def check_size(path: Path, wanted: FileMark) -> None:
    """SnapshotRefused when the file is not there, or was cut or lengthened; costs microseconds."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise SnapshotRefused(f"{path.name}: cannot be read: {error.strerror}.", file=path.name) from error
    if size != wanted.size:
        number = min(size, wanted.size) // CHUNK
        told = f"{path.name}: chunk {number} is not whole: the file has {size} bytes and had {wanted.size}."
        raise SnapshotRefused(told, file=path.name, chunk=number)


def check_quickly(path: Path, wanted: FileMark) -> None:
    """SnapshotRefused for a file of another size, or a small one that is damaged."""
    check_size(path, wanted)
    if wanted.size <= SMALL:
        for _ in checked(path, wanted):
            pass


def checked(path: Path, wanted: FileMark) -> Iterator[int]:
    """Compare a file with its mark, chunk by chunk: yields the bytes of data that each has had.

    SnapshotRefused names the file and the number of the first chunk that is damaged, if the mark tells.
    """
    check_size(path, wanted)
    number = 0
    try:
        with path.open("rb") as file:
            if wanted.chunks is None:
                first = wanted.size.to_bytes(8, "little")
                yield from _checked_whole(file.fileno(), path.name, wanted.sha256, first)
                return
            found = _digests(file.fileno(), wanted.size)
            for number, (digest, size) in enumerate(found):
                if digest != wanted.chunks[number]:
                    raise damaged(path.name, number, wanted.size)
                yield size
    except OSError as error:
        told = f"{path.name}: chunk {number} or the one behind it cannot be read: {error.strerror}."
        raise SnapshotRefused(told, file=path.name, chunk=number) from error


def checked_content(path: Path, sha256: str) -> Iterator[int]:
    """As `checked`, of a disk whose record has one hash of what is on it. SnapshotRefused names the file."""
    try:
        with path.open("rb") as file:
            yield from _checked_whole(file.fileno(), path.name, sha256)
    except OSError as error:
        raise SnapshotRefused(f"{path.name}: cannot be read: {error.strerror}.", file=path.name) from error


def damaged(name: str, number: int, size: int) -> SnapshotRefused:
    """The refusal of a file for one of its chunks."""
    first, last = number * CHUNK, min((number + 1) * CHUNK, size) - 1
    return SnapshotRefused(
        f"{name}: chunk {number} (bytes {first} to {last}) is damaged.", file=name, chunk=number
    )


def _digests(fd: int, size: int) -> Iterator[tuple[str, int]]:
    """Of each chunk of a file of `size` bytes the hash of what is not zero in it, and how much that is."""
    done, chunks = 0, -(-size // CHUNK)
    for number, pieces in groupby(sparse.chunks(fd), lambda piece: piece[0] // CHUNK):
        yield from repeat(("", 0), number - done)
        digest, data = hashlib.sha256(), 0
        for offset, piece in pieces:
            digest.update(offset.to_bytes(8, "little"))
            digest.update(piece)
            data += len(piece)
        yield digest.hexdigest(), data
        done = number + 1
    yield from repeat(("", 0), chunks - done)


def _checked_whole(fd: int, name: str, wanted: str, first: bytes = b"") -> Iterator[int]:
    """One hash over `first` and all data, which tells no place."""
    digest = hashlib.sha256(first)
    for offset, piece in sparse.chunks(fd):
        digest.update(offset.to_bytes(8, "little"))
        digest.update(piece)
        yield len(piece)
    if digest.hexdigest() != wanted:
        raise SnapshotRefused(f"{name} is damaged.", file=name)
