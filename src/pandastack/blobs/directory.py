"""Blobs as files of a directory. Each appears whole, and is on the disk before anybody is told that it is
kept.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pandastack.blobs.store import Blob, BlobMissing, checked
from pandastack.errors import BlobsDown, NoSpace

DRAFTS = ".drafts"
"""Where a blob is until it is whole: no name of one begins so."""


class Directory:
    """The blobs below a directory, which is this program's alone."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._drafts = root / DRAFTS

    def open(self) -> None:
        """Make it, and remove what a killed program was writing. BlobsDown."""
        with _said(self._root):
            self._drafts.mkdir(parents=True, exist_ok=True, mode=0o700)
            for draft in self._drafts.iterdir():
                draft.unlink()

    async def put(self, name: str, data: bytes) -> None:
        await asyncio.to_thread(self._put, checked(name), data)

    async def create(self, name: str, data: bytes) -> bool:
        return await asyncio.to_thread(self._create, checked(name), data)

    async def get(self, name: str) -> bytes:
        return await asyncio.to_thread(self._get, checked(name), 0, -1)

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        return await asyncio.to_thread(self._get, checked(name), start, length)

    async def list(self, folder: str) -> AsyncIterator[Blob]:
        for blob in await asyncio.to_thread(self._listed, checked(folder)):
            yield blob

    async def delete(self, name: str) -> None:
        await asyncio.to_thread(self._delete, checked(name))

    def _put(self, name: str, data: bytes) -> None:
        with self._draft(name, data) as (draft, path):
            draft.replace(path)

    def _create(self, name: str, data: bytes) -> bool:
        with self._draft(name, data) as (draft, path):
            try:
                path.hardlink_to(draft)
            except FileExistsError:
                return False
        return True

    @contextmanager
    def _draft(self, name: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """A file with the data, flushed, and where it belongs; that place is flushed after the block."""
        path = self._root / name
        with _said(self._root):
            self._have_folder(path.parent)
            descriptor, draft = tempfile.mkstemp(dir=self._drafts)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(descriptor)
                yield Path(draft), path
                _flush(path.parent)
            finally:
                Path(draft).unlink(missing_ok=True)

    def _have_folder(self, folder: Path) -> None:
        """Make it, and have it outlive the power."""
        if folder.is_dir():
            return
        self._have_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _flush(folder.parent)

    def _get(self, name: str, start: int, length: int) -> bytes:
        with _said(self._root):
            try:
                with (self._root / name).open("rb") as file:
                    file.seek(start)
                    return file.read(length)
            except (FileNotFoundError, IsADirectoryError) as error:
                raise BlobMissing(name) from error

    def _listed(self, folder: str) -> Sequence[Blob]:
        found = []
        with _said(self._root):
            for place, _, names in os.walk(self._root / folder):
                for name in names:
                    path = Path(place) / name
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        found.append(Blob(path.relative_to(self._root).as_posix(), path.stat().st_size))
        return found

    def _delete(self, name: str) -> None:
        path = self._root / name
        with _said(self._root), suppress(FileNotFoundError):
            path.unlink()
            _flush(path.parent)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _said(root: Path) -> Iterator[None]:
    """The system's errors as ours."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"The disk of the blob store {root} is full.") from error
        raise BlobsDown(f"The blob store {root} does not work: {error.strerror or error}.") from error
