"""`client.snapshots`: states of sandboxes that were kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pandastack.client import _wire
from pandastack.client._async.connection import AsyncConnection
from pandastack.client._lineage import Snapshot, snapshot_call
from pandastack.client._wire import Call


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
