"""What a server does by itself, again and again: a list of errands, each in a rhythm of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from msgspec import Struct

from pandastack.errors import PandastackError
from pandastack.telemetry import logger

log = logger("errands")


class Errand(Struct, frozen=True):
    """Something to do every `seconds`; to do it once more never hurts."""

    name: str
    seconds: float
    run: Callable[[], Awaitable[None]]


async def run_errands(errands: Iterable[Errand]) -> None:
    """Run them beside each other until cancelled. One that fails is logged, and its next time comes."""
    async with asyncio.TaskGroup() as group:
        for errand in errands:
            group.create_task(_again_and_again(errand), name=f"errand-{errand.name}")


async def _again_and_again(errand: Errand) -> None:
    while True:
        await asyncio.sleep(errand.seconds)
        try:
            await errand.run()
        except PandastackError as error:
            log.warning("errand.failed", errand=errand.name, error=error.message)
        except Exception:  # a bug in one errand must not end the reaper beside it
            log.exception("errand.crashed", errand=errand.name)
