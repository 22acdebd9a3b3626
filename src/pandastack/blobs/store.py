"""The seam to whatever keeps bytes for long."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct

from pandastack.errors import InternalError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


class BlobMissing(Exception):
    """There is no blob of this name; who asked for it says what that means."""


class Blob(Struct, frozen=True):
    """A blob in a list, with its size in bytes."""

    name: str
    size: int


class BlobStore(Protocol):
    """Whole blobs by name: `/` parts their folders. Each verb raises BlobsDown when the store fails, and
    NoSpace when it is full; then a blob that was being written is not there, or there whole.
    """

    async def put(self, name: str, data: bytes) -> None:
        """Keep it, whatever was kept by that name; it outlives the power when this returns."""
        ...

    async def create(self, name: str, data: bytes) -> bool:
        """As `put`, but only when there is none; whether there was none. Of many at once one does."""
        ...

    async def get(self, name: str) -> bytes:
        """All of it. Errors: BlobMissing."""
        ...

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        """So many bytes of it, fewer at its end. Errors: BlobMissing."""
        ...

    def list(self, folder: str) -> AsyncIterator[Blob]:
        """All below a folder, at any depth, in no order."""
        ...

    async def delete(self, name: str) -> None:
        """Remove it; fine when there is none."""
        ...


def checked(name: str) -> str:
    """The name, which is ours to make: InternalError for one that could lead elsewhere."""
    if not _NAME.fullmatch(name):
        raise InternalError(f"{name!r} is no name of a blob.")
    return name
