"""What builds say: written down line by line as it comes, and followed by whoever wants to read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from pandastack.carrying import beside
from pandastack.errors import Conflict
from pandastack.model.build import BuildStatus
from pandastack.services.events import Bell
from pandastack.store import builds
from pandastack.store.db import Database

EVERY_SECONDS = 0.2
"""How long a line may wait until it is written."""
LINE_CHARACTERS = 4096
MOST_BYTES = 4 << 20
TOO_MUCH = "… more was said, and is not kept."


class Words:
    """The lines of one build."""

    def __init__(self, database: Database, bell: Bell, build_id: str) -> None:
        self._database = database
        self._bell = bell
        self._build_id = build_id
        self._rest = b""
        self._lines: list[str] = []
        self._number = 0
        self._bytes = 0

    async def add(self, data: bytes) -> None:
        """Take what was printed; a line counts when it has ended."""
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            if line.strip():
                self.line(line.decode(errors="replace"))
        if len(self._rest) > LINE_CHARACTERS:
            self.line(self._rest.decode(errors="replace"))
            self._rest = b""

    def line(self, text: str) -> None:
        """Take one line."""
        if self._bytes > MOST_BYTES:
            return
        self._bytes += len(text)
        self._lines.append(text[:LINE_CHARACTERS] if self._bytes <= MOST_BYTES else TOO_MUCH)

    async def step(self, status: BuildStatus, step: str, **values: object) -> None:
        """Say what is being done. Errors: Conflict when the build was ended meanwhile."""
        self.line(f"— {step}")
        moving = partial(builds.move, build_id=self._build_id, to=status, values={"step": step, **values})
        if not await self._database.write_soon(moving):
            raise Conflict("The build was ended meanwhile.")

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Write them down as they come, while the block lasts and at its end."""
        try:
            async with beside(self._write_on()):
                yield
        finally:
            if self._rest:
                self.line(self._rest.decode(errors="replace"))
            await self.flush()

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write down all lines that have been taken."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        first, self._number = self._number + 1, self._number + len(lines)
        saying = partial(builds.say, build_id=self._build_id, first=first, lines=lines)
        await self._database.write_soon(saying)
        self._bell.ring(self._build_id)
