"""A sandbox beside the one that attacks, and how long its commands take meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from pandastack.testing.fixtures import eventually
from tests.api.test_kills import ALL

TRIED_AGAIN = pytest.mark.flaky(reruns=2, only_rerun="in peace, .* meanwhile")
"""Others who use this machine are noticed too: a neighbour that was held up has three goes. Nothing else has.
"""
PAUSE_SECONDS = 0.005
"""Between two of its commands."""
ENOUGH = 150
"""Commands from which on their 99th percentile is worth a word."""
MOST = 3.0
"""How many times as long as in peace its slow commands may take."""
LEAST_SECONDS = 0.005
"""What counts as peace at least, so that nobody is noticed who waits less than 15 ms: a tick of the kernel's
clock (4 ms at 250 Hz) each for who asks, the server and the machine, that a fair scheduler may let them wait
for a processor that is busy. Where machines are emulated a command takes that long in peace, and this decides
nothing; a larger figure would hide from quick machines that they are held up ten times as long.
"""


class Neighbour:
    """Commands of one sandbox, one behind the other; what they take in peace and meanwhile, in seconds."""

    def __init__(self, http: httpx2.AsyncClient, sandbox_id: str) -> None:
        self._http = http
        self.id = sandbox_id
        self.peace: list[float] = []
        self.meanwhile: list[float] = []

    async def live(self, commands: int, into: list[float] | None = None) -> None:
        """Run so many."""
        for _ in range(commands):
            await self._run([] if into is None else into)

    @asynccontextmanager
    async def attacked(self) -> AsyncIterator[None]:
        """It lives before the block, while the block lasts, and behind it."""
        await self.live(ENOUGH // 2, self.peace)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._live_on(over))
            yield
            over.set()
        await self.live(ENOUGH // 2, self.peace)

    async def _live_on(self, over: asyncio.Event) -> None:
        while not over.is_set():
            await self._run(self.meanwhile)

    async def _run(self, into: list[float]) -> None:
        begun = time.perf_counter()
        answer = await self._http.post(f"{ALL}/{self.id}/exec", json={"cmd": "echo on"}, timeout=60)
        into.append(time.perf_counter() - begun)
        assert answer.json()["stdout"] == "on\n", answer.text
        await asyncio.sleep(PAUSE_SECONDS)

    @property
    def has_seen_enough(self) -> bool:
        return len(self.meanwhile) >= ENOUGH

    async def sees_enough(self) -> None:
        """Return when it has; an attack goes on so long."""
        await eventually(lambda: self.has_seen_enough, deadline=60)

    def factor(self) -> float:
        """How many times as long as in peace."""
        return times_as_long(self.peace, self.meanwhile)

    def said(self) -> str:
        """In milliseconds, for whoever reads why a test failed."""
        return f"p99 {p99(self.peace) * 1000:.1f} ms in peace, {p99(self.meanwhile) * 1000:.1f} ms meanwhile"


def times_as_long(peace: list[float], meanwhile: list[float]) -> float:
    """Of both the 99th percentile."""
    return p99(meanwhile) / max(p99(peace), LEAST_SECONDS)


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]
