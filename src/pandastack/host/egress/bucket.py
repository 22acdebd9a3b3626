"""A token bucket: so much a second on average, and a little at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

BURST_SECONDS = 0.1
LEAST_BURST = 1 << 16


class Bucket:
    """`rate` is units a second; None is without end. `steady` is the clock, in seconds."""

    def __init__(self, rate: float | None, burst: float, steady: Callable[[], float]) -> None:
        self.rate = rate
        self.burst = burst
        self._steady = steady
        self._left = burst
        self._at = steady()

    @classmethod
    def of_megabits(cls, megabits: float | None, steady: Callable[[], float]) -> Bucket:
        """One for bytes, at so many megabits a second."""
        bucket = cls(None, LEAST_BURST, steady)
        bucket.limit(megabits)
        return bucket

    def limit(self, megabits: float | None) -> None:
        """Another rate from now on."""
        self._fill()
        self.rate = None if megabits is None else megabits * 125_000
        self.burst = max(LEAST_BURST, (self.rate or 0) * BURST_SECONDS)

    def try_take(self, count: float = 1) -> bool:
        """Take them if they are there."""
        self._fill()
        if self.rate is not None and self._left < count:
            return False
        self._left -= count
        return True

    async def take(self, count: float) -> None:
        """Take them, and wait for as long as that is more than there is. Whoever comes later waits longer."""
        if self.rate is None:
            return
        self._fill()
        self._left -= count
        if self._left < 0:
            await asyncio.sleep(-self._left / self.rate)

    def _fill(self) -> None:
        now = self._steady()
        if self.rate is not None:
            self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
