"""What volumes had, in a blob store: chunks by the hash of their bytes, and manifests that name them.

A chunk is written once however many backups of a workspace have it, and compressed. A manifest comes last,
when all that it names is kept. What is read is hashed again before anybody has it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
import zstandard
from msgspec import Struct

from pandastack.blobs.place import claim
from pandastack.blobs.store import BlobMissing, BlobStore
from pandastack.errors import BackupDamaged
from pandastack.model.backup import Chunk, Manifest
from pandastack.model.host import PIECE, Piece
from pandastack.telemetry import logger

log = logger("chunks")

AT_ONCE = 8
"""Chunks of one backup that are on their way at a time; each takes up to two pieces of memory."""
LEVEL = 3

T = TypeVar("T")
Heard = Callable[[int, int], None]
"""Is told how many bytes of a disk were read since the last time, and how many went to the store for them."""


class Saved(Struct, frozen=True):
    """What a disk has, and how many bytes went to the store for that."""

    chunks: list[Chunk]
    stored_bytes: int


class Chunks:
    """All chunks and manifests of all workspaces, which share none."""

    def __init__(self, blobs: BlobStore, owner: str) -> None:
        self._blobs = blobs
        self._owner = owner
        self._claimed = False

    async def claim(self) -> None:
        """Before anything is written or removed. Errors: Conflict when the store is another server's,
        BlobsDown.
        """
        if not self._claimed:
            await claim(self._blobs, self._owner)
            self._claimed = True

    async def known(self, workspace: str) -> set[str]:
        """The hashes of the chunks that are kept. Errors: BlobsDown."""
        return {_last(each.name) async for each in self._blobs.list(_chunks(workspace))}

    async def save(
        self, workspace: str, pieces: AsyncIterator[Piece], known: set[str], heard: Heard
    ) -> Saved:
        """Keep what of a disk is not `known`, which grows by it. Errors: BlobsDown, NoSpace."""
        chunks, stored = [], 0
        async for some in _together(pieces):
            for chunk, size in await _all([self._save(workspace, piece, known) for piece in some]):
                chunks.append(chunk)
                stored += size
                known.add(chunk.digest)
                heard(chunk.length, size)
        return Saved(chunks, stored)

    async def seal(self, workspace: str, manifest: Manifest) -> str:
        """Keep the manifest of what has been saved; its SHA-256. Errors: BlobsDown, NoSpace, BackupDamaged
        when the store does not give it back.
        """
        data = msgspec.json.encode(manifest)
        digest = hashlib.sha256(data).hexdigest()
        await self._blobs.put(_manifest(workspace, manifest.id), data)
        await self.manifest(workspace, manifest.id, digest)
        return digest

    async def manifest(self, workspace: str, backup_id: str, digest: str) -> Manifest:
        """Errors: BackupDamaged, BlobsDown."""
        name = _manifest(workspace, backup_id)
        try:
            data = await self._blobs.get(name)
        except BlobMissing:
            raise BackupDamaged(f"The manifest of backup {backup_id} is not there.", chunks=[name]) from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise BackupDamaged(f"The manifest of backup {backup_id} is not what was kept.", chunks=[name])
        return msgspec.json.decode(data, type=Manifest)

    async def load(self, workspace: str, chunks: Sequence[Chunk]) -> AsyncGenerator[Piece, None]:
        """The pieces of a disk, each as it was. Errors: BackupDamaged, BlobsDown."""
        for start in range(0, len(chunks), AT_ONCE):
            some = chunks[start : start + AT_ONCE]
            for chunk, data in zip(
                some, await _all([self._load(workspace, each) for each in some]), strict=True
            ):
                if data is None:
                    name = _chunk(workspace, chunk.digest)
                    raise BackupDamaged(f"The chunk {name} is not what was kept.", chunks=[name])
                yield Piece(chunk.offset, data)

    async def damaged(self, workspace: str, chunks: Sequence[Chunk]) -> list[str]:
        """The names of those that are missing or not what was kept; all are read. Errors: BlobsDown."""
        one_each = list({chunk.digest: chunk for chunk in chunks}.values())
        found = []
        for start in range(0, len(one_each), AT_ONCE):
            some = one_each[start : start + AT_ONCE]
            loaded = await _all([self._load(workspace, each) for each in some])
            found += [
                _chunk(workspace, chunk.digest)
                for chunk, data in zip(some, loaded, strict=True)
                if data is None
            ]
        return found

    async def drop(self, workspace: str, backup_id: str) -> None:
        """Remove a manifest; fine when there is none. Errors: BlobsDown."""
        await self._blobs.delete(_manifest(workspace, backup_id))

    async def prune(self, workspace: str) -> int:
        """Remove the chunks that no manifest names; how many. None while a manifest cannot be read: who knows
        what it names. Nobody may save for the workspace meanwhile. Errors: BlobsDown.
        """
        named: set[str] = set()
        async for each in self._blobs.list(_manifests(workspace)):
            try:
                manifest = msgspec.json.decode(await self._blobs.get(each.name), type=Manifest)
            except (BlobMissing, msgspec.DecodeError):
                log.warning("backup.not_pruned", manifest=each.name)
                return 0
            named.update(chunk.digest for chunk in manifest.chunks)
        garbage = [
            each.name async for each in self._blobs.list(_chunks(workspace)) if _last(each.name) not in named
        ]
        for start in range(0, len(garbage), AT_ONCE):
            await _all([self._blobs.delete(name) for name in garbage[start : start + AT_ONCE]])
        return len(garbage)

    async def _save(self, workspace: str, piece: Piece, known: set[str]) -> tuple[Chunk, int]:
        digest, packed = await asyncio.to_thread(_packed, piece.data, known)
        if packed is not None:
            await self._blobs.put(_chunk(workspace, digest), packed)
        return Chunk(piece.offset, len(piece.data), digest), len(packed or b"")

    async def _load(self, workspace: str, chunk: Chunk) -> bytes | None:
        """Its bytes; None when they are not what was kept."""
        try:
            packed = await self._blobs.get(_chunk(workspace, chunk.digest))
        except BlobMissing:
            return None
        return await asyncio.to_thread(_unpacked, packed, chunk)


def _packed(data: bytes, known: set[str]) -> tuple[str, bytes | None]:
    digest = hashlib.sha256(data).hexdigest()
    return digest, None if digest in known else zstandard.ZstdCompressor(level=LEVEL).compress(data)


def _unpacked(packed: bytes, chunk: Chunk) -> bytes | None:
    try:
        if zstandard.frame_content_size(packed) > PIECE:  # it says how much memory it would take
            return None
        data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=PIECE)
    except zstandard.ZstdError:
        return None
    is_same = len(data) == chunk.length and hashlib.sha256(data).hexdigest() == chunk.digest
    return data if is_same else None


async def _together(pieces: AsyncIterator[Piece]) -> AsyncIterator[list[Piece]]:
    some: list[Piece] = []
    async for piece in pieces:
        some.append(piece)
        if len(some) == AT_ONCE:
            yield some
            some = []
    if some:
        yield some


async def _all(work: Sequence[Awaitable[T]]) -> list[T]:
    """What all of it gives; when some of it fails, the first error, and none of it goes on."""
    done = await asyncio.gather(*work, return_exceptions=True)
    results: list[T] = []
    for each in done:
        if isinstance(each, BaseException):
            raise each
        results.append(each)
    return results


def _folder(workspace: str) -> str:
    """A name that leads nowhere else, whatever the workspace is called."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", workspace):
        return f"volumes/w-{workspace}"
    return f"volumes/x-{hashlib.sha256(workspace.encode()).hexdigest()}"


def _chunks(workspace: str) -> str:
    return f"{_folder(workspace)}/chunks"


def _chunk(workspace: str, digest: str) -> str:
    return f"{_chunks(workspace)}/{digest[:2]}/{digest}"


def _manifests(workspace: str) -> str:
    return f"{_folder(workspace)}/backups"


def _manifest(workspace: str, backup_id: str) -> str:
    return f"{_manifests(workspace)}/{backup_id}.json"


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]
