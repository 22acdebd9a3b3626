"""Snapshots that leave a host as one file, and that come to it as one.

Whatever is done with files is done in threads, about a MiB at a time; who is cancelled waits for the thread
that works for it, so that nothing is written behind its back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Generic, TypeVar

from pandastack.carrying import carried_through
from pandastack.host.archives import Intake
from pandastack.host.driver import Driver
from pandastack.host.kept import Kept
from pandastack.host.packing import packed
from pandastack.host.seals import Seals
from pandastack.host.shortage import told
from pandastack.host.templates import Templates
from pandastack.host.unpacking import Unpacking
from pandastack.host.vault import Vault
from pandastack.host.vm import check_id
from pandastack.model.host import ImportSpec, SnapshotReport

BATCH = 1 << 20
"""Bytes that are gathered before a thread looks at them."""

T = TypeVar("T")


class Freight:
    """Exports from one vault and imports into it."""

    def __init__(self, vault: Vault, templates: Templates, driver: Driver, seals: Seals) -> None:
        self._vault = vault
        self._templates = templates
        self._driver = driver
        self._seals = seals

    @asynccontextmanager
    async def export_snapshot(self, snapshot_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `model.host.Host.export_snapshot`."""
        check_id(snapshot_id)
        kept, files = self._vault.whole(snapshot_id)
        pieces = packed(kept, files, self._seals)
        try:
            first = await _in_thread(partial(_piece, pieces))
            yield _all(first, pieces)
        finally:
            await _in_thread(pieces.close)

    async def import_snapshot(self, spec: ImportSpec, content: AsyncIterator[bytes]) -> SnapshotReport:
        """See `model.host.Host.import_snapshot`."""
        check_id(spec.id)
        if known := self._vault.find(spec.id):
            return known
        unpacking = Unpacking(spec, self._vault, self._templates, self._driver, self._seals)
        with self._vault.arriving() as arrived:
            try:
                kept = await _taken_in(unpacking.run(), content)
            except BaseException as error:
                await self._vault.drop(spec.id)  # it may have got its name
                if isinstance(error, OSError):
                    raise told(error, "The snapshot could not be imported") from error
                raise
            arrived(kept)
        return kept.report


async def _taken_in(intake: Intake[Kept], content: AsyncIterator[bytes]) -> Kept:
    """What an intake returns that is fed with `content`; closed on any error."""
    feed = _Feed(intake)
    try:
        async with aclosing(_gathered(content)) as batches:
            async for batch in batches:
                await _in_thread(partial(feed.add, batch))
        return await _in_thread(feed.end)
    finally:
        await _in_thread(intake.close)


class _Feed(Generic[T]):
    """Gives an intake what it asks for of bytes that come in pieces of any size."""

    def __init__(self, intake: Intake[T]) -> None:
        self._intake = intake
        self._wanted = next(intake)
        self._held = bytearray()

    def add(self, data: bytes) -> None:
        """Some more. Errors: the intake's own."""
        self._held += data
        while len(self._held) >= self._wanted:
            self._wanted = self._intake.send(self._taken())

    def end(self) -> T:
        """What the intake returns when nothing more comes. Errors: its own."""
        try:
            self._intake.send(self._taken())
        except StopIteration as ended:
            found: T = ended.value
            return found
        raise AssertionError("An intake ends with the end of what it is given.")

    def _taken(self) -> bytes:
        taken = bytes(self._held[: self._wanted])
        del self._held[: self._wanted]
        return taken


async def _gathered(content: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The same in larger pieces."""
    batch = bytearray()
    async for piece in content:
        batch += piece
        if len(batch) >= BATCH:
            yield bytes(batch)
            batch.clear()
    if batch:
        yield bytes(batch)


async def _all(first: bytes, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    piece = first
    while piece:
        yield piece
        piece = await _in_thread(partial(_piece, pieces))


def _piece(pieces: Iterator[bytes]) -> bytes:
    """The next one; nothing behind the last."""
    try:
        return next(pieces, b"")
    except OSError as error:
        raise told(error, "The snapshot could not be exported") from error


async def _in_thread(work: Callable[[], T]) -> T:
    """Its result; whoever is cancelled goes on when it has ended."""
    return await carried_through(asyncio.to_thread(work))
