"""Time as an argument: whoever needs the time is given a clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import Struct


class Clock(Struct, frozen=True):
    """Two readings in seconds: `wall` since 1970 for what people read, `steady` for what must never jump."""

    wall: Callable[[], float]
    steady: Callable[[], float]

    def now(self) -> datetime:
        """The wall clock as an aware UTC datetime."""
        return datetime.fromtimestamp(self.wall(), UTC)
