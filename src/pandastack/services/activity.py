"""When each sandbox was last used. In memory; a restart counts as activity.

A sandbox is in use while any command, stream, terminal or transfer of it lasts, and was used when the last
one ended or when it was last changed. Looking at it is no use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from pandastack.model.clock import Clock


class Idle(Struct, frozen=True):
    """A sandbox that idled longer than it may. Seconds."""

    sandbox_id: str
    idle_seconds: float
    ttl_seconds: int


class _Use(Struct):
    last: float
    ttl_seconds: int | None
    open: int = 0
    changed: bool = True


class Activity:
    """Who is used, and who idled too long."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def begin(self, sandbox_id: str, ttl_seconds: int | None) -> None:
        """Watch it from now on; a `ttl_seconds` of None is never too long."""
        self._uses[sandbox_id] = _Use(self._clock.steady(), ttl_seconds)

    def end(self, sandbox_id: str) -> None:
        """Watch it no longer; fine when nobody does."""
        self._uses.pop(sandbox_id, None)

    def allow(self, sandbox_id: str, ttl_seconds: int | None) -> None:
        """Change how long it may idle, which is a use of it."""
        if use := self._uses.get(sandbox_id):
            use.ttl_seconds = ttl_seconds
            self._touch(use)

    def touch(self, sandbox_id: str) -> None:
        """It was used just now."""
        if use := self._uses.get(sandbox_id):
            self._touch(use)

    @contextmanager
    def using(self, sandbox_id: str) -> Iterator[None]:
        """It is in use until the block ends."""
        use = self._uses.get(sandbox_id)
        if use is None:  # died or deleted meanwhile: nothing to keep awake
            yield
            return
        use.open += 1
        try:
            yield
        finally:
            use.open -= 1
            self._touch(use)

    def idle_seconds(self, sandbox_id: str) -> float:
        """How long it has not been used; 0 while it is."""
        use = self._uses.get(sandbox_id)
        return 0.0 if use is None or use.open else self._clock.steady() - use.last

    def overdue(self) -> list[Idle]:
        """Those that idle longer than they may."""
        now = self._clock.steady()
        return [
            Idle(sandbox_id, now - use.last, use.ttl_seconds)
            for sandbox_id, use in self._uses.items()
            if use.ttl_seconds is not None and not use.open and now - use.last > use.ttl_seconds
        ]

    def take_changes(self) -> dict[str, datetime]:
        """The last use of all that were used since the last call, for the rows."""
        wall, steady = self._clock.now(), self._clock.steady()
        changes = {}
        for sandbox_id, use in self._uses.items():
            if use.changed or use.open:
                idle = 0.0 if use.open else steady - use.last
                changes[sandbox_id] = (wall - timedelta(seconds=idle)).astimezone(UTC)
                use.changed = False
        return changes

    def _touch(self, use: _Use) -> None:
        use.last = self._clock.steady()
        use.changed = True
