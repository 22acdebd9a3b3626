"""Work that is never left in the middle, and work that lasts as long as something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import structlog

log = structlog.get_logger("background")
T = TypeVar("T")


@asynccontextmanager
async def beside(*jobs: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run `jobs` while the block lasts; at its end they are cancelled, and have ended when it is left. One
    that fails is told then, and ends none of the others.
    """
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await carried_through(asyncio.gather(*tasks, return_exceptions=True)):
            if isinstance(outcome, Exception):
                log.critical("background.crashed", exc_info=outcome)


async def carried_through(work: Awaitable[T]) -> T:
    """Its result. Whoever is cancelled meanwhile, however often, goes on when it has ended.

    How it ended is heard in any case: the event loop takes an error that nobody asks for as a fault.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise


async def undone(task: asyncio.Task[Any]) -> None:
    """Cancel it and return when it has ended; by however many at once.

    It is cancelled once: what it does then to leave nothing behind must not be broken off.
    """
    if not task.cancelling():
        task.cancel()
    await carried_through(asyncio.gather(task, return_exceptions=True))


def unless_cancelled(error: Exception) -> None:
    """Within the handler of an error that a task goes on behind: it does not when somebody has cancelled it,
    whatever came of that on the way out.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError from error
