"""`client.snapshots`: states of sandboxes that were kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import cast

import msgspec

from pandastack.client import _wire
from pandastack.client._async.connection import AsyncConnection
from pandastack.client._lineage import Snapshot, snapshot_call
from pandastack.client._pair import opened, pieces_async, put_async, replacing_async
from pandastack.client._wire import Call

Progress = Callable[[int], object]
"""Is told how many bytes have gone so far."""


class AsyncSnapshotsAPI:
    """`client.snapshots`: what `sandbox.snapshot()` has kept. They outlive the sandboxes they are of."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(
        self, sandbox_id: str, *, name: str | None = None, comment: str | None = None
    ) -> Snapshot:
        """Keep a sandbox as it is now; as `sandbox.snapshot()`, which gives the id alone."""
        call = snapshot_call(sandbox_id, name, comment)
        return cast("Snapshot", await self._connection.make(call))

    async def list(self, *, sandbox_id: str | None = None) -> Sequence[Snapshot]:
        """Every snapshot that the key may see, or those of one sandbox; the newest first."""
        call = Call(method="GET", path="/snapshots", params=_wire.query(sandbox_id=sandbox_id))
        answer = await self._connection.request(call)
        found = answer.get("snapshots") if isinstance(answer, dict) else answer
        return [cast("Snapshot", each) for each in found or []]

    async def get(self, snapshot_id: str) -> Snapshot:
        """One snapshot; NotFoundError when there is none of this id."""
        path = f"/snapshots/{_wire.segment(snapshot_id)}"
        return cast("Snapshot", await self._connection.request(Call(method="GET", path=path)))

    async def update(
        self, snapshot_id: str, *, name: str | None = None, comment: str | None = None
    ) -> Snapshot:
        """Give a snapshot another name or comment. A checkpoint that has a name is kept until it is
        deleted.
        """
        path = f"/snapshots/{_wire.segment(snapshot_id)}"
        call = Call(method="PATCH", path=path, json=_wire.clean(name=name, comment=comment))
        return cast("Snapshot", await self._connection.request(call))

    async def delete(self, snapshot_id: str) -> None:
        """Remove a snapshot; what was made from it stays whole. NotFoundError when there is none."""
        path = f"/snapshots/{_wire.segment(snapshot_id)}"
        await self._connection.request(Call(method="DELETE", path=path))

    async def export(
        self, snapshot_id: str, path: str | Path, *, on_progress: Progress | None = None
    ) -> None:
        """Write a snapshot into one file of this machine, with all that a restore of it needs. Needs a key of
        scope admin.

        The path is replaced when the whole file has arrived; an export that fails leaves the old one. Memory
        stays flat whatever its size. `on_progress` is told how many bytes have come.
        """
        call = Call(
            method="GET",
            path=f"/snapshots/{_wire.segment(snapshot_id)}/archive",
            read_timeout=_wire.STREAM_GAP_SECONDS,
        )
        async with self._connection.stream(call) as response, replacing_async(Path(path)) as file:
            async for piece in _noted(response.aiter_bytes(), on_progress):
                await put_async(file, piece)

    async def import_(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        comment: str | None = None,
        on_progress: Progress | None = None,
    ) -> Snapshot:
        """Make a snapshot from a file that `export` has written, on this server or on one whose key it has.
        Needs a key of scope admin.

        BadRequestError for a file that is forged or damaged; nothing of it is kept then. Memory stays flat
        whatever its size. `on_progress` is told how many bytes have gone.
        """
        call = Call(
            method="POST",
            path="/snapshots/archive",
            params=_wire.query(name=name, comment=comment),
            headers={"Content-Type": "application/octet-stream"},
            read_timeout=_wire.STREAM_GAP_SECONDS,
        )
        with opened(Path(path)) as file:
            content = _noted(pieces_async(file), on_progress)
            async with self._connection.stream(call, content=content) as response:
                return cast("Snapshot", msgspec.json.decode(await response.aread()))


async def _noted(pieces: AsyncIterator[bytes], on_progress: Progress | None) -> AsyncIterator[bytes]:
    """The same, told of as they pass."""
    done = 0
    async for piece in pieces:
        yield piece
        done += len(piece)
        if on_progress is not None:
            on_progress(done)
