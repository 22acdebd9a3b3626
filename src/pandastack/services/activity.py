"""When each sandbox was last used, and how long it may idle and live. In memory; a restart counts as use.

A sandbox is in use while any command, stream, terminal or transfer of it lasts, and was used when the last
one ended or when it was last changed. Looking at it is no use. One that is hibernated is not watched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from msgspec import Struct

from pandastack.model.clock import Clock
from pandastack.model.sandbox import AwakeReason, OnTimeout, Sandbox


class Use(StrEnum):
    """What a sandbox is used for while it lasts."""

    EXEC = "exec"
    STREAM = "stream"
    TERMINAL = "terminal"
    TRANSFER = "transfer"
    CONNECTION = "connection"


class Leash(Struct, frozen=True):
    """How long a sandbox may idle and live from now on, and what comes then. Seconds; None is for ever."""

    idle: int | None
    named: str
    """What its owner calls the limit on idling."""
    then: OnTimeout
    life: float | None
    lifetime: int | None
    after_life: OnTimeout


class Overdue(Struct, frozen=True):
    """A sandbox that idled or lived longer than it may, in words, and what becomes of it."""

    sandbox_id: str
    workspace: str
    idle_seconds: float
    cause: str
    then: OnTimeout


class _Watch(Struct):
    workspace: str
    last: float
    leash: Leash
    end: float | None
    excused: float = 0.0
    changed: bool = True


def leash_of(sandbox: Sandbox, now: datetime) -> Leash:
    """What its lifecycle allows. A persistent one is hibernated when it idles, and never ended for that."""
    lifetime = sandbox.lifetime_seconds
    return Leash(
        idle=sandbox.idle_timeout_seconds if sandbox.persistent else sandbox.ttl_seconds,
        named="idle timeout" if sandbox.persistent else "ttl",
        then=OnTimeout.HIBERNATE if sandbox.persistent else sandbox.on_timeout,
        life=None if lifetime is None else lifetime - sandbox.used_by(now),
        lifetime=lifetime,
        after_life=sandbox.on_timeout,
    )


class Activity:
    """Who is used, and who idled or lived too long."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watches: dict[str, _Watch] = {}
        self._uses: dict[str, list[tuple[Use, float]]] = {}
        """What lasts, and since when: also of one whose watch begins only now, as behind a wake."""

    def begin(self, sandbox: Sandbox) -> None:
        """Watch it from now on; it counts as used just now."""
        leash = leash_of(sandbox, self._clock.now())
        now = self._clock.steady()
        self._watches[sandbox.id] = _Watch(sandbox.workspace, now, leash, _end(now, leash))

    def end(self, sandbox_id: str) -> None:
        """Watch it no longer; fine when nobody does."""
        self._watches.pop(sandbox_id, None)

    def allow(self, sandbox: Sandbox) -> None:
        """Change how long it may idle and live, which is a use of it."""
        if watch := self._watches.get(sandbox.id):
            watch.leash = leash_of(sandbox, self._clock.now())
            watch.end = _end(self._clock.steady(), watch.leash)
            watch.excused = 0.0
            self._touch(watch)

    def touch(self, sandbox_id: str) -> None:
        """It was used just now."""
        if watch := self._watches.get(sandbox_id):
            self._touch(watch)

    @contextmanager
    def using(self, sandbox_id: str, use: Use = Use.EXEC) -> Iterator[None]:
        """It is in use until the block ends."""
        lasting = self._uses.setdefault(sandbox_id, [])
        this = (use, self._clock.steady())
        lasting.append(this)
        try:
            yield
        finally:
            lasting.remove(this)
            if not lasting:
                del self._uses[sandbox_id]
            self.touch(sandbox_id)

    def excuse(self, sandbox_id: str, seconds: float) -> None:
        """What is overdue could not be done: it is overdue again after so long."""
        if watch := self._watches.get(sandbox_id):
            watch.excused = self._clock.steady() + seconds

    def idle_seconds(self, sandbox_id: str) -> float:
        """How long it has not been used; 0 while it is."""
        watch = self._watches.get(sandbox_id)
        return 0.0 if watch is None or sandbox_id in self._uses else self._clock.steady() - watch.last

    def overdue(self) -> list[Overdue]:
        """Those that idle or live longer than they may."""
        return [found for sandbox_id in self._watches if (found := self.overdue_one(sandbox_id)) is not None]

    def overdue_one(self, sandbox_id: str) -> Overdue | None:
        """Whether and why this one is overdue now."""
        watch, now = self._watches.get(sandbox_id), self._clock.steady()
        if watch is None or now < watch.excused:
            return None
        leash, idle = watch.leash, self.idle_seconds(sandbox_id)
        if watch.end is not None and now > watch.end:
            cause = f"its lifetime of {leash.lifetime} s is over"
            return Overdue(sandbox_id, watch.workspace, idle, cause, leash.after_life)
        if leash.idle is not None and idle > leash.idle:
            cause = f"idle for {idle:.0f} s, longer than its {leash.named} of {leash.idle} s"
            return Overdue(sandbox_id, watch.workspace, idle, cause, leash.then)
        return None

    def reasons(self, sandbox_id: str) -> list[AwakeReason]:
        """What keeps it awake now; nothing for one that is not watched."""
        watch = self._watches.get(sandbox_id)
        if watch is None:
            return []
        began: dict[Use, list[float]] = {}
        for use, at in self._uses.get(sandbox_id, ()):
            began.setdefault(use, []).append(at)
        found = [AwakeReason(use, _said(use, len(at)), self._moment(min(at))) for use, at in began.items()]
        leash, idle = watch.leash, self.idle_seconds(sandbox_id)
        if leash.idle is None:
            found.append(AwakeReason("persistent", "It is persistent: its ttl does not end it."))
            found.append(AwakeReason("no_timeout", "It has no idle timeout, so it never sleeps by itself."))
        elif not found and idle <= leash.idle:
            detail = f"It was used {idle:.0f} s ago; its {leash.named} is {leash.idle} s."
            found.append(AwakeReason("recent_use", detail, self._moment(watch.last)))
        return found

    def sleeps_in(self, sandbox_id: str) -> float | None:
        """Seconds until it is put to sleep or ended if it is not used from now on; None for never."""
        watch, now = self._watches.get(sandbox_id), self._clock.steady()
        if watch is None:
            return None
        left = [] if watch.end is None else [watch.end - now]
        if watch.leash.idle is not None and sandbox_id not in self._uses:
            left.append(watch.leash.idle - (now - watch.last))
        return max(0.0, min(left)) if left else None

    def take_changes(self) -> dict[str, datetime]:
        """The last use of all that were used since the last call, for the rows."""
        changes = {}
        for sandbox_id, watch in self._watches.items():
            in_use = sandbox_id in self._uses
            if watch.changed or in_use:
                changes[sandbox_id] = self._moment(self._clock.steady() if in_use else watch.last)
                watch.changed = False
        return changes

    def _moment(self, steady: float) -> datetime:
        ago = timedelta(seconds=self._clock.steady() - steady)
        return (self._clock.now() - ago).astimezone(UTC)

    def _touch(self, watch: _Watch) -> None:
        watch.last = self._clock.steady()
        watch.changed = True


def _end(now: float, leash: Leash) -> float | None:
    return None if leash.life is None else now + leash.life


def _said(use: Use, count: int) -> str:
    noun = "command" if use is Use.EXEC else use.value
    return f"One {noun} lasts." if count == 1 else f"{count} {noun}s last."
