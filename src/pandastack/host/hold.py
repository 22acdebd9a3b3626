"""A hold on what is written to a guest: a snapshot must hold no part of a frame of a tenant's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from pandastack.errors import Conflict

HELD_BYTES = 8 << 20
"""Requests that may wait for the end of a hold. Content is never held: its writers wait instead."""


class Hold:
    """Within `held`, frames that are kept wait in order; at its end they are written."""

    def __init__(self, write: Callable[[Iterable[bytes]], None]) -> None:
        self._write = write
        self._turn = asyncio.Lock()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self.active = False

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """One at a time; who comes second waits for the first."""
        async with self._turn:
            self.active = True
            try:
                yield
            finally:
                self.active = False
                self._flush()

    def admit(self, size: int) -> None:
        """Conflict when a request of so many bytes is more than can wait."""
        if self.active and self._bytes + size > HELD_BYTES:
            raise Conflict("The sandbox is being snapshotted and too much waits for it; try again.")

    def keep(self, frame: bytes) -> None:
        """Let a frame wait for the end of the hold."""
        self._waiting.append(frame)
        self._bytes += len(frame)

    def _flush(self) -> None:
        frames, self._waiting, self._bytes = self._waiting, deque(), 0
        self._write(frames)
