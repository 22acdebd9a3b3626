"""`client.volumes`: disks that outlive sandboxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pandastack.client import _wire
from pandastack.client._async.connection import AsyncConnection
from pandastack.client._values import Volume
from pandastack.client._wire import Call


class AsyncVolumesAPI:
    """`client.volumes`: the volumes of the workspace, by name."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(self, name: str, size_mb: int = 256) -> Volume:
        """Make an empty volume of so many MiB; refused when there is one of this name."""
        call = Call(method="POST", path="/volumes", json={"name": name, "size_mb": size_mb})
        return cast("Volume", await self._connection.request(call))

    async def list(self) -> Sequence[Volume]:
        """Every volume."""
        answer = await self._connection.request(Call(method="GET", path="/volumes"))
        return [cast("Volume", item) for item in _wire.items_of(answer)]

    async def get(self, name: str) -> Volume:
        """One volume, with who has it; NotFoundError when there is none of this name."""
        call = Call(method="GET", path=f"/volumes/{_wire.segment(name)}")
        return cast("Volume", await self._connection.request(call))

    async def delete(self, name: str) -> None:
        """Remove it and all that is in it; refused while a sandbox has it."""
        call = Call(method="DELETE", path=f"/volumes/{_wire.segment(name)}")
        await self._connection.request(call)
