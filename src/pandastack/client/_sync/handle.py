# Made from `../_async/handle.py` by `scripts/unasync`: change that file.
"""`Handle`: the id of a sandbox and the way to its server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pandastack.client import _wire
from pandastack.client._sync.commands import SandboxCommands
from pandastack.client._sync.connection import Connection
from pandastack.client._values import EgressPolicy, take
from pandastack.client._wire import Call


class Handle:
    """What the verbs of a sandbox are made from; a sandbox is a dataclass that descends from this."""

    id: str
    template: str
    cpu: int
    memory_mb: int
    metadata: dict[str, str]
    persistent: bool
    egress: EgressPolicy
    _connection: Connection

    @classmethod
    def from_answer(cls, data: Mapping[str, Any], connection: Connection) -> Self:
        """The sandbox that an answer of the server describes."""
        missing = {"template": _wire.DEFAULT_TEMPLATE, "cpu": 1, "memory_mb": 512, "status": "unknown"}
        return take(cls, {**missing, **data, "_connection": connection})

    @property
    def commands(self) -> SandboxCommands:
        """Its commands and background processes."""
        return SandboxCommands(self._connection, self.id)

    def kill(self) -> None:
        """Destroy it: nothing of it is left but its snapshots. NotFoundError when it was gone already."""
        self._connection.request(Call(method="DELETE", path=self._path))

    @property
    def _path(self) -> str:
        return f"/sandboxes/{_wire.segment(self.id)}"

    def _verb(
        self, method: str, verb: str, body: dict[str, Any] | None = None, *, gap: float | None = None
    ) -> _wire.JSON:
        """The answer to a verb; `gap` is the longest silence in seconds when that is not the client's own."""
        path = f"{self._path}/{verb}"
        return self._connection.request(Call(method=method, path=path, json=body, read_timeout=gap))
