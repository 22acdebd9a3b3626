"""`client.volumes`: disks that outlive sandboxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pandastack.client import _wire
from pandastack.client._async.connection import AsyncConnection
from pandastack.client._async.files import AsyncFiles
from pandastack.client._values import Backup, Volume
from pandastack.client._wire import Call


class AsyncVolumesAPI:
    """`client.volumes`: the volumes of the workspace, by name."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(
        self,
        name: str,
        size_mb: int | None = None,
        *,
        from_volume: str | None = None,
        from_backup: str | None = None,
    ) -> Volume:
        """Make a volume of so many MiB (256): empty, or with what `from_volume` has now or what a volume had
        at `from_backup` (an id), and that one's size. Refused when there is one of this name.
        """
        body = _wire.clean(name=name, size_mb=size_mb, from_volume=from_volume, from_backup=from_backup)
        return await self._asked("POST", "", body, _wire.BAKE_SECONDS if from_backup else None)

    async def backup(self, name: str) -> Backup:
        """Begin a backup of what it has now: what is written from now on is not in it. `client.backups` tells
        how far it is. Refused while a sandbox writes the volume.
        """
        call = Call(method="POST", path=f"/volumes/{_wire.segment(name)}/backups")
        return cast("Backup", await self._connection.request(call))

    async def backups(self, name: str) -> Sequence[Backup]:
        """The backups of it, there or not, the newest first."""
        call = Call(method="GET", path=f"/volumes/{_wire.segment(name)}/backups")
        return [cast("Backup", item) for item in _wire.items_of(await self._connection.request(call))]

    async def snapshot(self, name: str, to: str) -> Volume:
        """Keep what it has now as the volume `to`, which can be read and copied and is never written. Refused
        while a sandbox writes it.
        """
        return await self._asked("POST", f"/{_wire.segment(name)}/snapshots", {"name": to})

    async def grow(self, name: str, size_mb: int) -> Volume:
        """Have it hold so many MiB; a running sandbox that writes it sees that at once."""
        return await self._asked("PATCH", f"/{_wire.segment(name)}", {"size_mb": size_mb})

    async def list(self) -> Sequence[Volume]:
        """Every volume."""
        answer = await self._connection.request(Call(method="GET", path="/volumes"))
        return [cast("Volume", item) for item in _wire.items_of(answer)]

    async def get(self, name: str) -> Volume:
        """One volume, with who has it; NotFoundError when there is none of this name."""
        return await self._asked("GET", f"/{_wire.segment(name)}")

    def files(self, name: str) -> AsyncFiles:
        """What is on it, for who has no sandbox. Each verb is refused while a sandbox writes it; those that
        write are while one reads it.
        """
        return AsyncFiles(self._connection, f"/volumes/{_wire.segment(name)}/fs")

    async def delete(self, name: str) -> None:
        """Remove it and all that is in it; refused while a sandbox has it."""
        call = Call(method="DELETE", path=f"/volumes/{_wire.segment(name)}")
        await self._connection.request(call)

    async def _asked(
        self, method: str, path: str, body: dict[str, Any] | None = None, seconds: float | None = None
    ) -> Volume:
        call = Call(method=method, path=f"/volumes{path}", json=body, read_timeout=seconds)
        return cast("Volume", await self._connection.request(call))
