"""What happens with time: idle sandboxes are ended or put to sleep, old history is forgotten."""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct

from pandastack.errors import PandastackError, SandboxNotFound
from pandastack.model.account import Caller, Scope
from pandastack.model.clock import Clock
from pandastack.model.sandbox import OnTimeout, SandboxState
from pandastack.services.activity import Activity, Overdue
from pandastack.services.endings import Endings
from pandastack.services.sleep import Sleep
from pandastack.store import audit, books, events, forks, idempotency, sandboxes, snapshots
from pandastack.store.db import Connection, Database
from pandastack.telemetry import Metrics, logger

log = logger("sweep")


EXCUSED_SECONDS = 60.0
"""After so long it is tried again to put one to sleep that could not be."""


class Reaper:
    """Ends or hibernates sandboxes that idle or live longer than they may."""

    def __init__(self, activity: Activity, endings: Endings, sleep: Sleep, metrics: Metrics) -> None:
        self._activity = activity
        self._endings = endings
        self._sleep = sleep
        self._metrics = metrics

    async def reap(self) -> None:
        """Do what is due with all that are overdue now, the one idling longest first."""
        for found in sorted(self._activity.overdue(), key=lambda each: -each.idle_seconds):
            overdue = self._activity.overdue_one(found.sandbox_id)  # it took a while to come to it
            if overdue is not None:
                await self._reap(overdue)

    async def _reap(self, overdue: Overdue) -> None:
        sandbox_id, cause = overdue.sandbox_id, overdue.cause
        try:
            done = await self._do(overdue)
        except SandboxNotFound:
            self._activity.end(sandbox_id)
            return
        except PandastackError as error:
            self._activity.excuse(sandbox_id, EXCUSED_SECONDS)
            log.warning("sandbox.not_reaped", sandbox_id=sandbox_id, error=error.message)
            return
        if done:
            self._metrics.reaped.inc()
            log.info("sandbox.reaped", sandbox_id=sandbox_id, cause=cause, then=overdue.then)

    async def _do(self, overdue: Overdue) -> bool:
        """Whether it was done; somebody who uses it meanwhile wins."""
        sandbox_id, cause = overdue.sandbox_id, overdue.cause
        if overdue.then is OnTimeout.HIBERNATE:
            reaper = _reaper_of(overdue.workspace, "POST")
            return await self._sleep.hibernate(reaper, sandbox_id, cause, if_overdue=True)
        await self._endings.delete(_reaper_of(overdue.workspace, "DELETE"), sandbox_id, cause)
        return True


def _reaper_of(workspace: str, method: str) -> Caller:
    """Who ends or hibernates what a workspace has left idle."""
    return Caller(workspace, "reaper", Scope.ADMIN, "internal", method=method, path="/reaper")


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
        """Ended sandboxes with their events, Idempotency-Keys, forks and audit entries past their time."""
        now = self._clock.now()
        ended_before = now - timedelta(seconds=self._retention.ended)
        audited_before = now - timedelta(seconds=self._retention.audit)

        def transaction(connection: Connection) -> None:
            for sandbox in sandboxes.listing(connection, [SandboxState.FAILED]):
                if sandbox.ended_at is not None and sandbox.ended_at < ended_before:
                    sandboxes.move(connection, sandbox.id, SandboxState.DELETED)
                    snapshots.doom_with_sandbox(connection, sandbox.id)
            gone = sandboxes.purge(connection, ended_before)
            events.purge(connection, gone)
            books.purge(connection, gone)
            idempotency.purge(connection, ended_before)
            forks.purge(connection, ended_before)
            audit.purge(connection, audited_before)

        await self._database.write(transaction)
