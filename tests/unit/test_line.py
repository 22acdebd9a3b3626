"""The line before a host."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Gauge

from pandastack.errors import NoCapacity
from pandastack.services.line import Line

pytestmark = pytest.mark.anyio


def line(places: int, patience: float = 5) -> Line:
    return Line(places, patience, Gauge("waiting", "…", registry=CollectorRegistry()))


async def test_first_come_first_served_and_never_more_than_places() -> None:
    queue, inside, order = line(2), 0, []

    async def visit(number: int) -> None:
        nonlocal inside
        async with queue.turn():
            inside += 1
            assert inside <= 2
            order.append(number)
            await asyncio.sleep(0.001)
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(visit(number))
    assert order == list(range(20))


async def test_who_waits_too_long_is_told_to_come_again() -> None:
    queue = line(1, patience=0.02)
    async with queue.turn():
        with pytest.raises(NoCapacity) as caught:
            async with queue.turn():
                pytest.fail("there is one place only")
    assert caught.value.retry_after is not None
    async with queue.turn():
        pass


async def test_who_leaves_the_line_takes_no_place() -> None:
    queue = line(1)

    async def visit() -> None:
        async with queue.turn():
            await asyncio.sleep(10)

    first, second = asyncio.ensure_future(visit()), asyncio.ensure_future(visit())
    await asyncio.sleep(0.01)
    second.cancel()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    async with asyncio.timeout(1), queue.turn():
        pass
