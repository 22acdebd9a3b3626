"""Sparse files: only what was written is read, copied and hashed.

A chunk that is all zeros counts as a hole, so that a copy which fills or makes holes has the same hash.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 20
_ZEROS = bytes(CHUNK)
_HEAD = 4096


def extents(fd: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is no hole, in order."""
    end = os.fstat(fd).st_size
    position = 0
    while position < end:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        position = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, position - start


def chunks(fd: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of every aligned MiB that is not all zeros."""
    done = 0
    for start, length in extents(fd):
        first = max(done, start - start % CHUNK)
        for offset in range(first, start + length, CHUNK):
            chunk = os.pread(fd, CHUNK, offset)
            done = offset + CHUNK
            if not is_nothing(chunk):
                yield offset, chunk


def is_nothing(chunk: bytes | memoryview) -> bool:
    """Whether at most a MiB is all zeros; the first page mostly tells that it is not."""
    head = bytes(chunk[:_HEAD])
    return head == _ZEROS[: len(head)] and bytes(chunk) == _ZEROS[: len(chunk)]


def copy(source: Path, target: Path) -> None:
    """Copy data and leave holes; a clone of extents where the file system has it."""
    with source.open("rb") as reader, target.open("xb") as writer:
        size = os.fstat(reader.fileno()).st_size
        os.ftruncate(writer.fileno(), size)
        for start, length in extents(reader.fileno()):
            _copy_range(reader.fileno(), writer.fileno(), start, length)


def _copy_range(reader: int, writer: int, start: int, length: int) -> None:
    end = start + length
    while start < end:
        copied = _copy_some(reader, writer, start, end - start)
        if copied == 0:
            return
        start += copied


def _copy_some(reader: int, writer: int, start: int, length: int) -> int:
    """Within the kernel where it can; between two kinds of file systems the bytes pass by here."""
    try:
        return os.copy_file_range(reader, writer, length, start, start)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return os.pwrite(writer, os.pread(reader, min(length, CHUNK), start), start)
