"""How sandboxes do: their machines' counters, their guests' own view, their consoles, their boots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from functools import partial
from itertools import groupby

from msgspec import Struct

from pandastack.errors import MachineError
from pandastack.model.account import Caller
from pandastack.model.guest import GuestMetrics
from pandastack.model.host import VmStats
from pandastack.model.sandbox import Sandbox, SandboxState
from pandastack.services.placement import Placement
from pandastack.services.sandboxes import Sandboxes
from pandastack.store import events
from pandastack.store import sandboxes as rows
from pandastack.store.db import Connection, Database

GUEST_SECONDS = 2.0
"""Longest wait for a guest's own view; without it the machine's counters are told alone."""
CONSOLE_SECONDS = 0.25
"""How often a console that is followed is looked at."""
SAMPLES_MOST = 4096
"""Sandboxes whose last CPU sample is remembered."""
BOOTS = 1000
"""So many boots are looked back at."""


class SandboxMetrics(Struct, frozen=True):
    """A machine now. `host_cpu_percent` is since the last asking, or since its start; 100 is one CPU."""

    pid: int
    uptime_seconds: float
    host_cpu_percent: float
    host_rss_bytes: int
    host_vsz_bytes: int
    private_dirty_bytes: int
    threads: int
    guest: GuestMetrics | None = None


class BootFigures(Struct, frozen=True):
    """Milliseconds of `count` boots."""

    count: int
    min_ms: float
    max_ms: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


class Boot(Struct, frozen=True):
    """One boot."""

    sandbox_id: str
    template: str
    boot_mode: str
    boot_ms: int
    ts: datetime


class BootStats(Struct, frozen=True):
    """The last boots, together and by kind."""

    total_samples: int
    window_seconds: float
    overall: BootFigures
    by_mode: dict[str, BootFigures]
    by_template: dict[str, BootFigures]
    recent: list[Boot]


class _Sample(Struct, frozen=True):
    pid: int
    uptime: float
    cpu: float


class Vitals:
    """The verbs that look and change nothing."""

    def __init__(self, sandboxes: Sandboxes, placement: Placement, database: Database) -> None:
        self._sandboxes = sandboxes
        self._placement = placement
        self._database = database
        self._samples: dict[str, _Sample] = {}

    async def metrics(self, caller: Caller, sandbox_id: str) -> SandboxMetrics:
        """A machine's counters now. Errors: SandboxNotFound, Conflict."""
        host = await self._sandboxes.host_for(caller, sandbox_id)
        stats = await self._placement.ordered(host.stats(sandbox_id), "stats")
        return SandboxMetrics(
            pid=stats.pid,
            uptime_seconds=round(stats.uptime_seconds, 3),
            host_cpu_percent=self._cpu_percent(sandbox_id, stats),
            host_rss_bytes=stats.rss_bytes,
            host_vsz_bytes=stats.vsz_bytes,
            private_dirty_bytes=stats.private_dirty_bytes,
            threads=stats.threads,
            guest=await self._guest_view(sandbox_id),
        )

    async def console(self, caller: Caller, sandbox_id: str, tail_bytes: int) -> bytes:
        """The end of its console; of a dead one what was kept of it. Errors: SandboxNotFound, Conflict."""
        found = await self._sandboxes.get(caller, sandbox_id)
        if found.status is SandboxState.FAILED:
            return (await self._database.read(partial(_last_console, sandbox_id=sandbox_id)))[-tail_bytes:]
        host = await self._sandboxes.host_for(caller, sandbox_id)
        return await self._placement.ordered(host.console(sandbox_id, tail_bytes=tail_bytes), "console")

    async def follow_console(self, caller: Caller, sandbox_id: str, tail_bytes: int) -> AsyncIterator[bytes]:
        """The end of its console, then what comes, until the machine is gone. Errors: as `console`."""
        host = await self._sandboxes.host_for(caller, sandbox_id)
        offset = -tail_bytes
        while True:
            offset, data = await self._placement.ordered(host.console_at(sandbox_id, offset), "console")
            if data:
                yield data
            else:
                await asyncio.sleep(CONSOLE_SECONDS)
                await self._sandboxes.host_for(caller, sandbox_id)

    async def boots(self, caller: Caller, recent: int) -> BootStats:
        """How fast the last sandboxes came up, with the newest `recent` one by one."""
        seen = await self._database.read(partial(rows.last_boots, workspace=caller.workspace, limit=BOOTS))
        window = (seen[0].created_at - seen[-1].created_at).total_seconds() if seen else 0.0
        return BootStats(
            total_samples=len(seen),
            window_seconds=window,
            overall=_figures(seen),
            by_mode=_grouped(seen, "boot_mode"),
            by_template=_grouped(seen, "template"),
            recent=[Boot(s.id, s.template, s.boot_mode, s.boot_ms, s.created_at) for s in seen[:recent]],
        )

    async def _guest_view(self, sandbox_id: str) -> GuestMetrics | None:
        try:
            async with asyncio.timeout(GUEST_SECONDS):
                return await self._placement.host_of(sandbox_id).guest(sandbox_id).metrics()
        except (MachineError, TimeoutError):
            return None  # paused or busy: what its machine tells is told all the same

    def _cpu_percent(self, sandbox_id: str, stats: VmStats) -> float:
        last = self._samples.get(sandbox_id)
        if len(self._samples) >= SAMPLES_MOST:
            self._samples.clear()
        self._samples[sandbox_id] = _Sample(stats.pid, stats.uptime_seconds, stats.cpu_seconds)
        if last is None or last.pid != stats.pid:
            last = _Sample(stats.pid, 0.0, 0.0)
        passed = stats.uptime_seconds - last.uptime
        return round(100 * (stats.cpu_seconds - last.cpu) / passed, 1) if passed > 0 else 0.0


def _last_console(connection: Connection, sandbox_id: str) -> bytes:
    told = [event.payload.get("console") for _, event in events.tail(connection, sandbox_id, 20)]
    return next((str(text).encode() for text in reversed(told) if text), b"")


def _grouped(boots: Iterable[Sandbox], name: str) -> dict[str, BootFigures]:
    def key(boot: Sandbox) -> str:
        return str(getattr(boot, name))

    return {kind: _figures(list(group)) for kind, group in groupby(sorted(boots, key=key), key)}


def _figures(boots: list[Sandbox]) -> BootFigures:
    times = sorted(boot.boot_ms for boot in boots)
    if not times:
        return BootFigures(0, 0, 0, 0, 0, 0, 0)
    mean = round(sum(times) / len(times), 2)
    return BootFigures(
        len(times), times[0], times[-1], mean, _at(times, 0.5), _at(times, 0.9), _at(times, 0.99)
    )


def _at(ordered: list[int], quantile: float) -> float:
    return ordered[min(len(ordered) - 1, round(quantile * (len(ordered) - 1)))]
