"""Who asked for what: requests that change something outside the rows are noted here and written down in
batches.

A change of a row carries its own entry in its own transaction; this is for the others (commands, files,
refusals), of which at most the last second's are lost with the power.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from functools import partial

from pandastack.errors import PandastackError
from pandastack.model.account import AuditEntry, Caller
from pandastack.model.clock import Clock
from pandastack.store import audit
from pandastack.store.audit import Deed
from pandastack.store.db import Database

KEPT_MOST = 10_000
"""Entries that wait to be written; the oldest is dropped beyond."""
DEFAULT_WINDOW = timedelta(hours=24)


class Trail:
    """The audit of a server."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._waiting: deque[Deed] = deque(maxlen=KEPT_MOST)

    def note(self, caller: Caller, status: int) -> None:
        """A request that changed something, or tried to, was answered."""
        self._waiting.append(Deed(caller, self._clock.now(), status))

    async def since(
        self, caller: Caller, start: datetime | None, limit: int
    ) -> tuple[datetime, list[AuditEntry]]:
        """The newest `limit` entries from `start` (a day ago when None), newest first; and the start."""
        await self.flush()
        begin = start or self._clock.now() - DEFAULT_WINDOW
        query = partial(audit.since, workspace=caller.workspace, start=begin, limit=limit)
        return begin, await self._database.read(query)

    async def flush(self) -> None:
        """Write down what waits; what cannot be written waits on. Errors: NoSpace, InternalError."""
        if self._waiting:
            deeds = [*self._waiting]
            self._waiting.clear()
            try:
                await self._database.write_aside(lambda connection: audit.add(connection, *deeds))
            except PandastackError:
                self._waiting = deque([*deeds, *self._waiting], KEPT_MOST)
                raise
