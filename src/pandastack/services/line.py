"""The line before a host: so many at a time, first come first served, nobody refused whom waiting serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Gauge

from pandastack.errors import NoCapacity


class Line:
    """`places` turns at a time; whoever waits longer than `patience` seconds is told to come again."""

    def __init__(self, places: int, patience: float, waiting: Gauge) -> None:
        self._turns = asyncio.Semaphore(places)
        self._patience = patience
        self._waiting = waiting

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Errors: NoCapacity, with nothing done."""
        with self._waiting.track_inprogress():
            try:
                async with asyncio.timeout(self._patience):
                    await self._turns.acquire()
            except TimeoutError as error:
                raise NoCapacity(
                    f"So many sandboxes are being created that this one waited {self._patience:g} s in vain."
                ) from error
        try:
            yield
        finally:
            self._turns.release()
