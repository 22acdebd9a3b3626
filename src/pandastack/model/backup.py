"""A backup: what a volume had at one moment, kept where blobs are."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from msgspec import Struct


class BackupStatus(StrEnum):
    """Where a backup stands. Only from a READY one anything is restored."""

    SAVING = "saving"
    READY = "ready"
    FAILED = "failed"
    DELETING = "deleting"


class Backup(Struct, frozen=True):
    """A backup as its owner sees it. Bytes are those of the disk, but `stored_bytes`."""

    id: str
    volume: str
    """The name of the volume, as that was called then."""
    workspace: str
    status: BackupStatus
    size_mb: int
    """What the volume could hold."""
    created_at: datetime
    """The moment that it is of."""
    total_bytes: int = 0
    """What is to be read; an estimate until it is READY."""
    done_bytes: int = 0
    """So many of them have been."""
    stored_bytes: int = 0
    """What it took in the blob store beyond what was there."""
    digest: str = ""
    """SHA-256 of its manifest, which names every chunk by its own."""
    ended_at: datetime | None = None
    verified_at: datetime | None = None
    """When all of it was last read back."""
    damaged: list[str] = []
    """The chunks that were found wrong then, by their names in the store."""
    error: str | None = None
    code: str | None = None


class Chunk(Struct, frozen=True, array_like=True):
    """Where on the disk a chunk is, and the SHA-256 of its bytes, by which it is kept."""

    offset: int
    length: int
    digest: str


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup is made of. What no chunk tells of is zeros."""

    id: str
    volume: str
    size_mb: int
    created_at: datetime
    chunks: list[Chunk]
    format: int = 1
