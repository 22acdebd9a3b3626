# Made from `../_async/volumes.py` by `scripts/unasync`: change that file.
"""`client.volumes`: disks that outlive sandboxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pandastack.client import _wire
from pandastack.client._sync.connection import Connection
from pandastack.client._sync.files import Files
from pandastack.client._values import Backup, Volume
from pandastack.client._wire import Call


class VolumesAPI:
    """`client.volumes`: the volumes of the workspace, by name."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
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
        return self._asked("POST", "", body, _wire.BAKE_SECONDS if from_backup else None)

    def backup(self, name: str) -> Backup:
        """Begin a backup of what it has now: what is written from now on is not in it. `client.backups` tells
        how far it is. Refused while a sandbox writes the volume.
        """
        call = Call(method="POST", path=f"/volumes/{_wire.segment(name)}/backups")
        return cast("Backup", self._connection.request(call))

    def backups(self, name: str) -> Sequence[Backup]:
        """The backups of it, there or not, the newest first."""
        call = Call(method="GET", path=f"/volumes/{_wire.segment(name)}/backups")
        return [cast("Backup", item) for item in _wire.items_of(self._connection.request(call))]

    def snapshot(self, name: str, to: str) -> Volume:
        """Keep what it has now as the volume `to`, which can be read and copied and is never written. Refused
        while a sandbox writes it.
        """
        return self._asked("POST", f"/{_wire.segment(name)}/snapshots", {"name": to})

    def grow(self, name: str, size_mb: int) -> Volume:
        """Have it hold so many MiB; a running sandbox that writes it sees that at once."""
        return self._asked("PATCH", f"/{_wire.segment(name)}", {"size_mb": size_mb})

    def list(self) -> Sequence[Volume]:
        """Every volume."""
        answer = self._connection.request(Call(method="GET", path="/volumes"))
        return [cast("Volume", item) for item in _wire.items_of(answer)]

    def get(self, name: str) -> Volume:
        """One volume, with who has it; NotFoundError when there is none of this name."""
        return self._asked("GET", f"/{_wire.segment(name)}")

    def files(self, name: str) -> Files:
        """What is on it, for who has no sandbox. Each verb is refused while a sandbox writes it; those that
        write are while one reads it.
        """
        return Files(self._connection, f"/volumes/{_wire.segment(name)}/fs")

    def delete(self, name: str) -> None:
        """Remove it and all that is in it; refused while a sandbox has it."""
        call = Call(method="DELETE", path=f"/volumes/{_wire.segment(name)}")
        self._connection.request(call)

    def _asked(
        self, method: str, path: str, body: dict[str, Any] | None = None, seconds: float | None = None
    ) -> Volume:
        call = Call(method=method, path=f"/volumes{path}", json=body, read_timeout=seconds)
        return cast("Volume", self._connection.request(call))
