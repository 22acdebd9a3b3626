"""What happens with time: idle sandboxes are deleted, old history is forgotten."""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct

from pandastack.errors import PandastackError, SandboxNotFound
from pandastack.model.account import Caller, Scope
from pandastack.model.clock import Clock
from pandastack.model.sandbox import SandboxState
from pandastack.services.activity import Activity, Idle
from pandastack.services.sandboxes import Sandboxes
from pandastack.store import audit, events, idempotency, sandboxes
from pandastack.store.db import Connection, Database
from pandastack.telemetry import Metrics, logger

log = logger("sweep")


class Reaper:
    """Deletes sandboxes that idle longer than their ttl."""

    def __init__(self, workspace: str, activity: Activity, sandboxes: Sandboxes, metrics: Metrics) -> None:
        self._activity = activity
        self._sandboxes = sandboxes
        self._metrics = metrics
        self._self = Caller(workspace, "reaper", Scope.ADMIN, "internal", method="DELETE", path="/reaper")

    async def reap(self) -> None:
        """Delete all that are overdue now, the one idling longest first."""
        for idle in sorted(self._activity.overdue(), key=lambda idle: -idle.idle_seconds):
            await self._delete(idle)

    async def _delete(self, idle: Idle) -> None:
        cause = f"idle for {idle.idle_seconds:.0f} s, longer than its ttl of {idle.ttl_seconds} s"
        self._activity.end(idle.sandbox_id)  # a delete that hangs is settled elsewhere, not reaped twice
        try:
            await self._sandboxes.delete(self._self, idle.sandbox_id, cause)
        except SandboxNotFound:
            return
        except PandastackError as error:
            log.warning("sandbox.not_reaped", sandbox_id=idle.sandbox_id, error=error.message)
            return
        self._metrics.reaped.inc()
        log.info("sandbox.reaped", sandbox_id=idle.sandbox_id, cause=cause)


class Retention(Struct, frozen=True):
    """How long what is over stays askable. Seconds."""

    ended: float
    audit: float


class Purge:
    """Forgets what was kept long enough."""

    def __init__(self, database: Database, clock: Clock, retention: Retention) -> None:
        self._database = database
        self._clock = clock
        self._retention = retention

    async def purge(self) -> None:
        """Ended sandboxes with their events, Idempotency-Keys and audit entries past their time."""
        now = self._clock.now()
        ended_before = now - timedelta(seconds=self._retention.ended)
        audited_before = now - timedelta(seconds=self._retention.audit)

        def transaction(connection: Connection) -> None:
            for sandbox in sandboxes.listing(connection, [SandboxState.FAILED]):
                if sandbox.ended_at is not None and sandbox.ended_at < ended_before:
                    sandboxes.move(connection, sandbox.id, SandboxState.DELETED)
            events.purge(connection, sandboxes.purge(connection, ended_before))
            idempotency.purge(connection, ended_before)
            audit.purge(connection, audited_before)

        await self._database.write(transaction)
