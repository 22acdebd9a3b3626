"""A file that is written from its beginning to its end, once, and is to be hashed and on the disk soon after.

While one part is filled, the one before it is hashed by another processor and written by the disk: directly,
since pages of the system's cache cost more than that, and nobody reads the file again soon.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from pandastack.host.marks import FileMark, Hashing

PART = 1 << 20
PARTS = 3
"""Bytes of a part, each of which begins at a multiple of them, and how many there are at a time."""


class Growing:
    """A new file at `path`, of a size that is a multiple of a page."""

    def __init__(self, path: Path) -> None:
        self._parts = [_Part() for _ in range(PARTS)]
        self._size = 0
        self._hashing = Hashing()
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._fd = _opened(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for thread in (self._hasher, self._writer):
            thread.shutdown(cancel_futures=True)
        os.close(self._fd)

    def add(self, data: bytes) -> None:
        """What comes next."""
        while data:
            room = self.room()
            ctypes.memmove(self.address(), data[:room], min(room, len(data)))
            self.grown(min(room, len(data)))
            data = data[room:]

    def room(self) -> int:
        """So many bytes of what comes next may be put to `address` at once."""
        return PART - self._size % PART

    def address(self) -> int:
        """Where to put what comes next; `grown` has to be told how much that was."""
        return self._part().address + self._size % PART

    def grown(self, size: int) -> None:
        """So many bytes have been put there. OSError of the disk, also for what came before."""
        part, at = self._part(), self._size - self._size % PART
        self._size += size
        if self._size % PART == 0:
            self._pass_on(part, at, PART)

    def mark(self) -> FileMark:
        """The mark of the whole file, which has been written. OSError."""
        last = self._size % PART
        if last:
            self._pass_on(self._part(), self._size - last, last)
        for part in self._parts:
            part.wait()
        return self._hashing.mark(self._size)

    def _part(self) -> _Part:
        """The one that is being filled, once it is free."""
        part = self._parts[self._size // PART % PARTS]
        part.wait()
        return part

    def _pass_on(self, part: _Part, at: int, size: int) -> None:
        data = part.view(size)
        part.busy = [
            self._writer.submit(_write, self._fd, at, data),
            self._hasher.submit(self._hashing.add, at, data),
        ]


class _Part:
    """A buffer that lies on a page's boundary, and who reads it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, PART)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.busy: list[Future[None]] = []

    def view(self, size: int) -> memoryview:
        return memoryview(self._memory)[:size]

    def wait(self) -> None:
        """Until nobody reads it. OSError when it could not be written."""
        busy, self.busy = self.busy, []
        for reader in busy:
            reader.result()


def _opened(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    path.unlink(missing_ok=True)  # a file system that knows no such writes has made it all the same
    return os.open(path, flags, 0o600)


def _write(fd: int, at: int, data: memoryview) -> None:
    """All of it, or the error why not: a full disk takes a part first and says so at the rest."""
    while data:
        done = os.pwrite(fd, data, at)
        at, data = at + done, data[done:]
