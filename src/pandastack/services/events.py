"""What happened to a sandbox: read from its rows, followed by cursor, so a slow reader misses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from pandastack.errors import SandboxNotFound
from pandastack.model.account import Caller
from pandastack.model.sandbox import Event
from pandastack.store import events as rows
from pandastack.store import sandboxes
from pandastack.store.db import Database


class Bell:
    """Wakes those who follow a sandbox when something was written about it."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def ring(self, sandbox_id: str) -> None:
        """Wake all who wait now, once."""
        for waiting in self._waiting.pop(sandbox_id, ()):
            waiting.set()

    def expect(self, sandbox_id: str) -> asyncio.Event:
        """An event that the next ring sets. To be asked for before the rows are read."""
        waiting = asyncio.Event()
        self._waiting.setdefault(sandbox_id, set()).add(waiting)
        return waiting

    def leave(self, sandbox_id: str, waiting: asyncio.Event) -> None:
        """Give up waiting; fine when it has been woken."""
        if others := self._waiting.get(sandbox_id):
            others.discard(waiting)
            if not others:
                del self._waiting[sandbox_id]


class Events:
    """The history of sandboxes, also of those that are gone, as long as it is kept."""

    def __init__(self, database: Database, bell: Bell) -> None:
        self._database = database
        self._bell = bell

    async def tail(self, caller: Caller, sandbox_id: str, limit: int) -> list[Event]:
        """The newest `limit`, oldest first. Errors: SandboxNotFound."""
        return [event for _, event in await self._tail(caller, sandbox_id, limit)]

    async def follow(self, caller: Caller, sandbox_id: str, limit: int) -> AsyncIterator[Event]:
        """The newest `limit`, then each as it comes, for ever. Errors: SandboxNotFound, at the first."""
        last = 0
        waiting = self._bell.expect(sandbox_id)
        try:
            fresh = await self._tail(caller, sandbox_id, limit)
            while True:
                for number, event in fresh:
                    last = number
                    yield event
                await waiting.wait()
                waiting = self._bell.expect(sandbox_id)
                fresh = await self._database.read(partial(rows.after, sandbox_id=sandbox_id, number=last))
        finally:
            self._bell.leave(sandbox_id, waiting)

    async def _tail(self, caller: Caller, sandbox_id: str, limit: int) -> list[tuple[int, Event]]:
        found = await self._database.glance(
            partial(sandboxes.find, sandbox_id=sandbox_id, workspace=caller.workspace)
        )
        if found is None:
            raise SandboxNotFound(f"There is no sandbox {sandbox_id}.")
        return await self._database.read(partial(rows.tail, sandbox_id=sandbox_id, limit=limit))
