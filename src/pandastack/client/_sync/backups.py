# Made from `../_async/backups.py` by `scripts/unasync`: change that file.
"""`client.backups`: what volumes had, kept where the server keeps blobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from pandastack.client import _wire
from pandastack.client._errors import BackupError
from pandastack.client._pair import pause
from pandastack.client._sync.connection import Connection
from pandastack.client._values import Backup
from pandastack.client._wire import Call

WAIT_SECONDS = 3600.0


class BackupsAPI:
    """`client.backups`: the backups of the workspace, by id. `client.volumes.backup` begins one, and
    `client.volumes.create(…, from_backup=…)` restores it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, volume: str | None = None) -> Sequence[Backup]:
        """Every backup, the newest first; of one volume alone, there or not."""
        call = Call(method="GET", path="/backups", params=_wire.query(volume=volume))
        return [cast("Backup", item) for item in _wire.items_of(self._connection.request(call))]

    def get(self, backup_id: str) -> Backup:
        """One backup, with how far it is; NotFoundError when there is none of this id."""
        return self._asked("GET", backup_id)

    def cancel(self, backup_id: str) -> Backup:
        """Give up one that is being saved; fine when it has ended."""
        return self._asked("POST", backup_id, "/cancel")

    def verify(self, backup_id: str) -> Backup:
        """Have all of it read: `damaged` names the chunks that are not what was kept."""
        return self._asked("POST", backup_id, "/verify", _wire.BAKE_SECONDS)

    def delete(self, backup_id: str) -> None:
        """Remove it, and what no other backup needs of it; refused while it is saved or read."""
        self._connection.request(Call(method="DELETE", path=f"/backups/{_wire.segment(backup_id)}"))

    def wait(
        self,
        backup_id: str,
        *,
        on_progress: Callable[[Backup], object] | None = None,
        poll_interval: float = 0.5,
        timeout_seconds: float = WAIT_SECONDS,
    ) -> Backup:
        """The backup when it is ready. BackupError when it failed, or is not ready in time. `on_progress`
        hears how far it is.
        """
        deadline = self._connection.clock() + timeout_seconds
        while True:
            found = self.get(backup_id)
            if on_progress is not None:
                on_progress(found)
            if found["status"] == "ready":
                return found
            if found["status"] != "saving":
                raise BackupError(found["error"] or "The backup failed.", backup=found)
            if self._connection.clock() > deadline:
                raise BackupError(
                    f"Backup {backup_id} is not ready within {timeout_seconds:g} s.", backup=found
                )
            pause(poll_interval, None)

    def _asked(self, method: str, backup_id: str, verb: str = "", seconds: float | None = None) -> Backup:
        path = f"/backups/{_wire.segment(backup_id)}{verb}"
        return cast("Backup", self._connection.request(Call(method=method, path=path, read_timeout=seconds)))
