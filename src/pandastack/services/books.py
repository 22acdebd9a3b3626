"""What sandboxes have reached, kept for as long as they are known: also while they sleep, and behind a crash.

A host counts; here it is written down: before anything that ends a machine or its policy, and of all in turn,
some every few seconds. What a process had counted since then is lost when it is killed; the kernel's counts
are not, as long as the machine lives.
"""

from __future__ import annotations

import asyncio
from collections import deque

from pandastack.errors import PandastackError
from pandastack.model.book import Book, Sighting
from pandastack.model.host import Networks
from pandastack.model.sandbox import AWAKE
from pandastack.services.ledger import Ledger
from pandastack.services.placement import Placement
from pandastack.services.turns import Turns
from pandastack.store import books
from pandastack.store.db import Connection, Database
from pandastack.telemetry import logger

log = logger("books")

AT_A_TIME = 20
"""Sandboxes that are asked in one round: each costs the host a program of some milliseconds."""
LAST_SECONDS = 10.0
"""So long is taken for it when the server ends."""


class Books:
    """The receipts of all sandboxes."""

    def __init__(self, database: Database, ledger: Ledger, placement: Placement) -> None:
        self._database = database
        self._ledger = ledger
        self._placement = placement
        self._turns = Turns()
        self._round: deque[str] = deque()

    async def read(self, sandbox_id: str) -> Book:
        """What is written down."""
        return await self._database.read(lambda connection: books.find(connection, sandbox_id))

    async def gather(self, sandbox_id: str) -> None:
        """Write down what its host knows of one that is awake. Errors: those of the host."""
        if self._placement.report.network is not Networks.SLOTS:
            return
        host = self._placement.host_of(sandbox_id)
        async with self._turns.turn(sandbox_id):  # no life is told of behind the next one
            seen = await self._placement.ordered(host.receipts(sandbox_id), "receipts")
            before = await self.read(sandbox_id)
            if before.noted(seen) != before:
                await self._note(sandbox_id, seen)

    async def gather_quietly(self, sandbox_id: str) -> None:
        """As `gather`; what cannot be had now is not waited for."""
        try:
            await self.gather(sandbox_id)
        except PandastackError as error:
            log.info("receipts.not_gathered", sandbox_id=sandbox_id, error=error.message)

    async def gather_some(self) -> None:
        """Those of whom nothing was written down for longest."""
        if not self._round:
            self._round.extend(sandbox.id for sandbox in await self._ledger.listing(AWAKE))
        for _ in range(min(AT_A_TIME, len(self._round))):
            await self.gather_quietly(self._round.popleft())

    async def gather_all(self) -> None:
        """All that are awake, as far as there is time: the server ends."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                for sandbox in await self._ledger.listing(AWAKE):
                    await self.gather_quietly(sandbox.id)
        except TimeoutError:
            log.warning("receipts.not_all_gathered", seconds=LAST_SECONDS)

    async def _note(self, sandbox_id: str, seen: Sighting) -> None:
        def transaction(connection: Connection) -> None:
            books.keep(connection, sandbox_id, books.find(connection, sandbox_id).noted(seen))

        await self._database.write_soon(transaction)
